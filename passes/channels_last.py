"""Blocks of channels on one side of a transpose, channels last on the other.

    y[n, h, w, c] = x[n, c, h, w]      x in blocks: vectors of channels on both sides, nothing is shuffled

Layer norms and products over the channels of an image (ConvNeXt, attention) stand between such transposes, depthwise
convolutions in blocks around them. A kernel of transposes and elementwise operations can therefore read or write
blocks where channels are the second axis, and rows of channels where they are the last.
"""

from __future__ import annotations

from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.layout import PLAIN, Layout, channels
from cnncc.ops.registry import lookup

SECOND, LAST = 1, -1


def layouts_beside_transposes(body: Graph, block: int) -> tuple[tuple[Layout, ...], tuple[Layout, ...]] | None:
    """Layouts of a kernel's operands and results: blocks wherever channels are the second axis. None where it is no
    kernel of that kind."""
    found = _channel_axes(body)
    if found is None:
        return None
    wanted = tuple(
        channels(block) if found.get(v) == SECOND and v.type.shape[1] % block == 0 else PLAIN
        for v in (*body.inputs, *body.outputs)
    )
    if not any(wanted):
        return None
    return wanted[: len(body.inputs)], wanted[len(body.inputs) :]


def _channel_axes(body: Graph) -> dict[Value, int] | None:
    """Where the channels of every full value stand; None where transposes do something else, or disagree."""
    turns = [n for n in body.nodes if n.op == "transpose"]
    if not turns or any(n.op != "transpose" and not lookup(n.op).elementwise for n in body.nodes):
        return None
    axes: dict[Value, int] = {}
    for node in turns:
        at = _turned(node)
        if at is None:
            return None
        for value, axis in ((next(node.operands()), -at), (node.outputs[0], at)):
            if axes.setdefault(value, axis) != axis:
                return None
    known = -1
    while known != len(axes):
        known = len(axes)
        for node in body.nodes:
            if node.op == "transpose":
                continue
            alike = [v for v in (*node.operands(), *node.outputs) if v.type.shape == node.outputs[0].type.shape]
            told = {axes[v] for v in alike if v in axes}
            if len(told) > 1:
                return None
            for value in alike:
                for axis in told:
                    axes[value] = axis
    full = all(
        isinstance(v.type.shape[1 if axis == SECOND else v.type.rank - 1], int) and v.type.dtype == "f32"
        for v, axis in axes.items()
    )
    return axes if full else None


def _turned(node: Node) -> int | None:
    """Where a transpose of an image brings the channels from the other place, None where it does something else."""
    rank, order = node.outputs[0].type.rank, tuple(node.attrs.perm)
    if rank < 4:
        return None
    if order == (0, *range(2, rank), 1):
        return LAST
    return SECOND if order == (0, rank - 1, *range(1, rank - 1)) else None
