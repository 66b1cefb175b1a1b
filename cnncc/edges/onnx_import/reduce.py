"""Reductions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cnncc.edges.onnx_import.context import Call, Results
from cnncc.ir.graph import Value

_AXES_INPUT_SINCE = {"ReduceSum": 13}  # the others: 18


def axes_of(n: Call, since: int, index: int = 1) -> tuple[int, ...] | None:
    """axes: an input since some opset, an attribute before; None where they are left out."""
    if n.version >= since:
        return n.ints(index, "axes") if n.has(index) else None
    return n.attr_ints("axes")


def _window(n: Call) -> tuple[tuple[int, ...], bool] | None:
    """Axes and keepdims; None where nothing is reduced."""
    rank = n.rank(0)
    axes = axes_of(n, _AXES_INPUT_SINCE.get(n.op_type, 18))
    if not axes:
        if n.attr_int("noop_with_empty_axes"):
            return None
        axes = tuple(range(rank))
    return tuple(sorted(n.axes(axes, rank))), bool(n.attr_int("keepdims", 1))


def reduction(
    op: str,
    before: Callable[[Call, Value], Value] = lambda n, x: x,
    after: Callable[[Call, Value], Value] = lambda n, x: x,
) -> Callable[[Call], Results]:
    """Apply `before` to each element, reduce, apply `after`."""

    def run(n: Call) -> Results:
        x = n.value(0)
        window = _window(n)
        if window is None or x.type.rank == 0:
            result = after(n, before(n, x))
            return n.tensor(0) if result is x else result
        axes, keep = window
        if any(x.type.shape[a] == 0 for a in axes) and op in _EMPTY:
            return _empty(n, x, axes, keep, op)
        if x.type.dtype == "bool":
            return n.cast(n.op(op, n.cast(x, "u8"), axes=axes, keepdims=keep), "bool")
        return after(n, n.op(op, before(n, x), axes=axes, keepdims=keep))

    return run


_EMPTY = {"reduce_max": (-np.inf, "min"), "reduce_min": (np.inf, "max")}


def _empty(n: Call, x: Value, axes: tuple[int, ...], keep: bool, op: str) -> Value:
    """Over an empty axis: the identity of the reduction."""
    dtype = x.type.numpy
    number, limit = _EMPTY[op]
    if dtype.kind == "b":
        number = op == "reduce_min"
    elif dtype.kind in "iu":
        number = getattr(np.iinfo(dtype), limit)
    shape = tuple(1 if a in axes else d for a, d in enumerate(x.type.shape) if keep or a not in axes)
    return n.op("expand", n.constant(np.asarray(number), x.type.dtype), shape=shape)


def _square(n: Call, x: Value) -> Value:
    return n.op("mul", x, x)


def _unary(op: str) -> Callable[[Call, Value], Value]:
    return lambda n, x: n.op(op, x)


def log_sum_exp(n: Call) -> Results:
    """ReduceLogSumExp, with the maximum taken out so that nothing overflows."""
    x = n.value(0)
    window = _window(n)
    if window is None or x.type.rank == 0:
        return n.tensor(0)
    axes, keep = window
    if any(x.type.shape[a] == 0 for a in axes):
        return _empty(n, x, axes, keep, "reduce_max")
    highest = n.op("reduce_max", x, axes=axes, keepdims=True)
    finite = n.op("clip", highest, low=-1e30, high=1e30)  # inf - inf would be NaN
    total = n.op("reduce_sum", n.op("exp", n.op("sub", x, finite)), axes=axes, keepdims=True)
    result = n.op("add", n.op("log", total), finite)
    shape = tuple(d for a, d in enumerate(result.type.shape) if a not in axes)
    return result if keep else n.reshape(result, shape)


def _arg(op: str) -> Callable[[Call], Results]:
    def run(n: Call) -> Results:
        axis = n.axis(n.attr_int("axis"), n.rank(0))
        keep, last = bool(n.attr_int("keepdims", 1)), bool(n.attr_int("select_last_index"))
        return n.op(op, n.value(0), axis=axis, keepdims=keep, select_last=last)

    return run


def cumsum(n: Call) -> Results:
    """CumSum along an axis that is known at import."""
    axis = n.axis(int(n.scalar(1, "axis")), n.rank(0))
    exclusive, reverse = bool(n.attr_int("exclusive")), bool(n.attr_int("reverse"))
    return n.op("cumsum", n.value(0), axis=axis, exclusive=exclusive, reverse=reverse)


TABLE: dict[str, Callable[[Call], Results]] = {
    "ReduceSum": reduction("reduce_sum"),
    "ReduceMean": reduction("reduce_mean"),
    "ReduceMax": reduction("reduce_max"),
    "ReduceMin": reduction("reduce_min"),
    "ReduceProd": reduction("reduce_prod"),
    "ReduceL1": reduction("reduce_sum", before=_unary("abs")),
    "ReduceL2": reduction("reduce_sum", before=_square, after=_unary("sqrt")),
    "ReduceSumSquare": reduction("reduce_sum", before=_square),
    "ReduceLogSum": reduction("reduce_sum", after=_unary("log")),
    "ReduceLogSumExp": log_sum_exp,
    "ArgMax": _arg("argmax"),
    "ArgMin": _arg("argmin"),
    "CumSum": cumsum,
}
