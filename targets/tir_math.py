"""The functions of formulas (`cnncc.ops.math.Math`) on TVM expressions, correct on every target.

Targets subclass it where they have something faster (polynomials on CPUs, native max on GPUs).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from cnncc.ops.lowering import TVM_DTYPE

Expr = Any

_LOAD = "te.tensor_load"
_INLINE = 4  # operations that may be repeated rather than bound to a variable: LLVM and nvcc merge them again


def dtype_of(x: Expr) -> str:
    """TVM's name of an expression's element type."""
    return str(x.ty.dtype)


def _is_float(x: Expr) -> bool:
    return "float" in dtype_of(x)


def _operations(x: Expr, limit: int) -> int:
    """Number of operations in an expression, loads and constants not counted; stops counting above the limit."""
    from tvm import ir, tirx

    if isinstance(x, (tirx.Var, tirx.IntImm, tirx.FloatImm)) or (isinstance(x, ir.Call) and x.op.name == _LOAD):
        return 0
    if isinstance(x, (tirx.Add, tirx.Sub, tirx.Mul)):
        left = _operations(x.a, limit)
        return left + 1 + (_operations(x.b, limit - left - 1) if left < limit else 0)
    if isinstance(x, tirx.Cast):
        return 1 + _operations(x.value, limit - 1)
    return limit + 1


class TirMath:
    """`Math` on TVM expressions. Functions of floats take floats; the operators of Python work on expressions too."""

    def let(self, x: Expr, body: Callable[[Expr], Expr]) -> Expr:
        """`body(x)`, with x computed once however often `body` uses it."""
        from tvm import tirx

        x = tirx.convert(x)
        if _operations(x, _INLINE) <= _INLINE:
            return body(x)
        name = tirx.Var("v", x.ty)
        return tirx.Let(name, x, body(name))

    def like(self, value: float, x: Expr) -> Expr:
        """A number in the dtype of x."""
        from tvm import tirx

        return tirx.const(value, dtype_of(x))

    def cast(self, x: Expr, dtype: str) -> Expr:
        """Conversion as in C: towards zero for float to integer; to bool, whether x is not 0."""
        from tvm import tirx

        wanted = TVM_DTYPE[dtype]
        if dtype_of(x) == wanted:
            return x
        return self.not_equal(x, self.like(0, x)) if wanted == "bool" else tirx.Cast(wanted, x)

    # -- selection ------------------------------------------------------------------------------------------------

    def where(self, condition: Expr, x: Expr, y: Expr) -> Expr:
        """x where the condition holds, else y; both are evaluated."""
        from tvm import tirx

        return tirx.Select(tirx.convert(condition), x, y)

    def maximum(self, x: Expr, y: Expr) -> Expr:
        """The larger of two; NaN where either is NaN."""
        from tvm import tirx

        if not _is_float(x):
            return tirx.max(x, y)
        if _is_number(y):  # a comparison with NaN is false, so that x stays
            return self.let(x, lambda v: tirx.Select(v < y, y, v))
        if _is_number(x):
            return self.maximum(y, x)
        return self.let(x, lambda v: self.let(y, lambda w: _unless_nan(v, tirx.Select(v > w, v, w))))

    def minimum(self, x: Expr, y: Expr) -> Expr:
        """The smaller of two; NaN where either is NaN."""
        from tvm import tirx

        if not _is_float(x):
            return tirx.min(x, y)
        if _is_number(y):
            return self.let(x, lambda v: tirx.Select(v > y, y, v))
        if _is_number(x):
            return self.minimum(y, x)
        return self.let(x, lambda v: self.let(y, lambda w: _unless_nan(v, tirx.Select(v < w, v, w))))

    def logical_and(self, x: Expr, y: Expr) -> Expr:
        """Both of two bools."""
        from tvm import tirx

        return tirx.And(tirx.convert(x), tirx.convert(y))

    def logical_or(self, x: Expr, y: Expr) -> Expr:
        """Either of two bools."""
        from tvm import tirx

        return tirx.Or(tirx.convert(x), tirx.convert(y))

    def logical_not(self, x: Expr) -> Expr:
        """The opposite of a bool."""
        from tvm import tirx

        return tirx.Not(tirx.convert(x))

    def equal(self, x: Expr, y: Expr) -> Expr:
        """Whether two elements are equal."""
        from tvm import tirx

        return tirx.Not(self.not_equal(x, y)) if dtype_of(x) == "bool" else tirx.EQ(x, y)

    def not_equal(self, x: Expr, y: Expr) -> Expr:
        """Whether two elements differ."""
        from tvm import tirx

        if _is_float(x):  # tirx.NE is false for NaN
            return self.let(
                x, lambda v: self.let(y, lambda w: tirx.Or(tirx.NE(v, w), tirx.Or(tirx.isnan(v), tirx.isnan(w))))
            )
        if dtype_of(x) != "bool":
            return tirx.NE(x, y)
        return self.let(x, lambda v: tirx.Select(y, tirx.Not(v), v))  # LLVM code generation compares no bools

    def isnan(self, x: Expr) -> Expr:
        """Whether x is NaN."""
        from tvm import tirx

        # not x != x: TVM simplifies that to false
        return tirx.isnan(x) if _is_float(x) else tirx.const(False, "bool")

    def isinf(self, x: Expr) -> Expr:
        """Whether x is infinite."""
        from tvm import tirx

        return tirx.EQ(tirx.abs(x), self.like(math.inf, x)) if _is_float(x) else tirx.const(False, "bool")

    # -- arithmetic -----------------------------------------------------------------------------------------------

    def divide(self, x: Expr, y: Expr) -> Expr:
        """Division; integers truncate towards zero, and x / 0 is 0."""
        from tvm import tirx

        if _is_float(x):
            return tirx.div(x, y)
        return self._safely(y, lambda w: tirx.truncdiv(x, w))

    def modulo(self, x: Expr, y: Expr) -> Expr:
        """The remainder with the sign of y; of integers, 0 where y is 0."""
        from tvm import tirx

        if not _is_float(x):
            return self._safely(y, lambda w: tirx.floormod(x, w))

        def signed(v: Expr, w: Expr, rest: Expr) -> Expr:
            zero = self.like(0, v)
            crossed = tirx.And(tirx.NE(rest, zero), self.not_equal(rest < zero, w < zero))
            return tirx.Select(crossed, rest + w, rest)

        return self.let(x, lambda v: self.let(y, lambda w: self.let(self.remainder(v, w), lambda r: signed(v, w, r))))

    def remainder(self, x: Expr, y: Expr) -> Expr:
        """The remainder with the sign of x (C's fmod and %); of integers, 0 where y is 0."""
        from tvm import tirx

        return _library("fmod", x, y) if _is_float(x) else self._safely(y, lambda w: tirx.truncmod(x, w))

    def _safely(self, y: Expr, body: Callable[[Expr], Expr]) -> Expr:
        """body(y) for y other than 0, and 0 for 0 (a trap otherwise); nothing to ask where y is a number."""
        from tvm import tirx

        if isinstance(y, tirx.IntImm):
            return body(y) if int(y.value) else self.like(0, y)
        zero, one = self.like(0, y), self.like(1, y)
        return self.let(y, lambda w: tirx.Select(tirx.EQ(w, zero), zero, body(tirx.Select(tirx.EQ(w, zero), one, w))))

    def abs(self, x: Expr) -> Expr:
        """The absolute value."""
        from tvm import tirx

        return x if dtype_of(x)[0] in "ub" else tirx.abs(x)

    def power(self, x: Expr, y: Expr) -> Expr:
        """x to the power of y."""
        from tvm import tirx

        return tirx.power(x, y)

    def sqrt(self, x: Expr) -> Expr:
        """The square root."""
        from tvm import tirx

        return tirx.sqrt(x)

    def floor(self, x: Expr) -> Expr:
        """The largest integer not above x."""
        from tvm import tirx

        return tirx.floor(x)

    def ceil(self, x: Expr) -> Expr:
        """The smallest integer not below x."""
        from tvm import tirx

        return tirx.ceil(x)

    def round(self, x: Expr) -> Expr:
        """The nearest integer, halves to even."""
        from tvm import tirx

        return tirx.nearbyint(x)

    # -- transcendental: the C library's; `tirx.asin` and the like are short series, so not used ------------------

    def exp(self, x: Expr) -> Expr:
        """e to the power of x."""
        from tvm import tirx

        return tirx.exp(x)

    def expm1(self, x: Expr) -> Expr:
        """e to the power of x, less 1; accurate near 0."""
        return _library("expm1", x)

    def log(self, x: Expr) -> Expr:
        """The natural logarithm."""
        from tvm import tirx

        return tirx.log(x)

    def log1p(self, x: Expr) -> Expr:
        """log(1 + x), accurate near 0."""
        return _library("log1p", x)

    def tanh(self, x: Expr) -> Expr:
        """The hyperbolic tangent."""
        from tvm import tirx

        return tirx.tanh(x)

    def erf(self, x: Expr) -> Expr:
        """The error function; half precision through float."""
        from tvm import tirx

        dtype = dtype_of(x)
        return tirx.erf(x) if dtype in ("float32", "float64") else tirx.Cast(dtype, tirx.erf(tirx.Cast("float32", x)))

    def sigmoid(self, x: Expr) -> Expr:
        """1 / (1 + exp(-x))."""
        from tvm import tirx

        return tirx.sigmoid(x)

    def sin(self, x: Expr) -> Expr:
        """The sine."""
        from tvm import tirx

        return tirx.sin(x)

    def cos(self, x: Expr) -> Expr:
        """The cosine."""
        from tvm import tirx

        return tirx.cos(x)

    def tan(self, x: Expr) -> Expr:
        """The tangent."""
        return _library("tan", x)

    def asin(self, x: Expr) -> Expr:
        """The inverse of the sine."""
        return _library("asin", x)

    def acos(self, x: Expr) -> Expr:
        """The inverse of the cosine."""
        return _library("acos", x)

    def atan(self, x: Expr) -> Expr:
        """The inverse of the tangent."""
        return _library("atan", x)

    def sinh(self, x: Expr) -> Expr:
        """The hyperbolic sine."""
        return _library("sinh", x)

    def cosh(self, x: Expr) -> Expr:
        """The hyperbolic cosine."""
        return _library("cosh", x)

    def asinh(self, x: Expr) -> Expr:
        """The inverse of the hyperbolic sine."""
        return _library("asinh", x)

    def acosh(self, x: Expr) -> Expr:
        """The inverse of the hyperbolic cosine."""
        return _library("acosh", x)

    def atanh(self, x: Expr) -> Expr:
        """The inverse of the hyperbolic tangent."""
        return _library("atanh", x)


def _is_number(x: Expr) -> bool:
    from tvm import tirx

    return isinstance(x, tirx.FloatImm) and not math.isnan(float(x.value))


def _unless_nan(v: Expr, value: Expr) -> Expr:
    """`value`, or v where v is NaN (v <= inf is false then; TVM simplifies v != v to false)."""
    from tvm import tirx

    return tirx.Select(v <= tirx.const(math.inf, dtype_of(v)), value, v)


def _library(name: str, *xs: Expr) -> Expr:
    """A function of the C (or CUDA) mathematics library; half precision through float."""
    from tvm import tirx

    dtype = dtype_of(xs[0])
    if dtype == "float64":
        return tirx.call_pure_extern(dtype, name, *xs)
    if dtype == "float32":
        return tirx.call_pure_extern(dtype, name + "f", *xs)
    return tirx.Cast(dtype, tirx.call_pure_extern("float32", name + "f", *(tirx.Cast("float32", x) for x in xs)))
