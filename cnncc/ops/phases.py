"""interleave: the phases of a strided transposed convolution, put together.

`lower-conv-transpose` rewrites conv_transpose with stride s into a dense convolution that gives the s * s phases of the
result as channels, and this op, which moves them to their places.
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
