"""The interpreter: runs a graph op by op with the numpy references. Slow and trusted; the oracle of every test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.reshape import bind_attrs
from cnncc.ops.registry import lookup


def evaluate(graph: Graph, feeds: Mapping[Value, np.ndarray]) -> dict[Value, np.ndarray]:
    """Every value of a graph from arrays for its inputs (logical shapes; layouts do not matter here)."""
    values: dict[Value, np.ndarray] = {**feeds, **_constants(graph)}
    for node, results in evaluate_each(graph, feeds):
        values.update(zip(node.outputs, results, strict=True))
    return values


def evaluate_each(graph: Graph, feeds: Mapping[Value, np.ndarray]) -> Iterator[tuple[Node, tuple[np.ndarray, ...]]]:
    """Every node with its results, in order. Results that no later node reads are not kept."""
    values: dict[Value, np.ndarray] = {**feeds, **_constants(graph)}
    last_reader = {v: node for node in graph.nodes for v in node.operands()}
    sizes = _sizes(feeds)
    for node in graph.nodes:
        arrays = [None if v is None else values[v] for v in node.inputs]
        if node.body is not None:
            inner = evaluate(node.body, dict(zip(node.body.inputs, (a for a in arrays if a is not None), strict=True)))
            results = tuple(inner[v] for v in node.body.outputs)
        else:
            try:
                results = lookup(node.op).run(bind_attrs(node.attrs, sizes) if sizes else node.attrs, arrays)
            except GraphError as error:
                raise GraphError(f"{node.where}: {error}") from None
        yield node, results
        values.update((v, a) for v, a in zip(node.outputs, results, strict=True) if v in last_reader)
        for value in {v for v in node.operands() if last_reader[v] is node}:
            del values[value]


def _constants(graph: Graph) -> dict[Value, np.ndarray]:
    return {v: v.data for v in graph.constants if v.data is not None}


def _sizes(feeds: Mapping[Value, np.ndarray]) -> dict[str, int]:
    """What each symbol in the types of the inputs is. Raises GraphError where arrays contradict each other."""
    sizes: dict[str, int] = {}
    for value, array in feeds.items():
        for dim, size in zip(value.type.shape, array.shape, strict=False):
            if not isinstance(dim, int) and dim.is_Symbol and sizes.setdefault(dim.name, size) != size:
                raise GraphError(f"%{value.name}: symbol {dim.name} must be {sizes[dim.name]}, got {size}")
    return sizes


def interpret(graph: Graph, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of a graph by name, from inputs by name. Raises GraphError for missing or unknown inputs."""
    names = [v.name for v in graph.inputs]
    if set(names) != set(feeds):
        raise GraphError(f"{graph.name}: inputs are {', '.join(names)}, got {', '.join(feeds)}")
    arrays = {v: np.asarray(feeds[v.name], dtype=v.type.numpy) for v in graph.inputs}
    values = evaluate(graph, arrays)
    return {name: values[v] for v, name in zip(graph.outputs, graph.output_names, strict=True)}
