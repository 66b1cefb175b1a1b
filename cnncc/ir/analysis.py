"""Views of a graph for analysis and comparison."""

from __future__ import annotations

from typing import Any

from cnncc.ir.graph import Graph, Value


def to_networkx(graph: Graph) -> Any:
    """A networkx.MultiDiGraph whose nodes are the Value objects of inputs and constants and the Node objects.

    Edges follow the data and carry `value` (the Value) and `operand` (its position at the reader).
    """
    import networkx as nx

    result = nx.MultiDiGraph(name=graph.name)
    for value in (*graph.inputs, *graph.constants):
        result.add_node(value, label=f"%{value.name}", kind="constant" if value.is_constant else "input")
    for node in graph.nodes:
        result.add_node(node, label=node.where, kind="node")
        for position, operand in enumerate(node.inputs):
            if operand is not None:
                result.add_edge(operand.node or operand, node, value=operand, operand=position)
    return result


def structurally_equal(a: Graph, b: Graph) -> bool:
    """Whether two graphs are the same up to value names: ops, attributes, types, wiring, constants, output names."""
    if len(a.inputs) != len(b.inputs) or len(a.nodes) != len(b.nodes) or a.output_names != b.output_names:
        return False
    same: dict[Value, Value] = {}

    def match(x: Value | None, y: Value | None) -> bool:
        if x is None or y is None:
            return x is y
        if same.get(x) is y:
            return True
        if x.data is None or y.data is None or x.type != y.type or x.data.tobytes() != y.data.tobytes():
            return False
        same[x] = y  # for the next reader; equal constants may also be one value in one graph and two in the other
        return True

    for x, y in zip(a.inputs, b.inputs, strict=True):
        if x.type != y.type:
            return False
        same[x] = y
    for m, n in zip(a.nodes, b.nodes, strict=True):
        if (m.op, m.attrs, len(m.inputs), len(m.outputs)) != (n.op, n.attrs, len(n.inputs), len(n.outputs)):
            return False
        if not all(match(x, y) for x, y in zip(m.inputs, n.inputs, strict=True)):
            return False
        if (m.body is None) != (n.body is None) or (m.body and n.body and not structurally_equal(m.body, n.body)):
            return False
        for x, y in zip(m.outputs, n.outputs, strict=True):
            if x.type != y.type:
                return False
            same[x] = y
    return all(match(x, y) for x, y in zip(a.outputs, b.outputs, strict=True))
