"""Phases: the positions that are equal modulo a stride, along each spatial axis.

`lower-conv-transpose` rewrites conv_transpose with stride s into a dense convolution that gives the s * s phases of the
result as channels, and interleave, which moves them to their places. `lower-dilation` makes the phases of a dilated
convolution's input neighbours (split_phases), and puts its results back (join_phases).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, normal
from cnncc.ir.types import Type
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.registry import Arg, Sample, define
from cnncc.ops.window import last


@dataclass(frozen=True)
class InterleaveAttrs:
    """strides: phases per spatial axis. begin: results dropped at the beginning of each axis. size: of the result (may
    reach beyond the last phase: zeros). groups: channels are ordered (group, phase, channel)."""

    strides: tuple[int, ...] = ()
    begin: tuple[int, ...] = ()
    size: tuple[Dim, ...] = ()
    groups: int = 1


def _infer(attrs: InterleaveAttrs, x: Type) -> Type:
    """x [N, groups * phases * C, *size] --> [N, groups * C, *attrs.size]."""
    phases = prod(attrs.strides)
    if not isinstance(x.shape[1], int) or x.shape[1] % (phases * attrs.groups):
        raise GraphError(
            f"channels must be a multiple of {phases} phases times {attrs.groups} groups, got {x.shape[1]}"
        )
    return x.with_(shape=(x.shape[0], x.shape[1] // phases, *attrs.size))


def _reference(attrs: InterleaveAttrs, x: np.ndarray) -> np.ndarray:
    n, s, rank = x.shape[0], attrs.strides, len(attrs.strides)
    split = x.reshape(n, attrs.groups, *s, -1, *x.shape[2:])
    at = 3 + rank  # n, groups, phases, channel, then positions
    order = [0, 1, 2 + rank] + [axis for i in range(rank) for axis in (at + i, 2 + i)]
    whole = split.transpose(order).reshape(n, -1, *(d * f for d, f in zip(x.shape[2:], s, strict=True)))
    size = [int(d) for d in attrs.size]
    result = np.zeros((n, whole.shape[1], *size), x.dtype)
    taken = [min(d, w - b) for d, w, b in zip(size, whole.shape[2:], attrs.begin, strict=True)]
    inner = tuple(slice(0, t) for t in taken)
    source = tuple(slice(b, b + t) for b, t in zip(attrs.begin, taken, strict=True))
    result[last(inner)] = whole[last(source)]
    return result


def _element(c: Lowering, attrs: InterleaveAttrs, out: Type, xs: Sequence[Operand], index: tuple[Any, ...]) -> Any:
    from tvm import tirx

    (x,) = xs
    n, channel, *places = index
    per_group = out.shape[1] // attrs.groups
    phase: Any = 0
    positions, inside = [], []
    for o, s, b, d, size in zip(places, attrs.strides, attrs.begin, x.type.shape[2:], attrs.size, strict=True):
        at = o + b
        phase = phase * s + tirx.floormod(at, s)
        positions.append(tirx.floordiv(at, s))
        beyond = normal(size + b - d * s)
        if not isinstance(beyond, int) or beyond > 0:
            inside.append(at < c.dim(normal(d * s)))
    if attrs.groups == 1:
        source = phase * per_group + channel
    else:
        source = (channel // per_group * prod(attrs.strides) + phase) * per_group + channel % per_group
    value = x(n, source, *positions)
    return c.guard(tirx.all(*inside), value, c.const(0, out.dtype)) if inside else value


interleave = define(
    "interleave",
    ("x",),
    attrs=InterleaveAttrs,
    infer=_infer,
    reference=_reference,
    no_grad="made after differentiation, by lower-conv-transpose",
    element=_element,
    samples=(
        Sample((Arg((2, 12, 3, 4)),), InterleaveAttrs((2, 2), (1, 0), (5, 7))),
        Sample((Arg((1, 12, 3)),), InterleaveAttrs((3,), (0,), (10,), 2)),
    ),
    doc="Phases that are channels --> their places in the spatial axes.",
)

# -- split_phases, join_phases ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SplitAttrs:
    """strides: phases per spatial axis. gap: zeros between phases."""

    strides: tuple[int, ...] = ()
    gap: tuple[int, ...] = ()


@dataclass(frozen=True)
class JoinAttrs:
    """strides: phases per spatial axis. pitch: from the start of a phase to the next. size: of the result."""

    strides: tuple[int, ...] = ()
    pitch: tuple[int, ...] = ()
    size: tuple[int, ...] = ()


def _sizes(x: Type, *numbers: tuple[int, ...]) -> list[int]:
    """The spatial sizes, which must be numbers, and as many as there are strides."""
    sizes = x.shape[2:]
    if not all(isinstance(d, int) for d in sizes) or any(len(n) != len(sizes) for n in numbers):
        raise GraphError(f"spatial sizes must be numbers, one for each of {numbers}, got {x}")
    return [int(d) for d in sizes]


def _split_infer(attrs: SplitAttrs, x: Type) -> Type:
    """x [N, C, *size] --> [N, C, *strides * (ceil(size / strides) + gap) - gap]."""
    size = _sizes(x, attrs.strides, attrs.gap)
    lengths = (s * (-(-d // s) + g) - g for d, s, g in zip(size, attrs.strides, attrs.gap, strict=True))
    return x.with_(shape=(*x.shape[:2], *lengths))


def _split_reference(attrs: SplitAttrs, x: np.ndarray) -> np.ndarray:
    for axis, (s, g) in enumerate(zip(attrs.strides, attrs.gap, strict=True), start=2):
        moved = np.moveaxis(x, axis, -1)
        pitch = -(-moved.shape[-1] // s) + g
        y = np.zeros((*moved.shape[:-1], s * pitch - g), x.dtype)
        for r in range(s):
            phase = moved[..., r::s]
            y[..., r * pitch : r * pitch + phase.shape[-1]] = phase
        x = np.moveaxis(y, -1, axis)
    return np.ascontiguousarray(x)


def _split_element(c: Lowering, attrs: SplitAttrs, out: Type, xs: Sequence[Operand], index: tuple[Any, ...]) -> Any:
    from tvm import tirx

    (x,) = xs
    positions, inside = [], []
    for o, s, g, d in zip(index[2:], attrs.strides, attrs.gap, _sizes(x.type), strict=True):
        pitch = -(-d // s) + g
        at = tirx.floormod(o, pitch) * s + tirx.floordiv(o, pitch) if s > 1 else o
        positions.append(at)
        if s > 1 and s * pitch > d:
            inside.append(at < c.dim(d))
    value = x(*index[:2], *positions)
    return c.guard(tirx.all(*inside), value, c.const(0, out.dtype)) if inside else value


split_phases = define(
    "split_phases",
    ("x",),
    attrs=SplitAttrs,
    infer=_split_infer,
    reference=_split_reference,
    no_grad="made after differentiation, by lower-dilation",
    element=_split_element,
    samples=(
        Sample((Arg((2, 3, 5, 4)),), SplitAttrs((2, 3), (1, 2))),
        Sample((Arg((1, 2, 9)),), SplitAttrs((3,), (0,))),
        Sample((Arg((1, 2, 6, 5)),), SplitAttrs((1, 2), (1, 1))),
    ),
    doc="Positions equal modulo the strides side by side, zeros between the phases and where one is shorter.",
)


def _join_infer(attrs: JoinAttrs, x: Type) -> Type:
    """x [N, C, *length] --> [N, C, *attrs.size]; every phase holds what the result reads of it."""
    lengths = _sizes(x, attrs.strides, attrs.pitch, attrs.size)
    for length, s, pitch, size in zip(lengths, attrs.strides, attrs.pitch, attrs.size, strict=True):
        if max((o % s) * pitch + o // s for o in range(size)) >= length:
            raise GraphError(f"{size} positions of {s} phases at a pitch of {pitch} need more than {length} elements")
    return x.with_(shape=(*x.shape[:2], *attrs.size))


def _join_reference(attrs: JoinAttrs, x: np.ndarray) -> np.ndarray:
    for axis, (s, pitch, size) in enumerate(zip(attrs.strides, attrs.pitch, attrs.size, strict=True), start=2):
        x = x.take([(o % s) * pitch + o // s for o in range(size)], axis)
    return x


def _join_element(c: Lowering, attrs: JoinAttrs, out: Type, xs: Sequence[Operand], index: tuple[Any, ...]) -> Any:
    from tvm import tirx

    places = zip(index[2:], attrs.strides, attrs.pitch, strict=True)
    positions = (tirx.floormod(o, s) * p + tirx.floordiv(o, s) if s > 1 else o for o, s, p in places)
    return xs[0](*index[:2], *positions)


join_phases = define(
    "join_phases",
    ("x",),
    attrs=JoinAttrs,
    infer=_join_infer,
    reference=_join_reference,
    no_grad="made after differentiation, by lower-dilation",
    element=_join_element,
    samples=(
        Sample((Arg((2, 3, 7, 10)),), JoinAttrs((2, 3), (4, 4), (5, 4))),
        Sample((Arg((1, 2, 9)),), JoinAttrs((3,), (3,), (9,))),
    ),
    doc="The inverse of split_phases: phases side by side --> their places, cut to a size.",
)
