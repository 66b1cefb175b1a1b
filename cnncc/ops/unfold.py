"""Windows as columns (im2col) and back (col2im): linear, and the adjoint of each other.

unfold gives every window of x [N, C, *size] as columns [N, C, *kernel, *out]; fold adds columns up at the places they
would be taken from. torch.nn.Unfold's [N, C prod(kernel), prod(out)] is the same memory in another shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as cartesian
from typing import Any

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, normal, same_or_unknown, shape_text
from cnncc.ir.types import Type
from cnncc.ops.common import Gradients, check_rank
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.plain import windows
from cnncc.ops.pool import SHAPES, conditions, guarded, positions
from cnncc.ops.registry import Arg, Sample, define
from cnncc.ops.window import Geometry, Window, canonical, geometry, window_numbers
from cnncc.ops.written import written


@dataclass(frozen=True)
class UnfoldAttrs(Window):
    """kernel: sizes of the window."""

    kernel: tuple[int, ...] = ()


@dataclass(frozen=True)
class FoldAttrs(UnfoldAttrs):
    """size: spatial sizes of the result."""

    size: tuple[Dim, ...] = ()


def _canonical(attrs: Any, x: Type) -> Any:
    kernel = attrs.kernel if not isinstance(attrs.kernel, int) else (attrs.kernel,) * _rank(attrs, x)
    size = getattr(attrs, "size", x.shape[2:])
    return canonical(type(attrs)(**{**vars(attrs), "kernel": tuple(kernel)}), size, kernel)


def _rank(attrs: Any, x: Type) -> int:
    return len(attrs.size) if isinstance(attrs, FoldAttrs) else x.rank - 2


def _window(attrs: UnfoldAttrs) -> dict[str, tuple[int, ...]]:
    return {"kernel": attrs.kernel, "strides": attrs.strides, "pads": attrs.pads, "dilations": attrs.dilations}


# -- unfold ----------------------------------------------------------------------------------------------------------


def _unfold_infer(attrs: UnfoldAttrs, x: Type) -> Type:
    """x [N, C, *size] --> [N, C, *kernel, *out]."""
    check_rank("x", x, 3, 5)
    if len(attrs.kernel) != x.rank - 2:
        raise GraphError(f"kernel must have {x.rank - 2} numbers for {x.rank - 2} spatial axes, got {attrs.kernel}")
    g = geometry(attrs, attrs.kernel)
    return x.with_(shape=(*x.shape[:2], *g.kernel, *g.out(x.shape[2:])))


def _unfold_element(c: Lowering, attrs: UnfoldAttrs, out: Type, xs: Sequence[Operand], index: tuple[Any, ...]) -> Any:
    (x,) = xs
    g = geometry(attrs, attrs.kernel)
    n, ch, k, o = index[0], index[1], index[2 : 2 + g.rank], index[2 + g.rank :]
    at = positions(g, o, k)
    return guarded(c, conditions(c, g, at, x.type.shape[2:], False), x(n, ch, *at), c.const(0, out.dtype))


def _unfold_grad(g: Any) -> Gradients:
    """dx = fold(dy)."""
    return (g.b.fold(g.dy, size=g.inputs[0].type.shape[2:], **_window(g.attrs)),)


_SHAPES: tuple[tuple[Arg, dict[str, Any]], ...] = tuple(
    (x, {k: v for k, v in w.items() if k != "ceil"}) for x, w in SHAPES
)

unfold = define(
    "unfold",
    ("x",),
    attrs=UnfoldAttrs,
    infer=_unfold_infer,
    **written(windows.unfold, lambda a, x: {"kernel": a.kernel, **window_numbers(a, a.kernel)}),
    grad=_unfold_grad,
    element=_unfold_element,
    normalise=_canonical,
    samples=tuple(Sample((x,), UnfoldAttrs(**w)) for x, w in _SHAPES),
    doc="Every window as a column: x [N, C, *size] --> [N, C, *kernel, *out] (im2col).",
)

# -- fold ------------------------------------------------------------------------------------------------------------


def _fold_infer(attrs: FoldAttrs, x: Type) -> Type:
    """x [N, C, *kernel, *out] --> [N, C, *size]."""
    r = len(attrs.size)
    if not 1 <= r <= 3 or x.rank != 2 + 2 * r:
        raise GraphError(f"x must be [N, C, *kernel, *out] of a size with 1 to 3 axes, got {x} and size {attrs.size}")
    if x.dtype == "bool":
        raise GraphError("x must be a number type, got bool")
    g = geometry(attrs, attrs.kernel)
    wanted = (*g.kernel, *g.out(attrs.size))
    if g.rank != r or not all(map(same_or_unknown, wanted, x.shape[2:])):
        raise GraphError(f"x must be [N, C, {shape_text(wanted)}], got {shape_text(x.shape)}")
    return x.with_(shape=(*x.shape[:2], *(normal(d) for d in attrs.size)))


def reach(g: Geometry) -> list[range]:
    """How many windows before the last one may reach a position, per axis."""
    return [range(-(-e // s)) for e, s in zip(g.extent, g.strides, strict=True)]


def _fold_element(c: Lowering, attrs: FoldAttrs, out: Type, xs: Sequence[Operand], index: tuple[Any, ...]) -> Any:
    """The sum over the windows that reach a position: along each axis the last that starts before it, and some back."""
    from tvm import tirx

    (x,) = xs
    g = geometry(attrs, attrs.kernel)
    n, ch, *i = index
    places = x.type.shape[2 + g.rank :]
    total: Any = None
    for back in cartesian(*reach(g)):
        taps, at, tests = [], [], []
        for axis, (p, k) in enumerate(zip(i, back, strict=True)):
            s, d, extent = g.strides[axis], g.dilations[axis], g.extent[axis]
            moved = p + g.begin[axis]
            o = moved // s - k
            offset = moved % s + k * s if s > 1 else c.dim(k)  # from the window's start
            if k * s + s > extent:
                tests.append(offset < c.dim(extent))
            if d > 1:
                tests.append(tirx.EQ(offset % d, c.dim(0)))
            tests += [o >= 0] if k else []
            tests.append(o < c.dim(places[axis]))
            taps.append(offset // d if d > 1 else offset)
            at.append(o)
        value = c.guard(tirx.all(*tests), x(n, ch, *taps, *at), c.const(0, out.dtype))
        total = value if total is None else total + value
    return total


def _fold_sample(x: Arg, w: dict[str, Any]) -> Sample:
    out = _unfold_infer(UnfoldAttrs(**w), Type("f32", x.shape)).shape
    return Sample((Arg(tuple(int(d) for d in out)),), FoldAttrs(**w, size=x.shape[2:]))


fold = define(
    "fold",
    ("x",),
    attrs=FoldAttrs,
    infer=_fold_infer,
    **written(windows.fold, lambda a, x: {"size": a.size, **window_numbers(a, a.kernel)}),
    grad=lambda g: (g.b.unfold(g.dy, **_window(g.attrs)),),
    element=_fold_element,
    moves=False,
    normalise=_canonical,
    samples=tuple(_fold_sample(x, w) for x, w in _SHAPES),
    doc="The adjoint of unfold: x [N, C, *kernel, *out] added up to [N, C, *size] (col2im).",
)
