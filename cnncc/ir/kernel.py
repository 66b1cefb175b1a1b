"""Kernels in the graph: a node with a body. The body is a graph of ordinary ops; its meaning is the kernel's meaning.

`propose-kernels` makes them, `choose` sets the algorithm and the layouts, `choose-tiles` the tile record.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cnncc.ir.graph import Graph, Node, Value

KERNEL = "kernel"


@dataclass(frozen=True)
class KernelAttrs:
    """algorithm: a name of the target's table, empty while undecided. tile: the algorithm's tile record as pairs.

    layouts: tags wanted for the operands, then for the results ("": row-major), until lay-out has put them into the
    types. in_place: the result may lie where an operand lies (order-updates sets it). pitches: for the operands, then
    the results, elements from one image to the next where images lie apart, 0 where they do not (find-views sets it).
    """

    algorithm: str = ""
    layouts: tuple[str, ...] = ()
    in_place: bool = False
    tile: tuple[tuple[str, int | str | bool | tuple[int, ...]], ...] = ()
    pitches: tuple[int, ...] = ()


def kernel_node(graph: Graph, body: Graph, operands: Sequence[Value], attrs: KernelAttrs, source: str) -> Node:
    """A kernel node with fresh result names; the caller inserts it."""
    types = [v.type for v in body.outputs]
    names = [graph.fresh_name(v.name) for v in body.outputs]
    return Node(KERNEL, operands, attrs, types, names, source, body)


def take_place(graph: Graph, kernel: Node, results: Iterable[Value], nodes: Iterable[Node]) -> None:
    """A kernel in the place of nodes: it makes these results of theirs, under their names; the graph needs a tidy."""
    graph.add_node(kernel)
    for node in nodes:
        node.drop()
        graph.nodes.remove(node)
    for old, new in zip(results, kernel.outputs, strict=True):
        new.name, old.name = old.name, new.name
        graph.replace(old, new)


def anchor(body: Graph) -> Node | None:
    """The one op of a body that is not evaluated element by element (conv, pool, matmul, ...), if there is one.

    Where a depthwise convolution is computed for the 1x1 convolution behind it, that is the latter.
    """
    from cnncc.ops.registry import lookup

    heavy = [n for n in body.nodes if not lookup(n.op).fusible]
    convolutions = [n for n in heavy if n.op == "conv"]
    return convolutions[-1] if len(convolutions) > 1 else next(iter(heavy), None)


def feeding(value: Value | None) -> set[Value]:
    """The values that a value is computed from, itself among them."""
    found: set[Value] = set()
    pending = [value] if value is not None else []
    while pending:
        v = pending.pop()
        if v not in found:
            found.add(v)
            pending += v.node.operands() if v.node is not None else ()
    return found
