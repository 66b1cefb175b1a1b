"""A graph exported for one batch size --> the same graph for any."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cnncc.errors import GraphError
from cnncc.ir.dims import symbol
from cnncc.ir.graph import Graph, Node, Value, rebuild
from cnncc.ir.types import Type

_SHAPED = ("reshape", "expand")  # ops with the shape of the result as an attribute


def free_batch(graph: Graph, name: str = "N") -> Graph:
    """The graph with the first axis of all inputs as a symbol.

    What depends on an input must keep the batch as its first axis: reshapes and expansions to a fixed batch are given
    the symbol, every type is inferred anew and compared. Raises GraphError naming the node where the batch goes
    elsewhere, and where the first axes of the inputs are no one number.
    """
    from cnncc.ops.registry import lookup

    sizes = {v.type.shape[0] if v.type.rank else None for v in graph.inputs}
    if len(sizes) != 1 or not all(isinstance(s, int) for s in sizes):
        given = ", ".join(f"{v.name}: {v.type}" for v in graph.inputs)
        raise GraphError(f"{graph.name}: the inputs must have one fixed batch, got {given}")
    batch = symbol(name)

    def freed(type_: Type) -> Type:
        return type_.with_(shape=(batch, *type_.shape[1:]))

    result, new = rebuild(graph, {v: freed(v.type) for v in graph.inputs})
    changed: set[Value] = {new[v] for v in graph.inputs}
    for old, node in zip(graph.nodes, result.nodes, strict=True):
        if not changed & set(node.operands()):
            continue
        node.attrs = _shaped(node, node.attrs, batch)
        try:
            types = lookup(node.op).infer_types(node.attrs, [None if v is None else v.type for v in node.inputs])
        except GraphError as error:
            raise GraphError(f"{node.where}: cannot run at another batch: {error}") from None
        for value, type_, before in zip(node.outputs, types, old.outputs, strict=True):
            if not before.type.rank or type_ != freed(before.type):
                raise GraphError(
                    f"{node.where}: cannot run at another batch: the result must be {freed(before.type)}, got {type_}"
                )
            value.type = type_
            changed.add(value)
    return result


def _shaped(node: Node, attrs: Any, batch: Any) -> Any:
    if node.op in _SHAPED and attrs.shape:
        return replace(attrs, shape=(batch, *attrs.shape[1:]))
    return attrs
