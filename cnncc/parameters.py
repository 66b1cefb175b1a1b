"""How many parameters a layer has, and how many it would have without weight sharing, or fully connected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cnncc.ir.dims import product, substitute
from cnncc.ir.graph import Graph, Node, Value


@dataclass(frozen=True)
class LayerParameters:
    """shared: as the layer is, bias included. local: a filter of its own, and a bias, at every place of the result.

    dense: every result connected to every input, one bias each. Per image; for products local and dense are shared.
    """

    layer: str
    op: str
    result: str
    shared: int
    local: int
    dense: int


def count_parameters(graph: Graph) -> list[LayerParameters]:
    """One row per convolution, transposed or locally connected layer and product with constant weights."""
    rows = []
    for node in graph.nodes:
        if node.op not in ("conv", "conv_transpose", "locally_connected", "matmul"):
            continue
        x, w = list(node.operands())[:2]
        if w.type.rank < 2 or not all(isinstance(d, int) for d in w.type.shape):
            continue
        bias = _bias(node)
        weights = _size(w.type.shape)
        if node.op == "matmul":
            rows.append(_row(node, weights + bias, weights + bias, weights + bias))
            continue
        inputs, outputs = _size(x.type.shape[1:]), _size(node.output.type.shape[1:])
        places = outputs // _size(node.output.type.shape[1:2])
        dense = inputs * outputs + (outputs if bias else 0)
        local = weights + bias if node.op == "locally_connected" else weights * places + bias * places
        rows.append(_row(node, weights + bias, local, dense))
    return rows


def _row(node: Node, shared: int, local: int, dense: int) -> LayerParameters:
    shape = "x".join(map(str, node.output.type.shape))
    return LayerParameters(node.source or node.output.name, node.op, shape, shared, local, dense)


def _bias(node: Node) -> int:
    """Elements of a constant vector that is added to the result and to nothing else."""
    users = list(node.output.users)
    if len(users) != 1 or users[0].op != "add":
        return 0
    others = [v for v in users[0].operands() if v is not node.output]
    return _size(others[0].type.shape) if others and _is_parameter(others[0]) else 0


def _is_parameter(value: Value) -> bool:
    while value.node is not None and value.node.op == "reshape":
        (value,) = value.node.operands()
    return value.is_constant


def _size(shape: Any) -> int:
    total = product(shape)
    return total if isinstance(total, int) else int(substitute(total, {s.name: 1 for s in total.free_symbols}))
