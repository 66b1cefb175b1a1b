"""Views and rearrangements: reshape, transpose, expand, flip, concat, tile. All are evaluated element by element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, broadcast, normal, product, same_or_unknown, shape_text
from cnncc.ir.types import Type
from cnncc.ops.common import Gradients, resolve_axes, resolve_axis
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.registry import Arg, Sample, define

Index = tuple[Any, ...]
X = Arg((2, 3, 4))


@dataclass(frozen=True)
class ShapeAttrs:
    """shape: of the result; dimensions may be symbolic."""

    shape: tuple[Dim, ...] = ()


@dataclass(frozen=True)
class TransposeAttrs:
    """perm: axis i of the result is axis perm[i] of x; none reverses all axes (canonically written out)."""

    perm: tuple[int, ...] = ()


@dataclass(frozen=True)
class FlipAttrs:
    """axes: which are reversed; none means all."""

    axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class ConcatAttrs:
    """axis: along which the operands are joined."""

    axis: int = 0


@dataclass(frozen=True)
class TileAttrs:
    """repeats: how often along each axis."""

    repeats: tuple[int, ...] = ()


def _ints(dims: Sequence[Dim]) -> tuple[int, ...]:
    return tuple(int(d) for d in dims)


# -- reshape ---------------------------------------------------------------------------------------------------------


def _reshape_infer(attrs: ShapeAttrs, x: Type) -> Type:
    """As many elements in another shape."""
    if not same_or_unknown(product(attrs.shape), x.elements):
        raise GraphError(
            f"the new shape must have as many elements, got {shape_text(x.shape)} ({x.elements}) and "
            f"{shape_text(attrs.shape)} ({product(attrs.shape)})"
        )
    return x.with_(shape=tuple(normal(d) for d in attrs.shape))


def _reshape_canonical(attrs: ShapeAttrs, x: Type) -> ShapeAttrs:
    """One -1 stands for what is left."""
    shape = tuple(normal(d) for d in attrs.shape)
    if shape.count(-1) == 1:
        rest = product(d for d in shape if d != -1)
        at = shape.index(-1)
        if isinstance(x.elements, int) and isinstance(rest, int) and (rest == 0 or x.elements % rest):
            raise GraphError(f"cannot resolve -1: {x.elements} elements do not divide by {rest}")
        left = _quotient(x.elements, rest)
        shape = (*shape[:at], left, *shape[at + 1 :])
    if any(isinstance(d, int) and d < 0 for d in shape):
        raise GraphError(f"dimensions must not be negative (one may be -1), got {shape_text(shape)}")
    return ShapeAttrs(shape)


def _quotient(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    import sympy

    return normal(sympy.cancel(sympy.sympify(a) / sympy.sympify(b)))


def segments(old: Sequence[Dim], new: Sequence[Dim]) -> list[tuple[range, range]]:
    """Runs of axes of two shapes with equal products: a reshape works within each run alone. Ones are left out."""
    cuts: list[tuple[int, int]] = [(0, 0)]
    whole, parts = _prefixes(old), _prefixes(new)
    for i in range(1, len(whole)):
        for j in range(cuts[-1][1] + 1, len(parts)):
            if whole[i] == parts[j]:
                cuts.append((i, j))
                break
    result = [(range(a, b), range(p, q)) for (a, p), (b, q) in pairwise(cuts)]
    if cuts[-1] != (len(old), len(new)):
        a, p = cuts[-1]
        result.append((range(a, len(old)), range(p, len(new))))
    return result


def _prefixes(shape: Sequence[Dim]) -> list[Dim]:
    result: list[Dim] = [1]
    for d in shape:
        result.append(normal(result[-1] * d))
    return result


def _reshape_element(c: Lowering, attrs: ShapeAttrs, out: Type, xs: Sequence[Operand], index: Index) -> Any:
    """Flatten the index within each run of axes and split it again; equal leading axes stay as they are."""
    (x,) = xs
    old_axes = [a for a, d in enumerate(x.type.shape) if d != 1]
    new_axes = [a for a, d in enumerate(out.shape) if d != 1]
    at: list[Any] = [c.dim(0)] * x.type.rank
    old, new = [x.type.shape[a] for a in old_axes], [out.shape[a] for a in new_axes]
    for from_run, to_run in segments(old, new):
        flat: Any = c.dim(0)
        for k, j in enumerate(to_run):
            flat = index[new_axes[j]] if k == 0 else flat * c.dim(new[j]) + index[new_axes[j]]
        for k, i in reversed(list(enumerate(from_run))):
            at[old_axes[i]] = flat if k == 0 else flat % c.dim(old[i])
            flat = flat // c.dim(old[i]) if k else flat
    return x(*at)


reshape = define(
    "reshape",
    ("x",),
    attrs=ShapeAttrs,
    infer=_reshape_infer,
    reference=lambda attrs, x: x.reshape(_ints(attrs.shape)),
    numpy=lambda s: f"{s[0]}.reshape({', '.join(map(s.text, s.attrs.shape)) or '()'})",
    grad=lambda g: (g.b.reshape(g.dy, shape=g.inputs[0].type.shape),),
    element=_reshape_element,
    normalise=_reshape_canonical,
    samples=(
        Sample((X,), ShapeAttrs((2, 12))),
        Sample((X,), ShapeAttrs((3, 8))),
        Sample((X,), ShapeAttrs((2, 1, 2, 6, 1))),
        Sample((Arg((2, 6, 4, 5)),), ShapeAttrs((2, 2, 3, 20))),
        Sample((Arg((1, 1)),), ShapeAttrs(())),
        Sample((Arg((6,), "i64", -5, 5),), ShapeAttrs((3, 2)), smooth=False),
    ),
    doc="The same elements, in row-major order, in another shape.",
)

# -- transpose -------------------------------------------------------------------------------------------------------


def _transpose_infer(attrs: TransposeAttrs, x: Type) -> Type:
    """The axes in another order."""
    perm = _perm(attrs, x.rank)
    return x.with_(shape=tuple(x.shape[a] for a in perm))


def _perm(attrs: TransposeAttrs, rank: int) -> tuple[int, ...]:
    perm = tuple(attrs.perm) or tuple(reversed(range(rank)))
    resolved = tuple(p % rank if -rank <= p < rank else p for p in perm)
    if sorted(resolved) != list(range(rank)):
        raise GraphError(f"perm must hold each axis from 0 to {rank - 1} once, got {perm}")
    return resolved


def _transpose_grad(g: Any) -> Gradients:
    """dx = dy with the inverse permutation."""
    perm = g.attrs.perm
    return (g.b.transpose(g.dy, perm=tuple(perm.index(a) for a in range(len(perm)))),)


def _transpose_element(c: Lowering, attrs: TransposeAttrs, out: Type, xs: Sequence[Operand], index: Index) -> Any:
    perm = _perm(attrs, out.rank)
    return xs[0](*(index[perm.index(a)] for a in range(out.rank)))


transpose = define(
    "transpose",
    ("x",),
    attrs=TransposeAttrs,
    infer=_transpose_infer,
    reference=lambda attrs, x: x.transpose(_perm(attrs, x.ndim)),
    numpy=lambda s: f"{s[0]}.T" if s.attrs.perm == (1, 0) else f"{s[0]}.transpose({s.text(s.attrs.perm)})",
    grad=_transpose_grad,
    element=_transpose_element,
    normalise=lambda attrs, x: TransposeAttrs(_perm(attrs, x.rank)),
    samples=(
        Sample((X,), TransposeAttrs((2, 0, 1))),
        Sample((Arg((2, 3)),), TransposeAttrs((1, 0))),
        Sample((Arg((2, 3, 4, 5)),), TransposeAttrs((0, 2, 3, 1))),
    ),
    doc="The axes in another order.",
)

# -- expand ----------------------------------------------------------------------------------------------------------


def _expand_infer(attrs: ShapeAttrs, x: Type) -> Type:
    """x broadcasts to the shape."""
    shape = broadcast([x.shape, attrs.shape])
    if shape != tuple(attrs.shape):
        raise GraphError(f"x must broadcast to {shape_text(attrs.shape)}, got {shape_text(x.shape)}")
    return x.with_(shape=shape)


expand = define(
    "expand",
    ("x",),
    attrs=ShapeAttrs,
    infer=_expand_infer,
    reference=lambda attrs, x: np.broadcast_to(x, _ints(attrs.shape)),
    numpy=lambda s: f"np.broadcast_to({s[0]}, {s.text(s.attrs.shape)})",
    grad=lambda g: (g.dy,),
    element=lambda c, attrs, out, xs, index: xs[0].broadcast(index),
    normalise=lambda attrs, x: ShapeAttrs(broadcast([x.shape, tuple(normal(d) for d in attrs.shape)])),
    samples=(
        Sample((Arg((3, 1)),), ShapeAttrs((2, 3, 4))),
        Sample((Arg(()),), ShapeAttrs((2, 3))),
        Sample((Arg((2, 1, 4)),), ShapeAttrs((2, 3, 4))),
    ),
    doc="x broadcast to a shape, as numpy.broadcast_to.",
)

# -- flip ------------------------------------------------------------------------------------------------------------


def _flip_element(c: Lowering, attrs: FlipAttrs, out: Type, xs: Sequence[Operand], index: Index) -> Any:
    axes = resolve_axes(attrs.axes, out.rank)
    return xs[0](*(c.dim(out.shape[a]) - 1 - i if a in axes else i for a, i in enumerate(index)))


def _flip_infer(attrs: FlipAttrs, x: Type) -> Type:
    """The type of x."""
    resolve_axes(attrs.axes, x.rank)
    return x


flip = define(
    "flip",
    ("x",),
    attrs=FlipAttrs,
    infer=_flip_infer,
    reference=lambda attrs, x: np.flip(x, resolve_axes(attrs.axes, x.ndim)),
    numpy=lambda s: f"np.flip({s[0]}, {s.text(s.attrs.axes)})",
    grad=lambda g: (g.b.flip(g.dy, axes=g.attrs.axes),),
    element=_flip_element,
    normalise=lambda attrs, x: FlipAttrs(resolve_axes(attrs.axes, x.rank)),
    samples=(Sample((X,), FlipAttrs((1,))), Sample((X,), FlipAttrs((0, 1, 2)))),
    doc="Axes reversed.",
)

# -- concat ----------------------------------------------------------------------------------------------------------


def _concat_infer(attrs: ConcatAttrs, *xs: Type) -> Type:
    """Operands of one dtype, equal on all axes but one."""
    if not xs:
        raise GraphError("concat needs at least one operand, got none")
    first = xs[0]
    axis = resolve_axis(attrs.axis, first.rank)
    total: Dim = 0
    for x in xs:
        fits = x.dtype == first.dtype and x.rank == first.rank
        if not fits or any(a != axis and d != e for a, (d, e) in enumerate(zip(x.shape, first.shape, strict=True))):
            raise GraphError(f"operands must agree in dtype and on every axis but {axis}, got {first} and {x}")
        total = total + x.shape[axis]
    return first.with_(shape=(*first.shape[:axis], normal(total), *first.shape[axis + 1 :]))


def _concat_grad(g: Any) -> Gradients:
    """Each operand gets its slice of dy."""
    axis = g.attrs.axis
    grads, start = [], 0
    for k, x in enumerate(g.inputs):
        end = normal(start + x.type.shape[axis])
        grads.append(g.b.slice(g.dy, starts=(start,), ends=(end,), axes=(axis,)) if g.needs(k) else None)
        start = end
    return grads


def _concat_element(c: Lowering, attrs: ConcatAttrs, out: Type, xs: Sequence[Operand], index: Index) -> Any:
    axis = resolve_axis(attrs.axis, out.rank)
    starts: list[Dim] = [0]
    for x in xs:
        starts.append(normal(starts[-1] + x.type.shape[axis]))
    value = None
    for x, start, end in reversed(list(zip(xs, starts[:-1], starts[1:], strict=True))):
        if start == end:
            continue
        moved = index[axis] - c.dim(start) if start != 0 else index[axis]
        here = x(*index[:axis], moved, *index[axis + 1 :])
        value = here if value is None else c.guard(index[axis] < c.dim(end), here, value)
    return c.const(0, out.dtype) if value is None else value  # no elements at all


concat = define(
    "concat",
    ("xs*",),
    attrs=ConcatAttrs,
    infer=_concat_infer,
    reference=lambda attrs, *xs: np.concatenate(xs, attrs.axis),
    numpy=lambda s: f"np.concatenate([{', '.join(s.x)}], axis={s.attrs.axis})",
    grad=_concat_grad,
    element=_concat_element,
    normalise=lambda attrs, *xs: ConcatAttrs(resolve_axis(attrs.axis, xs[0].rank)) if xs else attrs,
    samples=(
        Sample((X, Arg((2, 2, 4)), Arg((2, 5, 4))), ConcatAttrs(1)),
        Sample((X,), ConcatAttrs(2)),
        Sample((Arg((3,), "i64", 0, 9), Arg((2,), "i64", 0, 9)), ConcatAttrs(), smooth=False),
    ),
    doc="Operands joined along an axis.",
)

# -- tile ------------------------------------------------------------------------------------------------------------


def _tile_infer(attrs: TileAttrs, x: Type) -> Type:
    """Every axis times its number of repeats."""
    if len(attrs.repeats) != x.rank or any(r < 0 for r in attrs.repeats):
        raise GraphError(f"repeats must be {x.rank} numbers, one per axis, none negative, got {attrs.repeats}")
    return x.with_(shape=tuple(normal(d * r) for d, r in zip(x.shape, attrs.repeats, strict=True)))


def _tile_grad(g: Any) -> Gradients:
    """dx = the sum over the copies."""
    x, b = g.inputs[0], g.b
    split = tuple(n for d, r in zip(x.type.shape, g.attrs.repeats, strict=True) for n in (r, d))
    copies = b.reshape(g.dy, shape=split)
    return (b.reduce_sum(copies, axes=tuple(range(0, len(split), 2)), keepdims=False),)


def _tile_element(c: Lowering, attrs: TileAttrs, out: Type, xs: Sequence[Operand], index: Index) -> Any:
    shape = xs[0].type.shape
    return xs[0](*(i if r == 1 else i % c.dim(d) for i, d, r in zip(index, shape, attrs.repeats, strict=True)))


tile = define(
    "tile",
    ("x",),
    attrs=TileAttrs,
    infer=_tile_infer,
    reference=lambda attrs, x: np.tile(x, attrs.repeats),
    numpy=lambda s: f"np.tile({s[0]}, {s.text(s.attrs.repeats)})",
    grad=_tile_grad,
    element=_tile_element,
    normalise=lambda attrs, x: replace(attrs, repeats=tuple(int(r) for r in attrs.repeats)),
    samples=(Sample((Arg((2, 3)),), TileAttrs((2, 3))), Sample((X,), TileAttrs((1, 2, 1)))),
    doc="Copies side by side, as numpy.tile.",
)
