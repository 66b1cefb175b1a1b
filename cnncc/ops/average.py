"""Average pooling of spatial rank 1 to 3 and its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as cartesian
from typing import Any

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, normal, same_or_unknown, shape_text
from cnncc.ir.types import Type
from cnncc.ops.common import Gradients, check_float, check_rank
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.plain import pool as plain
from cnncc.ops.pool import (
    SHAPES,
    PoolAttrs,
    canonical_pool,
    conditions,
    dx_samples,
    guarded,
    infer_pool,
    pool_geometry,
    pool_numbers,
    pool_out,
    positions,
    sources,
)
from cnncc.ops.registry import Arg, Sample, define
from cnncc.ops.window import Geometry
from cnncc.ops.written import written


@dataclass(frozen=True)
class AveragePoolAttrs(PoolAttrs):
    """count_include_pad: divide by the window's size with padding instead of by the elements it covers."""

    count_include_pad: bool = False


@dataclass(frozen=True)
class AveragePoolDxAttrs(AveragePoolAttrs):
    """size: spatial sizes of the pool's input."""

    size: tuple[Dim, ...] = ()


# -- average_pool ----------------------------------------------------------------------------------------------------


def _numbers(attrs: AveragePoolAttrs, size: Sequence[Dim]) -> dict[str, Any]:
    numbers = pool_numbers(attrs, size)
    pads = attrs.pads if attrs.count_include_pad and attrs.pads else (0,) * len(numbers["pads"])
    return {**numbers, "counted": tuple(map(min, pads, numbers["pads"]))}


def _average_infer(attrs: PoolAttrs, x: Type) -> Type:
    """x [N, C, *size] --> [N, C, *out]."""
    check_float(x=x)
    return infer_pool(attrs, x)


def _average_grad(g: Any) -> Gradients:
    """dx: each dy, divided by its window's count, goes to every element of the window."""
    a = g.attrs
    return (
        g.b.average_pool_dx(g.dy, kernel=a.kernel, strides=a.strides, pads=a.pads, dilations=a.dilations, ceil=a.ceil,
                            count_include_pad=a.count_include_pad, size=g.inputs[0].type.shape[2:]),
    )  # fmt: skip


def divisor(c: Lowering, attrs: AveragePoolAttrs, g: Geometry, o: Sequence[Any], size: Sequence[Dim]) -> Any:
    """The count of the window at output o as an int64 expression, or a number where it is the same everywhere."""
    from tvm import tirx

    total: Any = 1
    for i in range(g.rank):
        spans = not attrs.count_include_pad and (g.begin[i] or g.end[i])
        if not (spans or attrs.ceil):
            total = total * g.kernel[i]
            continue
        low = 0 if not attrs.count_include_pad else -g.begin[i]
        high = c.dim(size[i]) + (g.end[i] if attrs.count_include_pad else 0)
        start = o[i] * g.strides[i] - g.begin[i]
        d = g.dilations[i]
        before = tirx.max(low - start + (d - 1), tirx.const(0, "int64")) // d  # taps before `low`
        until = tirx.max(high - start + (d - 1), tirx.const(0, "int64")) // d  # taps before `high`
        total = total * tirx.max(tirx.min(until, tirx.const(g.kernel[i], "int64")) - before, tirx.const(1, "int64"))
    return total


def _divided(c: Lowering, value: Any, count: Any, dtype: str) -> Any:
    if isinstance(count, int):
        return value / c.const(count, dtype)
    return value / c.math.cast(count, dtype)


def _average_compute(c: Lowering, attrs: AveragePoolAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import te

    (x,) = xs
    g = pool_geometry(attrs, x.type.rank - 2)
    rk = [c.axis(k, f"k{i}") for i, k in enumerate(g.kernel)]

    def total(n: Any, ch: Any, *o: Any) -> Any:
        at = positions(g, o, rk)
        tests = conditions(c, g, at, x.type.shape[2:], attrs.ceil)
        return te.sum(guarded(c, tests, x(n, ch, *at), c.const(0, x.type.dtype)), axis=rk)

    sums = c.stage(outs[0], total, "window_sum")

    def element(n: Any, ch: Any, *o: Any) -> Any:
        return _divided(c, sums(n, ch, *o), divisor(c, attrs, g, o, x.type.shape[2:]), x.type.dtype)

    return c.stage(outs[0], element, "average_pool")


_COUNTED: tuple[dict[str, Any], ...] = ({"count_include_pad": False}, {"count_include_pad": True})

average_pool = define(
    "average_pool",
    ("x",),
    attrs=AveragePoolAttrs,
    infer=_average_infer,
    **written(plain.average_pool, lambda a, x: _numbers(a, x.shape[2:])),
    grad=_average_grad,
    compute=_average_compute,
    normalise=canonical_pool,
    samples=tuple(Sample((x,), AveragePoolAttrs(**w, **count)) for (x, w), count in cartesian(SHAPES, _COUNTED)),
    doc="The mean of each window.",
)

# -- average_pool_dx -------------------------------------------------------------------------------------------------


def _average_dx_infer(attrs: AveragePoolDxAttrs, dy: Type) -> Type:
    """dy [N, C, *out] --> dx [N, C, *size]."""
    check_float(dy=dy)
    check_rank("dy", dy, 3, 5)
    if len(attrs.size) != dy.rank - 2:
        raise GraphError(f"size must have {dy.rank - 2} numbers, got {shape_text(attrs.size)}")
    x = dy.with_(shape=(*dy.shape[:2], *(normal(d) for d in attrs.size)))
    wanted = pool_out(attrs, x)
    if not all(map(same_or_unknown, dy.shape[2:], wanted)):
        raise GraphError(f"dy must have size {shape_text(wanted)}, got {shape_text(dy.shape[2:])}")
    return x


def _average_dx_grad(g: Any) -> Gradients:
    """Linear: ddy = average_pool(ddx)."""
    a = g.attrs
    return (
        g.b.average_pool(g.dy, kernel=a.kernel, strides=a.strides, pads=a.pads, dilations=a.dilations, ceil=a.ceil,
                         count_include_pad=a.count_include_pad),
    )  # fmt: skip


def _average_dx_compute(c: Lowering, attrs: AveragePoolDxAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import te

    (dy,) = xs
    g = pool_geometry(attrs, dy.type.rank - 2)
    out = dy.type.shape[2:]
    rk = [c.axis(k, f"k{i}") for i, k in enumerate(g.kernel)]

    def element(n: Any, ch: Any, *i: Any) -> Any:
        at, tests = sources(c, g, i, rk, out)
        share = _divided(c, dy(n, ch, *at), divisor(c, attrs, g, at, attrs.size), dy.type.dtype)
        return te.sum(guarded(c, tests, share, c.const(0, dy.type.dtype)), axis=rk)

    return c.stage(outs[0], element, "average_pool_dx")


def _average_dx_samples(count: dict[str, Any]) -> tuple[Sample, ...]:
    return dx_samples(lambda x, w, out: Sample((Arg(out),), AveragePoolDxAttrs(**w, **count, size=x.shape[2:])))


average_pool_dx = define(
    "average_pool_dx",
    ("dy",),
    attrs=AveragePoolDxAttrs,
    infer=_average_dx_infer,
    **written(plain.average_pool_dx, lambda a, dy: {"size": a.size, **_numbers(a, a.size)}),
    grad=_average_dx_grad,
    compute=_average_dx_compute,
    normalise=canonical_pool,
    samples=tuple(sample for count in _COUNTED for sample in _average_dx_samples(count)),
    doc="The data gradient of average_pool.",
)
