"""Fixing the shapes of a graph's inputs: symbols get numbers, every type is inferred anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, affine, substitute, substitute_shape
from cnncc.ir.graph import Graph, Value, rebuild
from cnncc.ir.types import Type


def bind_shapes(graph: Graph, shapes: Mapping[str, Sequence[Any]]) -> Graph:
    """The graph with the given input shapes. Raises GraphError for unknown inputs, wrong ranks and contradictions."""
    by_name = {v.name: v for v in graph.inputs}
    values: dict[str, tuple[int, str]] = {}
    formulas: list[tuple[str, int, Dim]] = []
    for name, shape in shapes.items():
        if name not in by_name:
            raise GraphError(f"shapes: there is no input '{name}'; inputs are {', '.join(by_name)}")
        declared = by_name[name].type.shape
        if len(shape) != len(declared):
            raise GraphError(f"input '{name}': rank must be {len(declared)}, got {len(shape)} ({tuple(shape)})")
        for axis, (wanted, dim) in enumerate(zip(shape, declared, strict=True)):
            where = f"input '{name}' axis {axis}"
            if isinstance(wanted, str):
                if isinstance(dim, int):
                    raise GraphError(f"{where}: is {dim} in the graph and cannot become the symbol {wanted}")
                continue  # a name: the dimension stays symbolic
            if not isinstance(wanted, (int, np.integer)) or wanted < 0:
                raise GraphError(f"{where}: a size must be a number of at least 0, got {wanted!r}")
            if isinstance(dim, int) or dim.is_Symbol:
                _take(where, int(wanted), dim, values)
            else:
                formulas.append((where, int(wanted), dim))
    _solve(formulas, values)
    return bind_symbols(graph, {s: v for s, (v, _) in values.items()})


def _take(where: str, wanted: int, dim: Dim, values: dict[str, tuple[int, str]]) -> None:
    """A number must have the size, a symbol gets it."""
    if isinstance(dim, int):
        if dim != wanted:
            raise GraphError(f"{where}: must be {dim}, got {wanted}")
        return
    known = values.setdefault(dim.name, (wanted, where))
    if known[0] != wanted:
        raise GraphError(f"symbol {dim.name} is {known[0]} at {known[1]}, but {wanted} at {where}")


def _solve(formulas: Sequence[tuple[str, int, Dim]], values: dict[str, tuple[int, str]]) -> None:
    """Sizes of dimensions that are formulas (2*N) follow from their symbols, or give the one symbol they have."""
    for where, wanted, dim in formulas:
        rest = substitute(dim, {s: v for s, (v, _) in values.items()})
        if isinstance(rest, int):
            if rest != wanted:
                raise GraphError(f"{where}: {dim} is {rest}, but {wanted} was given")
            continue
        constant, terms = affine(rest)
        if len(terms) != 1:
            continue
        ((name, factor),) = terms.items()
        if (wanted - constant) % factor or (wanted - constant) // factor < 0:
            raise GraphError(f"{where}: {dim} must be {wanted}, but no {name} gives that")
        values[name] = ((wanted - constant) // factor, where)


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
