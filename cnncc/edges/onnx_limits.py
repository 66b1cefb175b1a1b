"""Limits on what a model file may ask for, checked on the message before anything is built from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cnncc.errors import ModelFileError


@dataclass(frozen=True)
class Limits:
    """Numbers above which a model is refused."""

    file_bytes: int = 2**31
    nodes: int = 200_000  # functions expanded
    rank: int = 16
    dim: int = 2**40
    constant_bytes: int = 16 * 2**30
    depth: int = 16  # of subgraphs and of functions calling functions


LIMITS = Limits()


def check_limits(model: Any, label: str, limits: Limits) -> None:
    """Raise ModelFileError where a model breaks a limit."""
    for function in model.functions:
        for _ in _walk(function.node, label, limits, 0):
            pass
    count = sum(len(f.node) for f in model.functions)
    for graph in _graphs(model.graph, label, limits, 0):
        count += len(graph.node)
        for tensor in graph.initializer:
            _check_dims(tensor.dims, f"{label}: initializer '{tensor.name}'", limits)
        for value in (*graph.input, *graph.output):
            if value.type.WhichOneof("value") == "tensor_type":
                dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
                _check_dims([max(d, 0) for d in dims], f"{label}: value '{value.name}'", limits)
    if count > limits.nodes:
        raise ModelFileError(f"{label}: a model may have {limits.nodes} nodes, got {count}")


def _graphs(graph: Any, label: str, limits: Limits, depth: int) -> Iterator[Any]:
    yield graph
    yield from _walk(graph.node, label, limits, depth)


def _walk(nodes: Any, label: str, limits: Limits, depth: int) -> Iterator[Any]:
    if depth > limits.depth:
        raise ModelFileError(f"{label}: subgraphs may nest {limits.depth} deep, got more")
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g, label, limits, depth + 1)
            for inner in attribute.graphs:
                yield from _graphs(inner, label, limits, depth + 1)


def _check_dims(dims: Any, what: str, limits: Limits) -> None:
    if len(dims) > limits.rank:
        raise ModelFileError(f"{what}: the rank may be {limits.rank}, got {len(dims)}")
    for d in dims:
        if d < 0 or d > limits.dim:
            raise ModelFileError(f"{what}: dimensions must be from 0 to {limits.dim}, got {d}")
