"""Products of matrices in one form.

flatten-matmul: a product of many rows with one matrix is one product of matrices, whatever the rows are called.
turn-weights: constant weights stand with the terms of an output side by side.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from cnncc.builder import Builder
from cnncc.ir.dims import Shape, product
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ops.registry import lookup
from cnncc.passes.manager import Context


def flatten_matmul(graph: Graph, context: Context) -> None:
    """matmul(x [..., M, K], w [K, N]) --> reshape(matmul(reshape(x, [... M, K]), w), [..., M, N]);
    f(reshape(y), c) --> reshape(f(y, c)) behind it, f elementwise, c of one row or of the same rows.
    """
    flat: dict[Value, Value] = {}  # values that are views of a matrix, with the matrix
    for node in list(graph.nodes):
        if node.body is not None:
            continue
        if node.op == "matmul":
            _flatten(graph, node, flat)
        elif lookup(node.op).elementwise and len(node.outputs) == 1 and any(v in flat for v in node.operands()):
            reason = _sink(graph, node, flat)
            if reason:
                context.decline("flatten-matmul", node.where, reason)
    graph.tidy()


def turn_weights(graph: Graph, context: Context) -> None:
    """matmul(x, w [K, N]) --> matmul(x, w^T [N, K], transpose_w), w constant: kernels read panels of outputs, which are
    then streams; the rows of w are as far apart as all outputs are wide."""
    for w in list(graph.constants):
        if w.type.rank != 2 or not any(node.op == "matmul" for node in w.users):
            continue
        if not all(_turns(node, w) for node in w.users) or w in graph.outputs:
            context.decline("turn-weights", w.name, "something else reads them as they are")
            continue
        assert w.data is not None
        turned = graph.add_constant(np.ascontiguousarray(w.data.T), w.name + ".turned")
        for node in list(w.users):
            node.replace_input(w, turned)
            node.attrs = replace(node.attrs, transpose_w=True)
    graph.tidy()


def _turns(node: Node, w: Value) -> bool:
    """Whether a node is a product with the columns of w."""
    return node.op == "matmul" and node.inputs[1] is w and node.inputs[0] is not w and not node.attrs.transpose_w


def _flatten(graph: Graph, node: Node, flat: dict[Value, Value]) -> None:
    x, w = node.operands()
    if x.type.rank < 3 or w.type.rank != 2 or node.attrs.transpose_x:
        return
    b = Builder(graph)
    matrix = _as_matrix(b, x, flat)
    _replace(graph, node, b.op("matmul", matrix, w, source=node.source, **asdict(node.attrs)), flat)


def _sink(graph: Graph, node: Node, flat: dict[Value, Value]) -> str:
    """Make an elementwise operation one of matrices; gives the reason why not."""
    shape = node.output.type.shape
    for value in node.operands():
        if value in flat and value.type.shape != shape:
            return f"%{value.name} is broadcast"
        if value not in flat and value.type.shape == shape and value.node is not None:
            if not lookup(value.node.op).fusible:
                return f"%{value.name} is the result of {value.node.op}, whose kernel takes the operation"
        elif value not in flat and any(d != 1 for d in value.type.shape[:-1]):
            return f"%{value.name} is neither a row nor of the same shape"
    b = Builder(graph)
    operands = [_as_row(b, v) if v.type.shape != shape else _as_matrix(b, v, flat) for v in node.operands()]
    _replace(graph, node, b.op(node.op, *operands, source=node.source, **asdict(node.attrs)), flat)
    return ""


def _replace(graph: Graph, node: Node, matrix: Value, flat: dict[Value, Value]) -> None:
    view = Builder(graph).reshape(matrix, shape=node.output.type.shape)
    flat[view] = matrix
    graph.replace(node.output, view)
    node.drop()
    graph.nodes.remove(node)


def _as_matrix(b: Builder, value: Value, flat: dict[Value, Value]) -> Value:
    """[..., M, K] --> [... M, K], the same for all readers."""
    if value not in flat:
        shape: Shape = value.type.shape
        flat[value] = b.reshape(value, shape=(product(shape[:-1]), shape[-1]))
    return flat[value]


def _as_row(b: Builder, value: Value) -> Value:
    """[1, ..., 1, K] --> [1, K]; scalars stay."""
    if value.type.rank == 0:
        return value
    if value.data is not None:
        return b.constant(value.data.reshape(1, -1), value.name)
    return b.reshape(value, shape=(1, value.type.shape[-1]))
