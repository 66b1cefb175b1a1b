"""merge-duplicates: equal operations on equal operands, and equal constants, become one."""

from __future__ import annotations

from typing import Any

from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.printer import digest
from cnncc.passes.manager import Context


def merge_duplicates(graph: Graph, context: Context) -> None:
    """y = op(x), z = op(x) --> both are y. Kernels (nodes with a body) are left alone."""
    constants: dict[Any, Value] = {}
    for value in graph.constants:
        assert value.data is not None
        content = (value.type, digest(value.data))
        if content in constants:
            graph.replace(value, constants[content])
        else:
            constants[content] = value
    seen: dict[Any, Node] = {}
    for node in graph.nodes:
        if node.body is not None:
            continue
        key = (node.op, node.attrs, tuple(map(id, node.inputs)))
        if key not in seen:
            seen[key] = node
            continue
        for old, new in zip(node.outputs, seen[key].outputs, strict=True):
            graph.replace(old, new)
