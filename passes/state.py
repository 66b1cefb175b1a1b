"""order-updates: state that is updated in place is written after everything that reads its old value.

The writer may itself read the old value, element by element. Where that order is impossible (two updates read each
other's old values) or a writer reads other elements than it writes, the new value goes through a copy at the end.
`prove_updates` checks the result against the memory plan, by rules of its own, before anything is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import networkx as nx

from cnncc.errors import VerifyError
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.kernel import KernelAttrs, kernel_node
from cnncc.ops.layout import ToLayoutAttrs
from cnncc.ops.registry import lookup
from cnncc.passes.views import Views
from cnncc.targets.table import GENERIC


def order_updates(graph: Graph, state: Mapping[str, str]) -> dict[Value, Value]:
    """Sort the kernels of a laid-out graph; `state` maps inputs to the outputs that replace them. Returns the pairs."""
    inputs = {v.name: v for v in graph.inputs}
    position = {name: k for k, name in enumerate(graph.output_names)}
    pairs = {inputs[old]: position[new] for old, new in state.items()}
    for old, k in pairs.items():
        if not writes_over(graph.outputs[k], old):
            _copy(graph, k)
    while True:
        order = nx.DiGraph()
        order.add_nodes_from(graph.nodes)
        for node in graph.nodes:
            order.add_edges_from((v.node, node) for v in node.operands() if v.node is not None)
        for old, k in pairs.items():
            writer = graph.outputs[k].node
            order.add_edges_from((reader, writer) for reader, _ in _readers(old) if reader is not writer)
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


def prove_updates(graph: Graph, updates: Mapping[Value, Value], views: Views) -> None:
    """Check that no kernel sees a value of the state after it was overwritten, whatever lies where.

    For every update old --> new: `new` has the whole memory of `old` and is written by one kernel alone; every kernel
    that reads memory of `old` runs before that one, or is it and reads only the elements that it writes, each before it
    writes it. Raises VerifyError naming the state and the kernel otherwise.
    """
    step = {node: k for k, node in enumerate(graph.nodes)}
    writers: dict[Value, list[Node]] = {}
    readers: dict[Value, list[tuple[Node, Value]]] = {}
    for node in graph.nodes:
        if node in views.skipped:
            continue
        for value in node.outputs:
            writers.setdefault(views.root(value), []).append(node)
        for value in node.operands():
            readers.setdefault(views.root(value), []).append((node, value))

    def refuse(old: Value, node: Node | None, reason: str) -> VerifyError:
        where = "" if node is None else f"{node.where}: "
        return VerifyError(f"order-updates: {where}the state %{old.name} cannot be updated in place: {reason}")

    if len(set(updates.values())) != len(updates):
        raise VerifyError("order-updates: one value replaces several states; each needs a copy of its own")
    for old, new in updates.items():
        if old in views.views or new in views.views or new.type != old.type:
            raise refuse(old, new.node, "its new value lies elsewhere, or has another type")
        if old in writers:
            raise refuse(old, writers[old][0], "a kernel writes into its old value")
        made = writers.get(new, [])
        if len(made) != 1 or made[0] is not new.node:
            raise refuse(old, made[-1] if made else None, f"{len(made)} kernels write into its new value")
        (writer,) = made
        for node, value in readers.get(old, []):
            if step[node] > step[writer]:
                raise refuse(old, node, f"it is read after {writer.where} has overwritten it")
            if node is writer and (value is not old or not writer.attrs.in_place or not writes_over(new, old)):
                raise refuse(old, node, "the kernel reads other elements than those it writes")


def _readers(value: Value) -> Iterator[tuple[Node, Value]]:
    """Kernels that read a value or what may be a view of it, each with what it reads."""
    for node in value.users:
        if node.body is None:
            for result in node.outputs:
                yield from _readers(result)
        else:
            yield node, value


def writes_over(new: Value, old: Value) -> bool:
    """Whether the kernel that makes `new` may write over `old`: of it, it reads only the element that it writes."""
    node = new.node
    if node is None or node.body is None or new.type != old.type or len(node.outputs) != 1:
        return False
    if any(reader is node and value is not old for reader, value in _readers(old)):
        return False  # also as a view: other elements of the same memory
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
