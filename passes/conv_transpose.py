"""lower-conv-transpose: transposed convolutions become dense convolutions, never over a zero-inserted input."""

from __future__ import annotations

from math import prod

from cnncc.builder import Builder
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ops.window import geometry
from cnncc.passes.manager import Context
from cnncc.passes.rules import Decline, Rule, apply_rules, rule

BLOCK = 16  # channels of a block on the widest target: whole ones can be written side by side


@rule("conv_transpose(x, w)")
def unit_stride(b: Builder, root: Node, x: Value, w: Value) -> Value | Decline:
    """conv_transpose(x, w, stride 1, p) --> conv(x, flip(w), e - 1 - p), e the extent of the dilated kernel."""
    g = geometry(root.attrs, w.type.shape[2:])
    if any(s != 1 for s in g.strides):
        return Decline("the stride is not 1")
    begin = tuple(e - 1 - p for e, p in zip(g.extent, g.begin, strict=True))
    end = tuple(e - 1 - p for e, p in zip(g.extent, g.end, strict=True))
    if root.attrs.output_padding or any(p < 0 for p in (*begin, *end)):
        return Decline("the result is larger, or more is cut off, than the flipped convolution's")
    flipped = b.flip(_swapped(b, w, root.attrs.groups), axes=tuple(range(2, w.type.rank)))
    return b.conv(x, flipped, pads=(*begin, *end), dilations=g.dilations, groups=root.attrs.groups)


@rule("conv_transpose(x, w)")
def strided(b: Builder, root: Node, x: Value, w: Value) -> Value | Decline:
    """conv_transpose(x, w, stride s) --> interleave(conv(x, phases of w)).

    With taps k = q s + r, result i s + q s + r is phase r of a convolution with the taps q (zeros where k is beyond the
    kernel): y_r[j] = sum_q x[j - q] w[q s + r]. All phases are output channels of one convolution; but for a depthwise
    one, whose phases would lie between the channels: those are convolutions of their own, side by side.
    """
    g = geometry(root.attrs, w.type.shape[2:])
    if any(d != 1 for d in g.dilations):
        return Decline("the kernel is dilated")
    rank, groups = g.rank, root.attrs.groups
    apart = groups > 1 and groups == w.type.shape[0] and w.type.shape[1] == 1 and groups % BLOCK == 0
    taps = tuple(-(-k // s) for k, s in zip(g.kernel, g.strides, strict=True))
    missing = tuple(q * s - k for q, s, k in zip(taps, g.strides, g.kernel, strict=True))
    rows = _swapped(b, w, groups)  # [groups * C, M / groups, *kernel]
    if any(missing):
        rows = b.pad(rows, pads=(0,) * (rank + 4) + missing)
    out, inner = rows.type.shape[:2]
    per_group = out // groups
    split = [d for q, s in zip(taps, g.strides, strict=True) for d in (q, s)]
    rows = b.reshape(rows, shape=(groups, per_group, inner, *split))
    phases = [4 + 2 * i for i in range(rank)]
    order = (*phases, 0) if apart else (0, *phases)
    rows = b.transpose(rows, perm=(*order, 1, 2, *(p - 1 for p in phases)))
    rows = b.reshape(rows, shape=(out * prod(g.strides), inner, *taps))
    if any(q > 1 for q in taps):
        rows = b.flip(rows, axes=tuple(range(2, rank + 2)))
    pads = tuple(q - 1 for q in taps) * 2
    size = root.output.type.shape[2:]
    if apart:
        each = [b.conv(x, own, pads=pads, groups=groups) for own in _parts(b, rows, out)]
        return b.interleave(b.concat(*each, axis=1), strides=g.strides, begin=g.begin, size=size)
    y = b.conv(x, rows, pads=pads, groups=groups)
    return b.interleave(y, strides=g.strides, begin=g.begin, size=size, groups=groups)


def _parts(b: Builder, rows: Value, count: int) -> list[Value]:
    """The weights of each phase, `count` rows."""
    total = int(rows.type.shape[0])
    return [b.slice(rows, starts=(k,), ends=(k + count,), axes=(0,)) for k in range(0, total, count)]


def _swapped(b: Builder, w: Value, groups: int) -> Value:
    """w [M, C / groups, *kernel] --> [C, M / groups, *kernel]."""
    m, c, *kernel = w.type.shape
    if groups == 1:
        return b.transpose(w, perm=(1, 0, *range(2, w.type.rank)))
    split = b.reshape(w, shape=(groups, m // groups, c, *kernel))
    swapped = b.transpose(split, perm=(0, 2, 1, *range(3, w.type.rank + 1)))
    return b.reshape(swapped, shape=(groups * c, m // groups, *kernel))


RULES: tuple[Rule, ...] = (unit_stride, strided)


def lower_conv_transpose(graph: Graph, context: Context) -> None:
    """Apply RULES."""
    apply_rules(graph, RULES, context)
