"""Small helpers on TVM expressions. Every extent is int64: mixed widths stop bindings from being quasi-affine."""

from __future__ import annotations

from typing import Any


def const(value: int) -> Any:
    """Python integer --> int64 constant."""
    from tvm import tirx

    return tirx.const(value, "int64")


def extent(value: Any) -> Any:
    """An extent as te takes it: int64 constant for a number, expressions as they are."""
    number = as_int(value)
    return const(number) if number is not None else value


def as_int(value: Any) -> int | None:
    """The number that an extent is, or None where it is symbolic."""
    from tvm import tirx

    if isinstance(value, int):
        return value
    return int(value.value) if isinstance(value, tirx.IntImm) else None


def ceil_div(value: Any, size: int) -> Any:
    """ceil(value / size), a number for a number.

    The symbolic form is the one from which TVM proves that ceil(n / size) tiles cover n.
    """
    number = as_int(value)
    return -(-number // size) if number is not None else (value - const(1)) // const(size) + const(1)


def divisible(value: Any, size: int) -> bool:
    """Whether an extent, symbolic or not, is provably a multiple of `size`."""
    from tvm import sym

    number = as_int(value)
    if number is not None:
        return number % size == 0
    return bool(sym.Analyzer().can_prove_equal(value % const(size), 0))


def guard(conditions: list[Any], value: Any) -> Any:
    """value where all conditions hold, else zero; nothing is read where one does not."""
    from tvm import tirx

    return tirx.if_then_else(tirx.all(*conditions), value, tirx.const(0, value.ty.dtype)) if conditions else value


def inside(index: Any, low: bool, high: bool, size: int) -> list[Any]:
    """Conditions for index in [0, size), leaving out those that the geometry already gives."""
    return [*([index >= const(0)] if low else []), *([index < const(size)] if high else [])]
