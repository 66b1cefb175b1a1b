"""Fixing the shapes of a graph's inputs: symbols get numbers, every type is inferred anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, substitute, substitute_shape
from cnncc.ir.graph import Graph, Value, rebuild
from cnncc.ir.types import Type


def bind_shapes(graph: Graph, shapes: Mapping[str, Sequence[Any]]) -> Graph:
    """The graph with the given input shapes. Raises GraphError for unknown inputs, wrong ranks and contradictions."""
    by_name = {v.name: v for v in graph.inputs}
    values: dict[str, tuple[int, str]] = {}
    for name, shape in shapes.items():
        if name not in by_name:
            raise GraphError(f"shapes: there is no input '{name}'; inputs are {', '.join(by_name)}")
        declared = by_name[name].type.shape
        if len(shape) != len(declared):
            raise GraphError(f"input '{name}': rank must be {len(declared)}, got {len(shape)} ({tuple(shape)})")
        for axis, (wanted, dim) in enumerate(zip(shape, declared, strict=True)):
            _solve(f"input '{name}' axis {axis}", wanted, dim, values)
    return bind_symbols(graph, {s: v for s, (v, _) in values.items()})


def _solve(where: str, wanted: Any, dim: Dim, values: dict[str, tuple[int, str]]) -> None:
    if isinstance(wanted, str):
        return  # a name: the dimension stays symbolic
    if not isinstance(wanted, int) or wanted < 0:
        raise GraphError(f"{where}: a size must be a number of at least 0, got {wanted!r}")
    if isinstance(dim, int):
        if dim != wanted:
            raise GraphError(f"{where}: must be {dim}, got {wanted}")
    elif dim.is_Symbol:
        known = values.setdefault(dim.name, (wanted, where))
        if known[0] != wanted:
            raise GraphError(f"symbol {dim.name} is {known[0]} at {known[1]}, but {wanted} at {where}")


def bind_symbols(graph: Graph, values: Mapping[str, int]) -> Graph:
    """The graph with symbols replaced by numbers, in types and in attributes."""
    from cnncc.ops.registry import lookup

    types: dict[Value, Type] = {v: v.type.with_(shape=substitute_shape(v.type.shape, values)) for v in graph.inputs}
    for node in graph.nodes:
        for value in node.outputs:
            types[value] = value.type.with_(shape=substitute_shape(value.type.shape, values))
    result, _ = rebuild(graph, types)
    for node in result.nodes:
        node.attrs = bind_attrs(node.attrs, values)
        if node.body is None:
            try:
                inferred = lookup(node.op).infer_types(node.attrs, [None if v is None else v.type for v in node.inputs])
            except GraphError as error:
                raise GraphError(f"{node.where}: {error}") from None
            for value, type_ in zip(node.outputs, inferred, strict=True):
                value.type = type_
    return result


def bind_attrs(attrs: Any, values: Mapping[str, int]) -> Any:
    """Attributes with symbols replaced by numbers."""
    changes: dict[str, Any] = {}
    for f in dataclasses.fields(attrs):
        value = getattr(attrs, f.name)
        if hasattr(value, "free_symbols"):
            changes[f.name] = substitute(value, values)
        elif isinstance(value, tuple) and any(hasattr(d, "free_symbols") for d in value):
            changes[f.name] = tuple(substitute(d, values) if hasattr(d, "free_symbols") else d for d in value)
    return dataclasses.replace(attrs, **changes) if changes else attrs
