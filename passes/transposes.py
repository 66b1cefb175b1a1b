"""sink-transposes: transposes move behind elementwise operations, where they meet their inverses and vanish.

Graphs from channels-last frameworks have a pair around every convolution; behind the sinking, canonicalize merges them.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from cnncc.builder import Builder
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ops.registry import lookup
from cnncc.passes.manager import Context


def sink_transposes(graph: Graph, context: Context) -> None:
    """f(transpose(x, p), transpose(y, p), c) --> transpose(f(x, y, transpose(c, inverse p)), p), c constant.

    f is elementwise, and every transpose in front of it has no other reader.
    """
    changed = True
    while changed:
        changed = False
        for node in list(graph.nodes):
            if node.body is None and lookup(node.op).elementwise and len(node.outputs) == 1:
                reason = _sink(graph, node)
                changed |= reason == ""
                if reason:
                    context.decline("sink-transposes", node.where, reason)
        graph.tidy()


def _sink(graph: Graph, node: Node) -> str | None:
    """Sink the transposes in front of a node; returns "" when done, a reason, or None where there are none."""
    moved = [v for v in node.operands() if v.node is not None and v.node.op == "transpose"]
    if not moved:
        return None
    assert moved[0].node is not None
    perm = moved[0].node.attrs.perm
    rank = node.output.type.rank
    sources: list[Value] = []
    b = Builder(graph)
    for value in node.operands():
        if value in moved:
            assert value.node is not None
            if value.node.attrs.perm != perm:
                return f"the operands are transposed differently, {perm} and {value.node.attrs.perm}"
            if graph.uses(value) != 1:
                return f"%{value.name} has other readers"
            (source,) = value.node.operands()
            sources.append(source)
        elif value.data is not None and value.data.size == 1:
            sources.append(value)
        elif value.data is not None and value.type.rank == rank:
            sources.append(b.constant(np.ascontiguousarray(value.data.transpose(np.argsort(perm))), value.name))
        else:
            return f"%{value.name} is neither transposed nor a constant of full rank"
    result = b.op(node.op, *sources, source=node.source, **asdict(node.attrs))
    graph.replace(node.output, b.transpose(result, perm=perm))
    node.drop()
    graph.nodes.remove(node)
    return ""
