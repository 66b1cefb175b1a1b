"""propose-kernels: groups of operations that one kernel will run.

A region has at most one anchor, an op that is not evaluated element by element (conv, matmul, pool, reduction). It
takes the elementwise ops behind the anchor (epilogue) up to the point that post-dominates them, so that x * sigmoid(x)
fuses although x has two users. What is left over fuses among itself, and into reductions that read it.

Reshapes stay outside: they are views. A concat is a region of its own: its members are written in place where the
memory plan can do that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import networkx as nx

from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.kernel import KernelAttrs, kernel_node, take_place
from cnncc.ops.registry import lookup
from cnncc.ops.window import geometry
from cnncc.passes.fusion import kind_of, switched_off
from cnncc.passes.manager import Context

VIEWS = frozenset({"reshape"})
ALONE = frozenset({"concat"})
TAKES_PROLOGUE = ("reduce_", "softmax", "log_softmax", "arg", "average_pool", "adaptive")
READS_ONCE = ("reduce_", "arg")
LIMIT = 16  # operations in an epilogue, or of a chain: larger expressions cost more registers than they save traffic


class Region:
    """Nodes of one kernel in topological order."""

    def __init__(self, anchor: Node | None, nodes: Iterable[Node]):
        self.anchor = anchor
        self.nodes = list(nodes)
        self.prologue: list[Node] = []

    def readers(self) -> list[Node]:
        """Who may read a prologue: the anchor; and where that reads every element once, the prologue itself."""
        assert self.anchor is not None
        return [self.anchor, *(self.prologue if _reads_once(self.anchor) else ())]


def _takes_prologue(anchor: Node) -> bool:
    """Whether an anchor may compute its operand; gradients of pools have an algorithm that reads it."""
    return anchor.op.startswith(TAKES_PROLOGUE) and not anchor.op.endswith("_dx")


def _reads_once(anchor: Node) -> bool:
    """Whether an anchor reads every element of its operand at most once, as a pool does whose windows lie apart."""
    if anchor.op != "average_pool":
        return anchor.op.startswith(READS_ONCE)
    g = geometry(anchor.attrs, anchor.attrs.kernel)
    return all(s >= k and d == 1 for s, k, d in zip(g.strides, g.kernel, g.dilations, strict=True))


def propose_kernels(graph: Graph, context: Context) -> None:
    """ops --> kernels. Every node but views becomes part of exactly one kernel."""
    owner: dict[Node, Region] = {}
    order = {node: k for k, node in enumerate(graph.nodes)}
    after = _post_dominators(graph)

    for node in graph.nodes:
        if node in owner or node.op in VIEWS or node.body is not None or lookup(node.op).fusible:
            continue
        owner[node] = Region(node, [node])
    for node in reversed(graph.nodes):  # the latest anchor takes a shared epilogue: its other operands are ready then
        region = owner.get(node)
        if region is not None and region.anchor is node and len(node.outputs) == 1:
            _take_epilogue(graph, region, owner, after, order, context)
    for node in reversed(graph.nodes):
        if node not in owner and node.op not in VIEWS and node.body is None:
            _place(graph, node, owner, context)
    regions = {id(r): r for r in owner.values()}
    for region in regions.values():
        region.nodes.sort(key=order.__getitem__)
    for region in sorted(regions.values(), key=lambda r: order[r.nodes[-1]]):
        make_kernel(graph, region)


def _take_epilogue(
    graph: Graph,
    region: Region,
    owner: dict[Node, Region],
    after: dict[Node, Any],
    order: dict[Node, int],
    context: Context,
) -> None:
    last = region.nodes[-1]
    while len(region.nodes) <= LIMIT:
        end = after.get(last)
        if not isinstance(end, Node) or any(v in graph.outputs for v in last.outputs):
            return
        between = _between(last, end, order)
        inside = {v for n in (*region.nodes, *between) for v in n.outputs}
        kinds = [kind_of(n, inside) if lookup(n.op).elementwise else "" for n in between]
        reasons = [
            _refuses(n, last, end, owner) or switched_off(kind, context.without)
            for n, kind in zip(between, kinds, strict=True)
        ]
        reason = next(filter(None, reasons), "")
        if reason:
            context.decline("propose-kernels", last.where, reason)
            return
        for node in between:
            owner[node] = region
            region.nodes.append(node)
        last = end


def _refuses(node: Node, last: Node, end: Node, owner: dict[Node, Region]) -> str:
    if node in owner or node.op in VIEWS:
        return f"{node.where} is no elementwise operation"
    if not lookup(node.op).elementwise:
        return f"{node.where} is no elementwise operation"
    if node.output.type.shape != last.outputs[0].type.shape:
        return f"{node.where} has another shape than the anchor's result"
    if node.output.type.numpy.itemsize != last.outputs[0].type.numpy.itemsize and node is end:
        return f"{node.where} has elements of another size"
    return ""


def _between(start: Node, end: Node, order: dict[Node, int]) -> list[Node]:
    """Nodes on the paths from `start` (left out) to `end`, which post-dominates it."""
    seen: set[Node] = set()
    stack = list(start.outputs[0].users)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node is not end:
            stack.extend(u for v in node.outputs for u in v.users)
    return sorted(seen, key=order.__getitem__)


def _post_dominators(graph: Graph) -> dict[Node, Any]:
    """For each node the node that every path from it to the outputs passes first."""
    reverse = nx.DiGraph()
    reverse.add_node("exit")
    for node in graph.nodes:
        if any(v in graph.outputs for v in node.outputs):
            reverse.add_edge("exit", node)
        for value in node.outputs:
            reverse.add_edges_from((user, node) for user in value.users)
    return {n: d for n, d in nx.immediate_dominators(reverse, "exit").items() if n != "exit"}


def _place(graph: Graph, node: Node, owner: dict[Node, Region], context: Context) -> None:
    """A fusible node that no anchor took: into the region of all its users, or a region of its own."""
    users = {id(owner[u]) if u in owner else 0 for v in node.outputs for u in v.users}
    if len(users) == 1 and 0 not in users and not any(v in graph.outputs for v in node.outputs):
        user = next(iter(node.outputs[0].users))
        region = owner[user]
        reads = sum(sum(v.users.values()) for v in node.outputs)
        if node.op in ALONE or any(n.op in ALONE for n in region.nodes):
            reason = "a concat is a kernel of its own"
        elif _beside_epilogue(node, region) and not switched_off("residual", context.without):
            owner[node] = region
            region.nodes.append(node)
            return
        elif region.anchor is not None and not _takes_prologue(region.anchor):
            reason = f"{region.anchor.op} takes no prologue"
        elif region.anchor is not None and any(u not in region.readers() for u in node.outputs[0].users):
            reason = "it is read behind the anchor, or the anchor would compute it several times"
        elif region.anchor is not None and (off := switched_off("reduction", context.without)):
            reason = off
        elif any(u.op == "resize" and u.attrs.mode != "nearest" for u in node.outputs[0].users):
            reason = "interpolation would compute it again for every neighbour"
        elif len(region.nodes) >= LIMIT or reads > 2:
            reason = f"the kernel would have more than {LIMIT} operations, or compute the value {reads} times"
        else:
            owner[node] = region
            region.nodes.append(node)
            region.prologue.append(node)
            return
        context.decline("propose-kernels", node.where, reason)
    owner[node] = Region(None, [node])


def _beside_epilogue(node: Node, region: Region) -> bool:
    """Whether an operation is elementwise and only read behind the region's anchor, at the elements of its result: the
    momentum that a weight gradient is added to, the mask that a gradient is selected by."""
    if region.anchor is None or len(region.anchor.outputs) != 1 or len(region.nodes) > LIMIT:
        return False
    result = region.anchor.output.type
    if not lookup(node.op).elementwise or node.output.type.shape != result.shape:
        return False
    if any(v.type.dtype != result.dtype for v in node.operands()):
        return False
    before = {region.anchor, *region.prologue}
    return all(u not in before and u.output.type.shape == result.shape for u in node.outputs[0].users)


def make_kernel(graph: Graph, region: Region) -> None:
    """Put the nodes of a region into the body of one kernel. Operands stay in front of it, the graph needs a tidy."""
    inside = set(region.nodes)
    body = Graph("body")
    inner: dict[Value, Value] = {}
    operands: list[Value] = []
    for node in region.nodes:
        for value in node.operands():
            if value not in inner and value.node not in inside:
                operands.append(value)
                inner[value] = body.add_input(value.name, value.type)
        body.add_copy(node, inner)
    results = [
        v for n in region.nodes for v in n.outputs if v in graph.outputs or any(u not in inside for u in v.users)
    ]
    for value in results:
        body.add_output(inner[value])
    source = (region.anchor or region.nodes[-1]).source
    kernel = kernel_node(graph, body, operands, KernelAttrs(), source)
    take_place(graph, kernel, results, region.nodes)
