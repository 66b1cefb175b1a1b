"""Cutting and padding: slice and its gradient, and pad in four modes. All are evaluated element by element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, normal, same_or_unknown, shape_text
from cnncc.ir.graph import Value
from cnncc.ir.types import Type
from cnncc.ops.common import Gradients, resolve_axis
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.plain import index as plain
from cnncc.ops.registry import Arg, Sample, define

if TYPE_CHECKING:
    from cnncc.builder import Builder
    from cnncc.edges.numpy_source.line import Line

Index = tuple[Any, ...]


@dataclass(frozen=True)
class SliceAttrs:
    """Per axis from starts up to (without) ends by steps, as in Python: negative numbers count from the end.

    `axes` names the axes that the numbers are for, none means the first ones. Canonical: every axis, starts not
    negative, ends within the axis; with a negative step an end before the first element is -(size + 1).
    """

    starts: tuple[Dim, ...] = ()
    ends: tuple[Dim, ...] = ()
    steps: tuple[int, ...] = ()
    axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class SliceDxAttrs:
    """size: shape of the slice's operand. The rest as in the canonical slice."""

    starts: tuple[Dim, ...] = ()
    ends: tuple[Dim, ...] = ()
    steps: tuple[int, ...] = ()
    size: tuple[Dim, ...] = ()


@dataclass(frozen=True)
class PadAttrs:
    """pads: begin per axis, then end per axis; negative ones cut (constant mode).

    mode: "constant" (value), "reflect" (mirrored without the edge), "edge" (repeated) or "wrap" (from the other end).
    """

    pads: tuple[int, ...] = ()
    mode: str = "constant"
    value: float = 0.0


# -- slice -----------------------------------------------------------------------------------------------------------


def _canonical(attrs: SliceAttrs, x: Type) -> SliceAttrs:
    axes = attrs.axes or tuple(range(len(attrs.starts)))
    steps = attrs.steps or (1,) * len(attrs.starts)
    if not len(axes) == len(attrs.starts) == len(attrs.ends) == len(steps):
        raise GraphError(
            f"starts, ends, steps and axes must be equally many, got {attrs.starts}, {attrs.ends}, {steps} and {axes}"
        )
    given = {}
    for axis, start, end, step in zip(axes, attrs.starts, attrs.ends, steps, strict=True):
        given[resolve_axis(axis, x.rank)] = (start, end, step)
    resolved = [_resolve(*given.get(a, (0, d, 1)), d) for a, d in enumerate(x.shape)]
    starts, ends, steps = zip(*resolved, strict=True) if resolved else ((), (), ())
    return SliceAttrs(starts, ends, () if all(s == 1 for s in steps) else steps)


def _resolve(start: Dim, end: Dim, step: int, size: Dim) -> tuple[Dim, Dim, int]:
    """One axis in canonical form. Of a symbolic size, numbers are taken to lie within it."""
    if step == 0:
        raise GraphError("steps must not be 0")
    huge = 2**31 - 1
    if not isinstance(size, int):
        if step < 0:
            raise GraphError(f"a negative step needs a known size, got {size}; fix it (shapes=...)")
        start = normal(size + start) if isinstance(start, int) and start < 0 else start
        if isinstance(end, int):
            end = size if end >= huge else normal(size + end) if end < 0 else end
        return start, end, step
    low, high, step = slice(_number(start), _number(end), step).indices(size)
    if step < 0:
        return low, -(size + 1) if high < 0 else high, step
    return low, max(low, high), step


def _number(dim: Dim) -> int:
    if not isinstance(dim, int):
        raise GraphError(f"a symbolic bound needs a symbolic axis, got {dim}; fix it (shapes=...)")
    return dim


def _steps(attrs: SliceAttrs | SliceDxAttrs) -> tuple[int, ...]:
    return attrs.steps or (1,) * len(attrs.starts)


