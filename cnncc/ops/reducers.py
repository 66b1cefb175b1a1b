"""Reductions of TVM beyond te.sum: maxima and minima that keep NaN, products, and the place of the first maximum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cnncc.ir.dtype import is_float
from cnncc.ops.lowering import TVM_DTYPE


def smallest(dtype: str) -> Any:
    """The identity of max as a constant: -inf, or the smallest integer. dtype is a short name."""
    from tvm import tirx

    name = TVM_DTYPE[dtype]
    return tirx.const(float("-inf"), name) if is_float(dtype) else tirx.min_value(name)


def largest(dtype: str) -> Any:
    """The identity of min as a constant: inf, or the largest integer."""
    from tvm import tirx

    name = TVM_DTYPE[dtype]
    return tirx.const(float("inf"), name) if is_float(dtype) else tirx.max_value(name)


def maximum(dtype: str) -> Callable[..., Any]:
    """A reducer like te.max: reducer(value, axis=axes). NaN wins (te.max drops it)."""
    from tvm import te, tirx

    if not is_float(dtype):
        return te.comm_reducer(lambda x, y: tirx.max(x, y), lambda t: smallest(dtype), name="max")
    return te.comm_reducer(
        lambda x, y: tirx.Select(tirx.Or(x > y, tirx.isnan(x)), x, y), lambda t: smallest(dtype), name="max"
    )


def minimum(dtype: str) -> Callable[..., Any]:
    """A reducer like te.min; NaN wins."""
    from tvm import te, tirx

    if not is_float(dtype):
        return te.comm_reducer(lambda x, y: tirx.min(x, y), lambda t: largest(dtype), name="min")
    return te.comm_reducer(
        lambda x, y: tirx.Select(tirx.Or(x < y, tirx.isnan(x)), x, y), lambda t: largest(dtype), name="min"
    )


def product(dtype: str) -> Callable[..., Any]:
    """A reducer that multiplies."""
    from tvm import te, tirx

    return te.comm_reducer(lambda x, y: x * y, lambda t: tirx.const(1, TVM_DTYPE[dtype]), name="product")


def first_maximum(number: Any, value: Any, axes: Any, last: bool = False, least: bool = False) -> Any:
    """(number, value) of the largest value, the smallest number at ties; the first NaN is largest.

    number: an integer expression that orders the elements. last: the largest number at ties. least: the smallest value
    instead. Gives a pair of reductions for `Lowering.pair_stage`.
    """
    from tvm import te, tirx

    kind = str(value.ty.dtype)
    short = next(s for s, t in TVM_DTYPE.items() if t == kind)

    def combine(a: Any, b: Any) -> Any:
        better = a[1] < b[1] if least else a[1] > b[1]
        earlier = a[0] > b[0] if last else a[0] < b[0]
        tie = tirx.EQ(a[1], b[1])
        if is_float(short):
            better = tirx.Or(better, tirx.And(tirx.isnan(a[1]), tirx.Not(tirx.isnan(b[1]))))
            tie = tirx.Or(tie, tirx.And(tirx.isnan(a[1]), tirx.isnan(b[1])))
        take = tirx.Or(better, tirx.And(tie, earlier))
        return tirx.Select(take, a[0], b[0]), tirx.Select(take, a[1], b[1])

    def identity(index: str, element: str) -> Any:
        bound = tirx.min_value(index) if last else tirx.max_value(index)
        return bound, largest(short) if least else smallest(short)

    return te.comm_reducer(combine, identity, name="first")((number, value), axis=axes)
