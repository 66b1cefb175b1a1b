"""Max unpooling: values go back to where max pooling found them, zeros elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product as cartesian
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, normal, product, shape_text
from cnncc.ir.types import Type
from cnncc.ops.common import Gradients, check_rank, known
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.plain import pool as plain
from cnncc.ops.pool import PoolAttrs, pool_geometry
from cnncc.ops.registry import Arg, Sample, define
from cnncc.ops.window import Geometry, Window, canonical
from cnncc.ops.written import written


@dataclass(frozen=True)
class MaxUnpoolAttrs(Window):
    """kernel: sizes of the windows that the values come from. size: spatial sizes of the result; none means the
    smallest that the windows lie in, (out - 1) s + d (k - 1) + 1 - pads."""

    kernel: tuple[int, ...] = ()
    size: tuple[Dim, ...] = ()


def unpooled_size(g: Geometry, out: Sequence[Dim]) -> tuple[Dim, ...]:
    """The size that so many windows cover."""
    return tuple(
        normal((o - 1) * s + e - b - p) for o, s, e, b, p in zip(out, g.strides, g.extent, g.begin, g.end, strict=True)
    )


def _canonical(attrs: MaxUnpoolAttrs, x: Type, indices: Type) -> MaxUnpoolAttrs:
    given: Any = attrs.kernel
    kernel = (given,) * (x.rank - 2) if isinstance(given, int) else tuple(given)
    attrs = canonical(replace(attrs, kernel=kernel), attrs.size or x.shape[2:], kernel)
    return replace(attrs, size=tuple(attrs.size) or unpooled_size(_geometry(attrs), x.shape[2:]))


def _geometry(attrs: MaxUnpoolAttrs) -> Geometry:
    return pool_geometry(PoolAttrs(attrs.strides, attrs.pads, attrs.dilations, attrs.kernel), len(attrs.kernel))


def _infer(attrs: MaxUnpoolAttrs, x: Type, indices: Type) -> Type:
    """x and indices [N, C, *out] --> [N, C, *size]."""
    check_rank("x", x, 3, 5)
    if indices.dtype not in ("i32", "i64") or indices.shape != x.shape:
        raise GraphError(f"indices must be i32 or i64 and of x's shape {shape_text(x.shape)}, got {indices}")
    if len(attrs.kernel) != x.rank - 2 or len(attrs.size) != x.rank - 2:
        raise GraphError(f"kernel and size must have {x.rank - 2} numbers, got {attrs.kernel} and {attrs.size}")
    if any(isinstance(d, int) and d < 1 for d in attrs.size):
        raise GraphError(f"the result must not be empty, got size {shape_text(attrs.size)}")
    return x.with_(shape=(*x.shape[:2], *(normal(d) for d in attrs.size)))


def _element(c: Lowering, attrs: MaxUnpoolAttrs, out: Type, xs: Sequence[Operand], index: tuple[Any, ...]) -> Any:
    """Of the windows that reach a position, the last whose index names it."""
    from tvm import tirx

    x, indices = xs
    g = _geometry(attrs)
    n, ch, *i = index
    flat: Any = i[0]
    for p, d in zip(i[1:], attrs.size[1:], strict=True):
        flat = flat * c.dim(d) + p
    plane = c.dim(product(attrs.size))
    value = c.const(0, out.dtype)
    reach = [range(-(-e // s)) for e, s in zip(g.extent, g.strides, strict=True)]
    for back in reversed(list(cartesian(*reach))):  # the last window is asked first
        at = [(p + b) // s - k for p, b, s, k in zip(i, g.begin, g.strides, back, strict=True)]
        inside = [p >= 0 for p in at] + [p < c.dim(d) for p, d in zip(at, x.type.shape[2:], strict=True)]
        # One condition inside of another would become both together, which reads the index outside as well.
        place = tirx.floormod(c.math.cast(indices(n, ch, *at), "i64"), plane)
        named = tirx.EQ(c.guard(tirx.all(*inside), place, tirx.const(-1, "int64")), flat)
        value = c.guard(named, x(n, ch, *at), value)
    return value


def _grad(g: Any) -> Gradients:
    """dx = dy at the places that the indices name; where windows overlap, only for the one that was kept there."""
    if not g.needs(0):
        return None, None
    b, a = g.b, g.attrs
    x, indices = g.inputs
    n, ch, *out = x.type.shape
    plane = b.constant(np.asarray(product(known(a.size, "size")), indices.type.numpy))
    places = b.reshape(b.mod(indices, plane), shape=(n, ch, product(out)))

    def at_places(v: Any) -> Any:
        return b.reshape(b.gather_elements(b.reshape(v, shape=(n, ch, product(a.size))), places, axis=2),
                         shape=x.type.shape)  # fmt: skip

    dx = at_places(g.dy)
    window = _geometry(a)
    if all(e <= s for e, s in zip(window.extent, window.strides, strict=True)):
        return dx, None
    count = product(known(out, "sizes"))
    number = b.constant(np.arange(1, int(count) + 1, dtype=x.type.numpy).reshape(1, 1, *out))
    number = b.expand(number, shape=x.type.shape)
    fields = {"kernel": a.kernel, "strides": a.strides, "pads": a.pads, "dilations": a.dilations, "size": a.size}
    kept = b.equal(at_places(b.max_unpool(number, indices, **fields)), number)
    return b.where(kept, dx, b.zeros_like(dx)), None


def _indices(shape: tuple[int, ...], attrs: PoolAttrs, size: tuple[int, ...]) -> Any:
    """Where a seeded image of that size has its maxima, counted within the channel."""
    from cnncc.ops.pool import max_pool_indices
    from cnncc.ops.registry import make_array

    image = make_array(Arg((*shape[:2], *size)), 5)
    assert max_pool_indices.reference is not None
    return max_pool_indices.reference(attrs, image) % int(np.prod(size))


def _sample(shape: tuple[int, ...], size: tuple[int, ...], smooth: bool = True, **window: Any) -> Sample:
    pool = PoolAttrs(**window)
    arg = Arg(shape, "i64", value=_indices(shape, pool, size))
    return Sample((Arg(shape), arg), MaxUnpoolAttrs(**window, size=size), smooth)


max_unpool = define(
    "max_unpool",
    ("x", "indices"),
    attrs=MaxUnpoolAttrs,
    infer=_infer,
    **written(plain.max_unpool, lambda a, x, i: {"size": a.size}),
    grad=_grad,
    element=_element,
    normalise=_canonical,
    samples=(
        _sample((2, 3, 3, 2), (6, 4), kernel=(2, 2), strides=(2, 2)),
        _sample((2, 3, 3, 4), (7, 6), kernel=(2, 2), strides=(2, 2), pads=(0, 1, 0, 1)),
        _sample((1, 2, 4, 3), (7, 6), kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
        _sample((1, 2, 4), (8,), kernel=(2,), strides=(2,)),
        _sample((1, 2, 2, 2, 2), (4, 4, 4), kernel=(2, 2, 2), strides=(2, 2, 2)),
    ),
    doc="The inverse of max_pool where it has one: x at the indices (row-major, in the channel or in the whole "
    "array), 0 elsewhere. Indices lie in their windows; where two windows name one place, the last is kept.",
)