def _extents(attrs: SliceAttrs | SliceDxAttrs, size: Sequence[Dim]) -> tuple[Dim, ...]:
    result: list[Dim] = []
    for start, end, step, d in zip(attrs.starts, attrs.ends, _steps(attrs), size, strict=True):
        if isinstance(d, int) and isinstance(start, int) and isinstance(end, int):
            result.append(len(range(*slice(start, end, step).indices(d))))
        else:
            result.append(normal(-((start - end) // step)))
    return tuple(result)


def _slice_infer(attrs: SliceAttrs, x: Type) -> Type:
    """Every axis from start to end by step."""
    if attrs.axes or len(attrs.starts) != x.rank:
        attrs = _canonical(attrs, x)
    return x.with_(shape=_extents(attrs, x.shape))


def _slices(attrs: SliceAttrs | SliceDxAttrs) -> tuple[slice, ...]:
    return tuple(slice(*map(_number, t)) for t in zip(attrs.starts, attrs.ends, _steps(attrs), strict=True))


def _slice_reference(attrs: SliceAttrs, x: np.ndarray) -> np.ndarray:
    return np.asarray(x[_slices(_canonical(attrs, Type.of(x)))])


def _slice_text(s: Any, size: Sequence[Dim]) -> str:
    """The slices as Python writes them: 1:3, ::2, :."""
    a, texts = s.attrs, []
    for start, end, step, d in zip(a.starts, a.ends, _steps(a), size, strict=True):
        low = "" if step > 0 and start == 0 else s.text(start)
        high = "" if end == d or (step < 0 and isinstance(d, int) and end == -(d + 1)) else s.text(end)
        texts.append(f"{low}:{high}" + (f":{step}" if step != 1 else ""))
    return ", ".join(texts)


def _slice_grad(g: Any) -> Gradients:
    """dx = dy at the places it came from, 0 elsewhere; with steps of 1 that is padding."""
    x, a = g.inputs[0], g.attrs
    end = [normal(d - e) for d, e in zip(x.type.shape, a.ends, strict=True)]
    numbers = (*a.starts, *end)
    if not a.steps and all(isinstance(n, int) for n in numbers):
        return (g.b.pad(g.dy, pads=numbers),)
    return (g.b.slice_dx(g.dy, starts=a.starts, ends=a.ends, steps=a.steps, size=x.type.shape),)


def _slice_element(c: Lowering, attrs: SliceAttrs, out: Type, xs: Sequence[Operand], index: Index) -> Any:
    attrs = attrs if not attrs.axes and len(attrs.starts) == out.rank else _canonical(attrs, xs[0].type)
    at = []
    for i, start, step in zip(index, attrs.starts, _steps(attrs), strict=True):
        i = i if step == 1 else i * step
        at.append(i if start == 0 else i + c.dim(start))
    return xs[0](*at)


_X = Arg((4, 5, 6))
_CUTS = (
    SliceAttrs((0, 1, 2), (4, 4, 6)),
    SliceAttrs((1, 0, 1), (4, 5, 6), (1, 2, 3)),
    SliceAttrs((0, 4, 5), (4, -6, 1), (1, -1, -2)),
    SliceAttrs((0, 0, 3), (4, 5, 3)),
)

slice_ = define(
    "slice",
    ("x",),
    attrs=SliceAttrs,
    infer=_slice_infer,
    reference=_slice_reference,
    numpy=lambda s: f"{s[0]}[{_slice_text(s, s.types[0].shape)}]",
    grad=_slice_grad,
    element=_slice_element,
    normalise=_canonical,
    samples=tuple(Sample((_X,), a) for a in _CUTS),
    doc="Part of x, as Python's slicing.",
)


def _dx_infer(attrs: SliceDxAttrs, dy: Type) -> Type:
    """dy of the slice's shape --> the operand's."""
    if not len(attrs.starts) == len(attrs.ends) == len(attrs.size) == dy.rank:
        raise GraphError(f"starts, ends and size must have {dy.rank} numbers, got {attrs}")
    wanted = _extents(attrs, attrs.size)
    if not all(map(same_or_unknown, wanted, dy.shape)):
        raise GraphError(f"dy must have shape {shape_text(wanted)}, got {shape_text(dy.shape)}")
    return dy.with_(shape=tuple(normal(d) for d in attrs.size))


def _dx_reference(attrs: SliceDxAttrs, dy: np.ndarray) -> np.ndarray:
    return plain.place_slice(dy, tuple(map(_number, attrs.size)), _slices(attrs))


def _dx_numpy(s: Line) -> str:
    where = f"np.s_[{_slice_text(s, s.attrs.size)}{',' if s.out.rank == 1 else ''}]"
    return s.call(plain.place_slice, s[0], s.text(s.attrs.size), where)


def _dx_element(c: Lowering, attrs: SliceDxAttrs, out: Type, xs: Sequence[Operand], index: Index) -> Any:
    from tvm import tirx

    tests, at = [], []
    for i, start, step, d, n in zip(index, attrs.starts, _steps(attrs), out.shape, xs[0].type.shape, strict=True):
        moved = i - c.dim(start) if step > 0 else c.dim(start) - i
        size = abs(step)
        place = moved if size == 1 else moved // size
        if size > 1:
            tests.append(tirx.EQ(moved % size, c.dim(0)))
        if step < 0 or start != 0:
            tests.append(moved >= 0)
        if size > 1 or n != d:
            tests.append(place < c.dim(n))
        at.append(place)
    value = xs[0](*at)
    return c.guard(tirx.all(*tests), value, c.const(0, out.dtype)) if tests else value


def _dx_grad(g: Any) -> Gradients:
    """ddy = the slice of ddx."""
    a = g.attrs
    return (g.b.slice(g.dy, starts=a.starts, ends=a.ends, steps=a.steps),)


slice_dx = define(
    "slice_dx",
    ("dy",),
    attrs=SliceDxAttrs,
    infer=_dx_infer,
    reference=_dx_reference,
    numpy=_dx_numpy,
    grad=_dx_grad,
    element=_dx_element,
    samples=tuple(
        Sample((Arg(tuple(map(_number, _extents(a, _X.shape)))),), SliceDxAttrs(a.starts, a.ends, a.steps, _X.shape))
        for a in _CUTS
    ),
    doc="The gradient of slice: dy at the places it was taken from, 0 elsewhere.",
)

# -- pad -------------------------------------------------------------------------------------------------------------

_MODES = ("constant", "reflect", "edge", "wrap")


def _pad_infer(attrs: PadAttrs, x: Type) -> Type:
    """Every axis grows by what is added at its ends."""
    if attrs.mode not in _MODES:
        raise GraphError(f"mode must be one of {', '.join(_MODES)}, got {attrs.mode!r}")
    if len(attrs.pads) != 2 * x.rank:
        raise GraphError(f"pads must have {2 * x.rank} numbers (begin per axis, end per axis), got {attrs.pads}")
    shape: list[Dim] = []
    for axis, d in enumerate(x.shape):
        begin, end = attrs.pads[axis], attrs.pads[x.rank + axis]
        if attrs.mode != "constant" and (begin or end):
            _check_source(attrs.mode, axis, d, begin, end)
        size = normal(d + begin + end)
        if isinstance(size, int) and size < 0:
            raise GraphError(f"axis {axis} must not become negative, got {d} with pads {begin} and {end}")
        shape.append(size)
    return x.with_(shape=tuple(shape))


def _check_source(mode: str, axis: int, size: Dim, begin: int, end: int) -> None:
    """Padding that copies elements needs enough of them."""
    if begin < 0 or end < 0:
        raise GraphError(f"negative pads need mode 'constant', got {begin} and {end} on axis {axis}")
    most = size - 1 if mode == "reflect" else size
    if isinstance(most, int) and ((most < max(begin, end) and mode != "edge") or size == 0):
        raise GraphError(f"mode '{mode}' has {most} elements to copy on axis {axis}, got pads {begin} and {end}")


def _crop(x: np.ndarray, attrs: PadAttrs) -> np.ndarray:
    r = x.ndim
    return x[tuple(slice(max(0, -attrs.pads[a]), x.shape[a] - max(0, -attrs.pads[r + a])) for a in range(r))]


def _pad_reference(attrs: PadAttrs, x: np.ndarray) -> np.ndarray:
    r = x.ndim
    widths = [(max(0, attrs.pads[a]), max(0, attrs.pads[r + a])) for a in range(r)]
    if attrs.mode != "constant":
        return np.pad(x, widths, mode=attrs.mode)  # type: ignore[call-overload,no-any-return]  # a mode of numpy's
    whole = np.pad(x, widths, constant_values=np.asarray(attrs.value).astype(x.dtype))
    return _crop(whole, attrs)


def _pad_numpy(s: Any) -> str:
    """np.pad, and behind it the slices that negative pads cut."""
    a, r = s.attrs, s.out.rank
    begin, end = a.pads[:r], a.pads[r:]
    value = f", constant_values={s.text(a.value)}" if a.mode == "constant" and a.value else ""
    mode = "" if a.mode == "constant" else f', mode="{a.mode}"'
    widths = s.text([(max(b, 0), max(e, 0)) for b, e in zip(begin, end, strict=True)])
    text = f"np.pad({s[0]}, {widths}{mode}{value})" if any(p > 0 for p in a.pads) else s[0]
    if any(p < 0 for p in a.pads):
        cuts = (f"{-b if b < 0 else ''}:{e if e < 0 else ''}" for b, e in zip(begin, end, strict=True))
        text += f"[{', '.join(cuts)}]"
    return text


def _pad_grad(g: Any) -> Gradients:
    """Constant: dx = dy without the padding. Otherwise every padded element is added to the one that it copies."""
    a, b, x = g.attrs, g.b, g.inputs[0]
    if a.mode == "constant":
        return (b.pad(g.dy, pads=tuple(-p for p in a.pads)),)
    dx = g.dy
    for axis in range(x.type.rank):
        begin, end = a.pads[axis], a.pads[x.type.rank + axis]
        if begin or end:
            dx = _folded(b, dx, axis, begin, end, x.type.shape[axis], a.mode)
    return (dx,)


def _folded(b: Builder, dy: Value, axis: int, begin: int, end: int, size: Dim, mode: str) -> Value:
    """The padding of one axis added to where its elements came from."""

    def part(start: Dim, stop: Dim) -> Value:
        return b.slice(dy, starts=(start,), ends=(normal(stop),), axes=(axis,))

    def place(v: Value, start: Dim, length: Dim) -> Value:
        starts = tuple(start if k == axis else 0 for k in range(v.type.rank))
        stop = normal(start + length)
        ends = tuple(stop if k == axis else d for k, d in enumerate(v.type.shape))
        shape = tuple(size if k == axis else d for k, d in enumerate(v.type.shape))
        return b.slice_dx(v, starts=starts, ends=ends, size=shape)

    total = part(begin, begin + size)
    if mode == "edge":
        ends = ((0, begin, 0), (normal(begin + size), normal(begin + size + end), normal(size - 1)))
        for start, stop, target in ends:
            if start != stop:
                edge = b.reduce_sum(part(start, stop), axes=(axis,), keepdims=True)
                total = b.add(total, place(edge, target, 1))
        return total
    flipped = mode == "reflect"
    for start, length, target in (
        (0, begin, 1 if flipped else normal(size - begin)),
        (normal(begin + size), end, normal(size - 1 - end) if flipped else 0),
    ):
        if length:
            piece = part(start, start + length)
            total = b.add(total, place(b.flip(piece, axes=(axis,)) if flipped else piece, target, length))
    return total


def _pad_element(c: Lowering, attrs: PadAttrs, out: Type, xs: Sequence[Operand], index: Index) -> Any:
    from tvm import tirx

    (x,) = xs
    at, tests = [], []
    for axis, i in enumerate(index):
        begin, end = attrs.pads[axis], attrs.pads[out.rank + axis]
        size = x.type.shape[axis]
        moved = i if begin == 0 else i - begin
        if attrs.mode == "constant":
            tests += [moved >= 0] if begin > 0 else []
            tests += [moved < c.dim(size)] if end > 0 else []
        elif begin or end:
            moved = _source(c, attrs.mode, moved, begin, end, size)
        at.append(moved)
    value = x(*at)
    return c.guard(tirx.all(*tests), value, c.const(attrs.value, out.dtype)) if tests else value


def _source(c: Lowering, mode: str, i: Any, begin: int, end: int, size: Dim) -> Any:
    """The place that an index into the padding copies."""
    from tvm import tirx

    n, zero = c.dim(size), c.dim(0)
    if mode == "wrap":
        return i % n
    if mode == "edge":
        i = tirx.max(i, zero) if begin else i
        return tirx.min(i, n - 1) if end else i
    i = tirx.max(i, -i) if begin else i
    return tirx.min(i, (n - 1) * 2 - i) if end else i


pad = define(
    "pad",
    ("x",),
    attrs=PadAttrs,
    infer=_pad_infer,
    reference=_pad_reference,
    numpy=_pad_numpy,
    grad=_pad_grad,
    element=_pad_element,
    samples=(
        Sample((Arg((2, 3, 4)),), PadAttrs((0, 1, 2, 0, 0, 1))),
        Sample((Arg((2, 3, 4)),), PadAttrs((0, -1, 2, 0, 1, -2), value=1.5)),
        *(Sample((Arg((2, 4, 5)),), PadAttrs((0, 3, 1, 0, 2, 4), mode)) for mode in ("reflect", "edge", "wrap")),
        Sample((Arg((2, 3), "i32", -5, 5),), PadAttrs((0, 1, 0, 1), value=7), smooth=False),
    ),
    doc="Elements added at the ends of the axes, or cut off there.",
)
