"""The functions a formula may use, so that one formula serves the interpreter (numpy) and the kernels (TVM).

`maximum` and `minimum` propagate NaN, as PyTorch and ONNX do. Numbers in a formula are written `m.like(number, x)`, so
that float16 stays float16. An operand that a formula uses several times goes through `m.let`: in a kernel the operand
may be a long fused expression, and every use repeats it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from cnncc.ir.dtype import NUMPY


class Math(Protocol):
    """What formulas see as `m`. Operators + - * / and comparisons work on the elements themselves."""

    def let(self, x: Any, body: Callable[[Any], Any]) -> Any: ...
    def exp(self, x: Any) -> Any: ...
    def expm1(self, x: Any) -> Any: ...
    def log1p(self, x: Any) -> Any: ...
    def tan(self, x: Any) -> Any: ...
    def asin(self, x: Any) -> Any: ...
    def acos(self, x: Any) -> Any: ...
    def atan(self, x: Any) -> Any: ...
    def sinh(self, x: Any) -> Any: ...
    def cosh(self, x: Any) -> Any: ...
    def asinh(self, x: Any) -> Any: ...
    def acosh(self, x: Any) -> Any: ...
    def atanh(self, x: Any) -> Any: ...
    def log(self, x: Any) -> Any: ...
    def tanh(self, x: Any) -> Any: ...
    def erf(self, x: Any) -> Any: ...
    def sigmoid(self, x: Any) -> Any: ...
    def sqrt(self, x: Any) -> Any: ...
    def sin(self, x: Any) -> Any: ...
    def cos(self, x: Any) -> Any: ...
    def abs(self, x: Any) -> Any: ...
    def floor(self, x: Any) -> Any: ...
    def ceil(self, x: Any) -> Any: ...
    def round(self, x: Any) -> Any: ...
    def power(self, x: Any, y: Any) -> Any: ...
    def maximum(self, x: Any, y: Any) -> Any: ...
    def minimum(self, x: Any, y: Any) -> Any: ...
    def where(self, condition: Any, x: Any, y: Any) -> Any: ...
    def logical_and(self, x: Any, y: Any) -> Any: ...
    def logical_or(self, x: Any, y: Any) -> Any: ...
    def logical_not(self, x: Any) -> Any: ...
    def equal(self, x: Any, y: Any) -> Any: ...
    def not_equal(self, x: Any, y: Any) -> Any: ...
    def isnan(self, x: Any) -> Any: ...
    def isinf(self, x: Any) -> Any: ...
    def modulo(self, x: Any, y: Any) -> Any: ...
    def remainder(self, x: Any, y: Any) -> Any: ...
    def cast(self, x: Any, dtype: str) -> Any: ...
    def divide(self, x: Any, y: Any) -> Any: ...
    def like(self, value: float, x: Any) -> Any: ...


_erf = np.vectorize(math.erf, otypes=[np.float64])


class NumpyMath:
    """`Math` on numpy arrays."""

    exp = staticmethod(np.exp)
    expm1 = staticmethod(np.expm1)
    log1p = staticmethod(np.log1p)
    tan = staticmethod(np.tan)
    asin = staticmethod(np.arcsin)
    acos = staticmethod(np.arccos)
    atan = staticmethod(np.arctan)
    sinh = staticmethod(np.sinh)
    cosh = staticmethod(np.cosh)
    asinh = staticmethod(np.arcsinh)
    acosh = staticmethod(np.arccosh)
    atanh = staticmethod(np.arctanh)
    log = staticmethod(np.log)
    tanh = staticmethod(np.tanh)
    sqrt = staticmethod(np.sqrt)
    sin = staticmethod(np.sin)
    cos = staticmethod(np.cos)
    abs = staticmethod(np.abs)
    floor = staticmethod(np.floor)
    ceil = staticmethod(np.ceil)
    round = staticmethod(np.round)
    power = staticmethod(np.power)
    maximum = staticmethod(np.maximum)
    minimum = staticmethod(np.minimum)
    where = staticmethod(np.where)
    logical_and = staticmethod(np.logical_and)
    logical_or = staticmethod(np.logical_or)
    logical_not = staticmethod(np.logical_not)
    equal = staticmethod(np.equal)
    not_equal = staticmethod(np.not_equal)
    isnan = staticmethod(np.isnan)
    isinf = staticmethod(np.isinf)
    modulo = staticmethod(np.mod)
    remainder = staticmethod(np.fmod)

    @staticmethod
    def let(x: np.ndarray, body: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """body(x)."""
        return body(x)

    @staticmethod
    def erf(x: np.ndarray) -> np.ndarray:
        """The error function (libm's, element by element)."""
        return _erf(x).astype(np.asarray(x).dtype) if np.size(x) else np.asarray(x)

    @staticmethod
    def sigmoid(x: np.ndarray) -> np.ndarray:
        """1 / (1 + exp(-x)), without overflow."""
        e = np.exp(-np.abs(x))
        return np.asarray(np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(np.asarray(x).dtype))

    @staticmethod
    def cast(x: np.ndarray, dtype: str) -> np.ndarray:
        """Conversion as in C: towards zero for float to integer."""
        return np.asarray(x).astype(NUMPY[dtype])

    @staticmethod
    def divide(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Division; integers truncate towards zero, as ONNX and C do."""
        if np.issubdtype(np.asarray(x).dtype, np.integer):
            x, y = np.asarray(x), np.asarray(y)
            safe = np.where(y == 0, 1, y)
            quotient = np.abs(x) // np.abs(safe)
            return np.where(y == 0, 0, quotient * np.sign(x) * np.sign(safe)).astype(x.dtype)
        return np.asarray(np.divide(x, y))

    @staticmethod
    def like(value: float, x: np.ndarray) -> np.ndarray:
        """A number in the dtype of x."""
        return np.asarray(value, dtype=np.asarray(x).dtype)
