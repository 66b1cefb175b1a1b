"""Arithmetic on integers and symbolic sizes, as shape subgraphs need it; and symbolic sizes as run-time values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.errors import UnsupportedError
from cnncc.ir.dims import Dim, is_static, normal, product
from cnncc.ir.dtype import is_float
from cnncc.ir.graph import Value

if TYPE_CHECKING:
    from cnncc.edges.onnx_import.context import Call


class UndecidedError(Exception):
    """A comparison of symbolic sizes has no answer for all sizes."""


def is_number(x: Any) -> bool:
    """Whether an element has no symbols."""
    return isinstance(x, (bool, int, float, np.generic)) or bool(x.is_number)


def objects(array: np.ndarray) -> np.ndarray:
    """An array of Python numbers, so that arithmetic with symbols works element by element."""
    return array if array.dtype == object else array.astype(object)


def floor_quotient(a: Any, b: Any) -> Any:
    """floor(a / b), exact where b divides a."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    import sympy

    return normal(sympy.floor(sympy.cancel(sympy.sympify(a) / b)))


def true_quotient(a: Any, b: Any) -> Any:
    """a / b as a rational expression."""
    import sympy

    return sympy.cancel(sympy.sympify(a) / sympy.sympify(b))


def rational(x: Any) -> Any:
    """A float as the simplest fraction that is the same f32 (2.0 --> 2, 0.5 --> 1/2); other elements unchanged."""
    if not isinstance(x, float):
        return x
    import sympy

    return sympy.nsimplify(str(np.float32(x)), rational=True)


def floor(x: Any) -> Any:
    """The largest integer not above an element."""
    if isinstance(x, (int, float)):
        return int(np.floor(x))
    import sympy

    return normal(sympy.floor(x))


def ceil(x: Any) -> Any:
    """The smallest integer not below an element."""
    if isinstance(x, (int, float)):
        return int(np.ceil(x))
    import sympy

    return normal(sympy.ceiling(x))


def equal(a: Any, b: Any) -> bool:
    """Whether two elements are equal. Raises UndecidedError where that depends on the symbols."""
    if is_number(a) and is_number(b):
        return bool(a == b)
    zero = _difference(a, b).is_zero
    if zero is None:
        raise UndecidedError(f"{a} == {b}")
    return bool(zero)


def less(a: Any, b: Any) -> bool:
    """Whether a < b. Raises UndecidedError where that depends on the symbols."""
    if is_number(a) and is_number(b):
        return bool(a < b)
    negative = _difference(a, b).is_negative
    if negative is None:
        raise UndecidedError(f"{a} < {b}")
    return bool(negative)


def _difference(a: Any, b: Any) -> Any:
    import sympy

    return sympy.expand(sympy.sympify(a) - sympy.sympify(b))


def may_be_equal(a: Any, b: Any, fixed_later: set[str]) -> bool:
    """Whether two different sizes can be equal for some values of the symbols that are fixed later.

    Two plain symbols are different: the model gives them different names.
    """
    both = [d for d in (a, b) if not isinstance(d, int)]
    if len(both) == 2 and all(d.is_Symbol for d in both):
        return False
    if not any(s.name in fixed_later for d in both for s in d.free_symbols):
        return False
    return _difference(a, b).is_zero is not False


def larger(a: Any, b: Any) -> Any:
    """max(a, b)."""
    try:
        return b if less(a, b) else a
    except UndecidedError:
        import sympy

        return sympy.Max(a, b)


def smaller(a: Any, b: Any) -> Any:
    """min(a, b)."""
    try:
        return a if less(a, b) else b
    except UndecidedError:
        import sympy

        return sympy.Min(a, b)


def whole_quotient(total: Dim, part: Dim) -> Dim | None:
    """total / part where that is a whole number for all sizes, otherwise None."""
    if isinstance(total, int) and isinstance(part, int):
        return total // part if part and total % part == 0 else None
    result = true_quotient(total, part)
    if result.is_integer or (result.is_integer is None and result.as_numer_denom()[1] == 1):
        return normal(result)
    return None


