"""lay-out: the layouts that `choose` asked for go into the types; transforms are inserted where the ends disagree.

Constants take the layout that their reader wants (they are packed when the program is put together), weights that an
algorithm wants prepared get that operation in front, to be folded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from cnncc.ir.graph import Graph, Node, Rows, Value
from cnncc.ir.kernel import KernelAttrs, anchor, kernel_node
from cnncc.ir.layout import PLAIN, Layout
from cnncc.ir.types import Type
from cnncc.ops.layout import ToLayoutAttrs
from cnncc.ops.registry import lookup
from cnncc.passes.manager import Context
from cnncc.targets.describe import describe
from cnncc.targets.table import GENERIC, find_algorithm

MOVES = frozenset({"transpose", "flip", "pad"})


def lay_out(graph: Graph, context: Context) -> None:
    """Give every kernel the layouts in its attributes, then clear those."""
    laid: dict[tuple[Value, Layout], Value] = {}
    for node in list(graph.nodes):
        if node.body is None:
            _plain_operands(graph, node, laid)
            continue
        _prepare_weights(graph, node, context, laid)
        if not node.attrs.layouts:
            wanted = [PLAIN] * (len(node.inputs) + len(node.outputs))
        else:
            wanted = [Layout.parse(t) if t else PLAIN for t in node.attrs.layouts]
        for value, inner, layout in zip(list(node.operands()), node.body.inputs, wanted, strict=False):
            arranged = _arranged(graph, value, layout, laid)
            if arranged is not value:
                node.replace_input(value, arranged)
            inner.type = inner.type.with_(layout=layout)
        for value, inner, layout in zip(node.outputs, node.body.outputs, wanted[len(node.inputs) :], strict=True):
            inner.type = value.type = value.type.with_(layout=layout)
        node.attrs = replace(node.attrs, layouts=())
    for value in list(graph.outputs):
        arranged = _arranged(graph, value, PLAIN, laid)
        if arranged is not value:
            graph.outputs = [arranged if v is value else v for v in graph.outputs]
    graph.tidy()  # kernels whose work another does now


def _plain_operands(graph: Graph, node: Node, laid: dict[tuple[Value, Layout], Value]) -> None:
    for value in list(node.operands()):
        arranged = _arranged(graph, value, PLAIN, laid)
        if arranged is not value:
            node.replace_input(value, arranged)


def _arranged(graph: Graph, value: Value, layout: Layout, laid: dict[tuple[Value, Layout], Value]) -> Value:
    """The value in a layout: itself, a constant of another type, or the result of a transform kernel (made once)."""
    if value.type.layout == layout:
        return value
    key = (value, layout)
    if key not in laid:
        if value.held is not None:
            laid[key] = graph.add_constant(value.held, value.name + ".packed")
            laid[key].type = value.type.with_(layout=layout)
        else:
            laid[key] = _transform(graph, value, layout)
    return laid[key]


def _transform(graph: Graph, value: Value, layout: Layout) -> Value:
    """A kernel; where no byte moves (blocks of channels of one pixel), a view like a reshape."""
    type_ = value.type.with_(layout=layout)
    attrs = ToLayoutAttrs(layout.tag(type_.rank) if layout else "")
    if value.type.lies_as(layout):
        return graph.add_node(Node("to_layout", [value], attrs, [type_], [graph.fresh_name(value.name)])).output
    body, operand, x = _moved(graph, value)
    node = body.add_node(Node("to_layout", [x], attrs, [type_], [body.fresh_name("y")]))
    body.add_output(node.output)
    kernel = kernel_node(graph, body, [operand], KernelAttrs(GENERIC), f"layout of {value.name}")
    graph.add_node(kernel)
    return kernel.output


def _moved(graph: Graph, value: Value) -> tuple[Graph, Value, Value]:
    """A body that begins with a value; what that is made from, outside and in the body. Where a kernel that only moves
    elements makes it for this one reader (flipped weights), the body does that as well, and the kernel goes."""
    node, body = value.node, Graph("body")
    if (
        node is None
        or node.body is None
        or value in graph.outputs
        or sum(value.users.values()) != 1
        or len(node.inputs) != 1
        or any(n.op not in MOVES for n in node.body.nodes)
    ):
        return body, value, body.add_input("x", value.type)
    body = node.body.copy()
    (operand,), (inner,) = node.operands(), body.outputs
    body.outputs, body.output_names = [], []
    return body, operand, inner


def _prepare_weights(graph: Graph, node: Node, context: Context, laid: dict[tuple[Value, Layout], Value]) -> None:
    """conv(x, w) --> winograd_conv(x, winograd_weights(w)), or fft likewise, where the algorithm wants it: at compile
    time where w is a constant, otherwise in a kernel of its own."""
    assert context.target is not None
    assert node.body is not None
    algorithm = find_algorithm(context.target, node.attrs.algorithm) if node.attrs.algorithm else None
    root = anchor(node.body)
    if algorithm is None or not algorithm.weight_op or root is None or root.op != "conv":
        return
    problem = describe(node.body)
    tile = algorithm.tiles_for(problem, context.target)
    assert algorithm.attrs_for is not None
    assert algorithm.anchor_op is not None
    attrs = algorithm.attrs_for(problem, tile)
    inner = root.inputs[1]
    assert inner is not None
    position = node.body.inputs.index(inner)
    weights = node.inputs[position]
    assert weights is not None
    if weights.data is None:
        wanted = algorithm.layouts(problem, context.target).w or PLAIN
        prepared = _prepared(graph, _arranged(graph, weights, PLAIN, laid), algorithm.weight_op, attrs, wanted)
        inner.type = prepared.type
        node.replace_input(weights, prepared)
        root.op, root.attrs = algorithm.anchor_op, attrs
        return
    prepared = graph.add_constant(
        _prepared_constant(algorithm.weight_op, attrs, weights.data),
        weights.name + "." + algorithm.weight_op.removesuffix("_weights"),
    )
    inner.type = prepared.type
    node.replace_input(weights, prepared)
    root.op, root.attrs = algorithm.anchor_op, attrs


def _prepared_constant(name: str, attrs: Any, weights: np.ndarray) -> np.ndarray | Rows:
    """Weights prepared at compile time: at once, or where they go, if that can be done row by row."""
    op = lookup(name)

    def rows(begin: int, end: int) -> np.ndarray:
        return op.run(attrs, [weights[begin:end]])[0]

    (type_,) = op.infer_types(attrs, [Type.of(weights)])
    return Rows(type_, rows) if op.rowwise else rows(0, len(weights))


def _prepared(graph: Graph, weights: Value, op: str, attrs: Any, layout: Layout) -> Value:
    """Weights prepared by a kernel, which also does what only moved them before."""
    body, operand, x = _moved(graph, weights)
    (type_,) = lookup(op).infer_types(attrs, [x.type])
    node = body.add_node(Node(op, [x], attrs, [type_.with_(layout=layout)], [body.fresh_name("u")]))
    body.add_output(node.output)
    kernel = kernel_node(graph, body, [operand], KernelAttrs(op), f"{op} of {weights.name}")
    graph.add_node(kernel)
    return kernel.output
