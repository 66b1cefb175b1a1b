"""split-resize: interpolation along several axes becomes one step per axis, where that is less work."""

from __future__ import annotations

from cnncc.builder import Builder
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ops.resize import TAPS, axis_maps
from cnncc.passes.manager import Context

BLOCK = 16  # channels of a block, on the widest of the targets
FEW = 8  # neighbours of an element that one kernel sums as fast where channels lie in blocks


def split_resize(graph: Graph, context: Context) -> None:
    """resize(x) over several axes --> one resize for each, first those that shrink, then the others, last first.

    An element is a sum over 2 (linear) or 4 (cubic) neighbours along every axis; so each row is interpolated along the
    last axis once, not once for every row made of it, and the steps along other axes take whole rows, with the same
    weights all along. Where channels lie in blocks, a vector has one weight in any case, and the 4 or 8 neighbours of
    linear interpolation are summed as fast at once.
    """
    if context.target is not None and context.target.kind != "cpu":
        return
    for node in list(graph.nodes):
        if node.op != "resize":
            continue
        if reason := _declines(node):
            context.decline("split-resize", node.where, reason)
        else:
            graph.replace(node.output, _split(Builder(graph), node))
    graph.tidy()


def _declines(node: Node) -> str:
    """The reason why one kernel does it all."""
    (x,), attrs = node.operands(), node.attrs
    if attrs.mode == "nearest":
        return "an element has one neighbour"
    if not all(isinstance(d, int) for d in (*x.type.shape[-len(attrs.size) :], *attrs.size)):
        return "sizes must be known"
    maps = axis_maps(attrs, x.type, node.output.type)
    if len(maps) < 2:
        return "one axis changes"
    channels = x.type.shape[1]
    if maps[0][0] < 2 or not isinstance(channels, int) or channels % BLOCK:
        return ""
    if (terms := TAPS[attrs.mode] ** len(maps)) <= FEW:
        return f"channels lie in blocks, and {terms} neighbours are summed at once"
    if any(m.out < m.size for _, m in maps):
        return "channels lie in blocks, and rows would be made that the result does not need"
    return ""


def _split(b: Builder, node: Node) -> Value:
    (x,), attrs = node.operands(), node.attrs
    first = x.type.rank - len(attrs.size)
    maps = axis_maps(attrs, x.type, node.output.type)
    shrinking = [axis for axis, m in maps if m.out < m.size]
    growing = [axis for axis, m in maps if m.out >= m.size]
    for axis in (*shrinking, *reversed(growing)):
        at = axis - first
        size = tuple(d if k == at else x.type.shape[first + k] for k, d in enumerate(attrs.size))
        scales = tuple(s if k == at else 0.0 for k, s in enumerate(attrs.scales))
        step = {"size": size, "scales": scales, "mode": attrs.mode, "coordinates": attrs.coordinates}
        x = b.op("resize", x, source=node.source, **step)
    return x
