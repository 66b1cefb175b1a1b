"""fold-constants: what depends on nothing but constants is computed at compile time; so is what has no elements."""

from __future__ import annotations

import numpy as np

from cnncc.ir.graph import Graph
from cnncc.ops.registry import lookup
from cnncc.passes.manager import Context

LIMIT = 1 << 20  # elements; a larger result is folded only where it is no larger than its operands


def fold_constants(graph: Graph, context: Context) -> None:
    """op(constants) --> constant, in the interpreter's arithmetic. Expansions beyond LIMIT elements stay operations."""
    for value in list(graph.values()):
        if not value.is_constant and value.type.elements == 0:
            graph.replace(
                value, graph.add_constant(np.zeros(value.type.shape, value.type.numpy), value.name + ".empty")
            )
    for node in list(graph.nodes):
        operands = list(node.operands())
        if node.body is not None or not all(v.is_constant for v in operands):
            continue
        if any(v.type.layout for v in (*operands, *node.outputs)):
            continue
        if all(v.type.elements == 0 for v in node.outputs):
            continue  # replaced above
        if not all(v.type.static for v in node.outputs):
            context.decline("fold-constants", node.where, "the result's shape is symbolic")
            continue
        size = sum(int(v.type.elements) for v in node.outputs)
        if size > LIMIT and size > sum(v.data.size for v in operands if v.data is not None):
            context.decline("fold-constants", node.where, f"the result has {size} elements, more than {LIMIT}")
            continue
        results = lookup(node.op).run(node.attrs, [None if v is None else v.data for v in node.inputs])
        for value, array in zip(node.outputs, results, strict=True):
            graph.replace(value, graph.add_constant(array, value.name + ".folded"))
