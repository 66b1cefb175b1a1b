"""order-updates: state that is updated in place is written after everything that reads its old value.

The writer may itself read the old value, element by element. Where that order is impossible (two updates read each
other's old values) or a writer reads other elements than it writes, the new value goes through a copy at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import networkx as nx

from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.kernel import KernelAttrs, kernel_node
from cnncc.ops.layout import ToLayoutAttrs
from cnncc.ops.registry import lookup
from cnncc.targets.table import GENERIC


def order_updates(graph: Graph, state: Mapping[str, str]) -> dict[Value, Value]:
    """Sort the kernels of a laid-out graph; `state` maps inputs to the outputs that replace them. Returns the pairs."""
    inputs = {v.name: v for v in graph.inputs}
    position = {name: k for k, name in enumerate(graph.output_names)}
    pairs = {inputs[old]: position[new] for old, new in state.items()}
    for old, k in pairs.items():
        if not _elementwise(graph.outputs[k], old):
            _copy(graph, k)
    while True:
        order = nx.DiGraph()
        order.add_nodes_from(graph.nodes)
        for node in graph.nodes:
            order.add_edges_from((v.node, node) for v in node.operands() if v.node is not None)
        for old, k in pairs.items():
            writer = graph.outputs[k].node
            order.add_edges_from((reader, writer) for reader in old.users if reader is not writer)
        position_of = {n: i for i, n in enumerate(graph.nodes)}
        try:
            for old, k in pairs.items():
                writer = graph.outputs[k].node
                if writer is not None and old.users.get(writer):
                    writer.attrs = replace(writer.attrs, in_place=True)
            graph.nodes = list(nx.lexicographical_topological_sort(order, key=position_of.__getitem__))
            return {old: graph.outputs[k] for old, k in pairs.items()}
        except nx.NetworkXUnfeasible:
            cycle = nx.find_cycle(order)
            writers = {graph.outputs[k].node: k for k in pairs.values()}
            _copy(graph, next(writers[n] for n, _ in cycle if n in writers))


def _elementwise(new: Value, old: Value) -> bool:
    """Whether the kernel that makes `new` may write over `old`: it reads only the element that it writes."""
    node = new.node
    if node is None or node.body is None or new.type != old.type or len(node.outputs) != 1:
        return False
    reads = dict(zip(node.operands(), node.body.inputs, strict=True)).get(old)
    touched = {reads}
    for inner in node.body.nodes:
        if touched & set(inner.operands()):
            if not lookup(inner.op).elementwise or inner.output.type.shape != old.type.shape:
                return False
            touched.add(inner.output)
    return True


def _copy(graph: Graph, k: int) -> None:
    value = graph.outputs[k]
    body = Graph("body")
    x = body.add_input("x", value.type)
    body.add_output(body.add_node(Node("to_layout", [x], ToLayoutAttrs(), [value.type], ["y"])).output)
    kernel = kernel_node(graph, body, [value], KernelAttrs(GENERIC), f"copy of {value.name}")
    graph.add_node(kernel)
    graph.outputs[k] = kernel.output
