"""Reading at places that data says: gather and its gradient, along an axis or element by element; one-hot.

Negative places count from the end. A place outside the axis reads the nearest element (the reference does the same).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, normal, shape_text
from cnncc.ir.dtype import NUMPY
from cnncc.ir.types import Type
from cnncc.ops.common import Gradients, check_float, resolve_axis
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.plain import index as plain
from cnncc.ops.registry import Arg, Sample, define
from cnncc.ops.written import written

Index = tuple[Any, ...]


@dataclass(frozen=True)
class GatherAttrs:
    """axis: of x, along which elements are taken."""

    axis: int = 0


@dataclass(frozen=True)
class GatherDxAttrs(GatherAttrs):
    """size: of the axis in the operand of gather."""

    size: Dim = 0


@dataclass(frozen=True)
class OneHotAttrs:
    """depth: number of classes. axis: the new axis, in the result. on, off: values. dtype: of the result."""

    depth: int = 0
    axis: int = -1
    on: float = 1.0
    off: float = 0.0
    dtype: str = "f32"


def _check_indices(indices: Type) -> None:
    if indices.dtype not in ("i32", "i64"):
        raise GraphError(f"indices must be i32 or i64, got {indices.dtype}; insert a cast")


def _canonical(attrs: Any, x: Type, *rest: Type) -> Any:
    return replace(attrs, axis=resolve_axis(attrs.axis, x.rank))


def _place(c: Lowering, index: Any, size: Dim) -> Any:
    """The place that an index (an element of the operand `indices`) means."""
    from tvm import tirx

    n, zero = c.dim(size), c.dim(0)

    def wrapped(i: Any) -> Any:
        return tirx.max(tirx.min(tirx.Select(i < zero, i + n, i), n - 1), zero)

    return c.math.let(c.math.cast(index, "i64"), wrapped)


# -- gather ----------------------------------------------------------------------------------------------------------


def _gather_infer(attrs: GatherAttrs, x: Type, indices: Type) -> Type:
    """The axis of x is replaced by the axes of the indices."""
    _check_indices(indices)
    axis = resolve_axis(attrs.axis, x.rank)
    if x.shape[axis] == 0:
        raise GraphError(f"axis {axis} must not be empty, got {shape_text(x.shape)}")
    return x.with_(shape=(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _gather_grad(g: Any) -> Gradients:
    """dx = the sum of dy over the places that read an element."""
    x, indices = g.inputs
    axis = g.attrs.axis
    return g.b.gather_dx(indices, g.dy, axis=axis, size=x.type.shape[axis]), None


def _gather_element(c: Lowering, attrs: GatherAttrs, out: Type, xs: Sequence[Operand], index: Index) -> Any:
    x, indices = xs
    axis = resolve_axis(attrs.axis, x.type.rank)
    end = axis + indices.type.rank
    place = _place(c, indices(*index[axis:end]), x.type.shape[axis])
    return x(*index[:axis], place, *index[end:])


gather = define(
    "gather",
    ("x", "indices"),
    attrs=GatherAttrs,
    infer=_gather_infer,
    **written(plain.gather, lambda a, x, i: {"axis": resolve_axis(a.axis, x.rank)}),
    grad=_gather_grad,
    element=_gather_element,
    normalise=_canonical,
    samples=(
        Sample((Arg((5, 3, 4)), Arg((2, 3), "i64", -5, 4)), GatherAttrs(0)),
        Sample((Arg((2, 6, 3)), Arg((4,), "i32", 0, 5)), GatherAttrs(1)),
        Sample((Arg((2, 6)), Arg((), "i64", 0, 5)), GatherAttrs(1)),
        Sample((Arg((4,), "i64", -9, 9), Arg((7,), "i64", -6, 6)), GatherAttrs(0), smooth=False),
    ),
    doc="Slices of x along an axis at given places, as numpy.take.",
)


def _gather_dx_infer(attrs: GatherDxAttrs, indices: Type, dy: Type) -> Type:
    """The axes of the indices in dy become one axis of the given size."""
    _check_indices(indices)
    check_float(dy=dy)
    axis = attrs.axis
    if axis < 0 or dy.shape[axis : axis + indices.rank] != indices.shape:
        wanted = shape_text(indices.shape)
        raise GraphError(f"dy must have the axes of the indices, {wanted}, at axis {axis}, got {shape_text(dy.shape)}")
    return dy.with_(shape=(*dy.shape[:axis], normal(attrs.size), *dy.shape[axis + indices.rank :]))


def _gather_dx_compute(c: Lowering, attrs: GatherDxAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import te, tirx

    indices, dy = xs
    axis = attrs.axis
    r = [c.axis(d, f"r{k}") for k, d in enumerate(indices.type.shape)]

    def element(*index: Any) -> Any:
        hit = tirx.EQ(_place(c, indices(*r), attrs.size), index[axis])
        value = c.guard(hit, dy(*index[:axis], *r, *index[axis + 1 :]), c.const(0, dy.type.dtype))
        return te.sum(value, axis=r) if r else value

    return c.stage(outs[0], element, "gather_dx")


gather_dx = define(
    "gather_dx",
    ("indices", "dy"),
    attrs=GatherDxAttrs,
    infer=_gather_dx_infer,
    **written(plain.gather_dx, lambda a, i, dy: {"axis": a.axis, "size": a.size}),
    grad=lambda g: (None, g.b.gather(g.dy, g.inputs[0], axis=g.attrs.axis)),
    compute=_gather_dx_compute,
    samples=(
        Sample((Arg((2, 3), "i64", -5, 4), Arg((2, 3, 3, 4))), GatherDxAttrs(0, 5)),
        Sample((Arg((4,), "i32", 0, 5), Arg((2, 4, 3))), GatherDxAttrs(1, 6)),
        Sample((Arg((), "i64", 0, 5), Arg((2,))), GatherDxAttrs(1, 6)),
    ),
    doc="The gradient of gather: dy added up at the places it was read from.",
)

# -- gather_elements -------------------------------------------------------------------------------------------------


def _elements_infer(attrs: GatherAttrs, x: Type, indices: Type) -> Type:
    """The shape of the indices; on every axis but one not larger than x."""
    _check_indices(indices)
    axis = resolve_axis(attrs.axis, x.rank)
    if indices.rank != x.rank or any(
        a != axis and isinstance(d, int) and isinstance(e, int) and d > e
        for a, (d, e) in enumerate(zip(indices.shape, x.shape, strict=True))
    ):
        raise GraphError(
            f"indices must have the rank of x and fit on every axis but {axis}, got {shape_text(indices.shape)} for "
            f"{shape_text(x.shape)}"
        )
    return x.with_(shape=indices.shape)


def _elements_grad(g: Any) -> Gradients:
    """dx = the sum of dy over the places that read an element."""
    x, indices = g.inputs
    axis = g.attrs.axis
    dx = g.b.gather_elements_dx(indices, g.dy, axis=axis, size=x.type.shape[axis])
    rest = tuple(normal(d - e) for d, e in zip(x.type.shape, dx.type.shape, strict=True))
    if any(r != 0 for r in rest):
        dx = g.b.pad(dx, pads=(*(0,) * x.type.rank, *rest))
    return dx, None


def _elements_element(c: Lowering, attrs: GatherAttrs, out: Type, xs: Sequence[Operand], index: Index) -> Any:
    x, indices = xs
    axis = resolve_axis(attrs.axis, x.type.rank)
    return x(*index[:axis], _place(c, indices(*index), x.type.shape[axis]), *index[axis + 1 :])


gather_elements = define(
    "gather_elements",
    ("x", "indices"),
    attrs=GatherAttrs,
    infer=_elements_infer,
    **written(plain.gather_elements, lambda a, x, i: {"axis": resolve_axis(a.axis, x.rank)}),
    grad=_elements_grad,
    element=_elements_element,
    normalise=_canonical,
    samples=(
        Sample((Arg((4, 5)), Arg((4, 2), "i64", -5, 4)), GatherAttrs(1)),
        Sample((Arg((4, 5, 3)), Arg((6, 2, 3), "i32", 0, 3)), GatherAttrs(0)),
    ),
    doc="For each place of the indices the element of x there, with the index in place of one axis.",
)


def _elements_dx_infer(attrs: GatherDxAttrs, indices: Type, dy: Type) -> Type:
    """dy has the shape of the indices; one axis gets the given size."""
    _check_indices(indices)
    check_float(dy=dy)
    if attrs.axis < 0 or dy.shape != indices.shape:
        raise GraphError(f"dy must have the shape of the indices, {shape_text(indices.shape)}, got {dy}")
    return dy.with_(shape=(*dy.shape[: attrs.axis], normal(attrs.size), *dy.shape[attrs.axis + 1 :]))


def _elements_dx_compute(c: Lowering, attrs: GatherDxAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import te, tirx

    indices, dy = xs
    axis = attrs.axis
    r = c.axis(indices.type.shape[axis], "r")

    def element(*index: Any) -> Any:
        at = (*index[:axis], r, *index[axis + 1 :])
        hit = tirx.EQ(_place(c, indices(*at), attrs.size), index[axis])
        return te.sum(c.guard(hit, dy(*at), c.const(0, dy.type.dtype)), axis=r)

    return c.stage(outs[0], element, "gather_elements_dx")


gather_elements_dx = define(
    "gather_elements_dx",
    ("indices", "dy"),
    attrs=GatherDxAttrs,
    infer=_elements_dx_infer,
    **written(plain.gather_elements_dx, lambda a, i, dy: {"axis": a.axis, "size": a.size}),
    grad=lambda g: (None, g.b.gather_elements(g.dy, g.inputs[0], axis=g.attrs.axis)),
    compute=_elements_dx_compute,
    samples=(
        Sample((Arg((4, 2), "i64", -5, 4), Arg((4, 2))), GatherDxAttrs(1, 5)),
        Sample((Arg((6, 2, 3), "i32", 0, 3), Arg((6, 2, 3))), GatherDxAttrs(0, 4)),
    ),
    doc="The gradient of gather_elements, on the axes of the indices.",
)

# -- one_hot ---------------------------------------------------------------------------------------------------------


def _one_hot_infer(attrs: OneHotAttrs, indices: Type) -> Type:
    """A new axis of the given depth."""
    _check_indices(indices)
    if attrs.depth < 1 or attrs.dtype not in NUMPY:
        raise GraphError(f"depth must be positive and dtype an element type, got {attrs.depth} and {attrs.dtype!r}")
    axis = resolve_axis(attrs.axis, indices.rank + 1)
    return Type(attrs.dtype, (*indices.shape[:axis], attrs.depth, *indices.shape[axis:]))


def _one_hot_numbers(attrs: OneHotAttrs, indices: Type) -> dict[str, Any]:
    axis = resolve_axis(attrs.axis, indices.rank + 1)
    return {"depth": attrs.depth, "axis": axis, "on": attrs.on, "off": attrs.off, "dtype": NUMPY[attrs.dtype]}


def _one_hot_element(c: Lowering, attrs: OneHotAttrs, out: Type, xs: Sequence[Operand], index: Index) -> Any:
    from tvm import tirx

    axis = resolve_axis(attrs.axis, out.rank)
    depth, i = c.dim(attrs.depth), index[axis]
    given = c.math.cast(xs[0](*index[:axis], *index[axis + 1 :]), "i64")
    hit = c.math.let(given, lambda v: tirx.Or(tirx.EQ(v, i), tirx.EQ(v + depth, i)))
    return tirx.Select(hit, c.const(attrs.on, attrs.dtype), c.const(attrs.off, attrs.dtype))


one_hot = define(
    "one_hot",
    ("indices",),
    attrs=OneHotAttrs,
    infer=_one_hot_infer,
    **written(plain.one_hot, _one_hot_numbers),
    no_grad="the operand is an index",
    element=_one_hot_element,
    normalise=lambda attrs, indices: replace(attrs, axis=resolve_axis(attrs.axis, indices.rank + 1)),
    samples=(
        Sample((Arg((3, 4), "i64", -3, 5),), OneHotAttrs(5)),
        Sample((Arg((3, 4), "i32", 0, 4),), OneHotAttrs(4, 1, 2.0, -1.0)),
        Sample((Arg((), "i64", 0, 2),), OneHotAttrs(3, dtype="i32")),
    ),
    doc="`on` at the index (negative ones count from the end), `off` elsewhere; a row of `off` for others.",
)
