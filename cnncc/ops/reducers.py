"""Reductions of TVM beyond te.sum: maxima and minima that keep NaN, and products."""

from __future__ import annotations

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


def maximum(dtype: str) -> Any:
    """A reducer like te.max: reducer(value, axis=axes). NaN wins (te.max drops it)."""
    from tvm import te, tirx

    if not is_float(dtype):
        return te.comm_reducer(lambda x, y: tirx.max(x, y), lambda t: smallest(dtype), name="max")
    return te.comm_reducer(
        lambda x, y: tirx.Select(tirx.Or(x > y, tirx.isnan(x)), x, y), lambda t: smallest(dtype), name="max"
    )


def minimum(dtype: str) -> Any:
    """A reducer like te.min; NaN wins."""
    from tvm import te, tirx

    if not is_float(dtype):
        return te.comm_reducer(lambda x, y: tirx.min(x, y), lambda t: largest(dtype), name="min")
    return te.comm_reducer(
        lambda x, y: tirx.Select(tirx.Or(x < y, tirx.isnan(x)), x, y), lambda t: largest(dtype), name="min"
    )


def product(dtype: str) -> Any:
    """A reducer that multiplies."""
    from tvm import te, tirx

    return te.comm_reducer(lambda x, y: x * y, lambda t: tirx.const(1, TVM_DTYPE[dtype]), name="product")


def is_extreme(value: Any, extreme: Any) -> Any:
    """Whether an element is the extreme that one of the reducers above found: equal to it, or NaN."""
    from tvm import tirx

    equal = tirx.EQ(value, extreme)
    return tirx.Or(equal, tirx.isnan(value)) if "float" in str(value.ty.dtype) else equal