def reshape_target(shape: Sequence[Dim], target: Sequence[Dim], keep_zero: bool) -> tuple[Dim, ...] | str:
    """ONNX's Reshape: 0 copies a dimension (unless keep_zero), -1 is what is left. A text says what is wrong."""
    result: list[Dim] = []
    for axis, d in enumerate(target):
        if isinstance(d, int) and d == 0 and not keep_zero:
            if axis >= len(shape):
                return f"0 copies dimension {axis}, but the input has rank {len(shape)}"
            d = shape[axis]
        result.append(d)
    unknown = [i for i, d in enumerate(result) if isinstance(d, int) and d == -1]
    if len(unknown) > 1 or any(isinstance(d, int) and d < -1 for d in result):
        return f"the new shape may have one -1 and no other negative size, got {tuple(result)}"
    if unknown:
        others = product(d for i, d in enumerate(result) if i != unknown[0])
        total = product(shape)
        if isinstance(others, int) and others == 0:
            return f"-1 has no meaning beside a dimension 0, got {tuple(result)}"
        rest = whole_quotient(total, others)
        if rest is None:
            return f"the elements must fit, got shape {tuple(shape)} to {tuple(target)}"
        result[unknown[0]] = rest
    return tuple(result)


# -- sizes as run-time values ------------------------------------------------------------------------------------------


def materialize(n: Call, data: np.ndarray, dtype: str) -> Value:
    """A tensor of sizes as a value of the graph, computed from the sizes of the graph's inputs."""
    parts = [n.op("reshape", _emit(n, d, dtype), shape=(1,)) for d in data.reshape(-1).tolist()]
    value = parts[0] if len(parts) == 1 else n.op("concat", *parts, axis=0)
    return n.reshape(value, data.shape)


def _emit(n: Call, d: Any, dtype: str) -> Value:
    if is_number(d):
        return n.constant(np.asarray(float(d) if is_float(dtype) else int(d)), dtype)
    if not is_float(dtype):
        return n.cast(_integer(n, d), dtype)
    numerator, denominator = d.as_numer_denom()
    top = n.cast(_integer(n, numerator), dtype)
    return top if denominator == 1 else n.op("div", top, n.cast(_integer(n, denominator), dtype))


def _integer(n: Call, d: Any) -> Value:
    """An expression of integers, floor, minima and polynomials, as i64."""
    import sympy

    if is_number(d):
        return n.constant(np.asarray(int(d), np.int64))
    if d.is_Symbol:
        return _symbol(n, d)
    if isinstance(d, sympy.floor):
        top, bottom = d.args[0].as_numer_denom()
        return n.op("div", _integer(n, top), _integer(n, bottom))
    name = {sympy.Add: "add", sympy.Mul: "mul", sympy.Max: "max", sympy.Min: "min"}.get(d.func)
    if name is not None:
        total = _integer(n, d.args[0])
        for part in d.args[1:]:
            total = n.op(name, total, _integer(n, part))
        return total
    if d.is_Pow and is_number(d.exp) and int(d.exp) == d.exp > 0:
        base = total = _integer(n, d.base)
        for _ in range(int(d.exp) - 1):
            total = n.op("mul", total, base)
        return total
    raise UnsupportedError(f"the size {d} is needed as a number at run time; fix the shapes (shapes=...)")


def _symbol(n: Call, d: Any) -> Value:
    for value in n.importer.builder.graph.inputs:
        if d in value.type.shape and value.type.dtype in ("f32", "f64", "i32", "i64"):  # exact up to 2^24
            return n.cast(n.op("size", value, axes=(value.type.shape.index(d),)), "i64")
    raise UnsupportedError(f"the size {d} is needed as a number at run time; fix the shapes (shapes=...)")


def static(shape: Sequence[Dim]) -> tuple[int, ...] | None:
    """The shape as integers, None where it has symbols."""
    return tuple(int(d) for d in shape) if is_static(shape) else None
