"""Limits on what a model file may ask for, checked on the message before anything is built from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    """Raise ModelFileError where a model breaks a limit, or where names are no text (a damaged file)."""
    count = 0
    for function in model.functions:
        _check_names((function.name, function.domain, *function.input, *function.output), label)
        count += sum(1 for _ in _nodes(function.node, label, limits, 0))
    for opset in model.opset_import:
        _check_names((opset.domain,), label)
    _check_graph(model.graph, label, limits)
    count += sum(1 for _ in _nodes(model.graph.node, label, limits, 0))
    if count > limits.nodes:
        raise ModelFileError(f"{label}: a model may have {limits.nodes} nodes, got {count}")


def _check_graph(graph: Any, label: str, limits: Limits) -> None:
    tensors = (*graph.initializer, *(s.values for s in graph.sparse_initializer))
    _check_names((graph.name, *(t.name for t in tensors)), label)
    for tensor in tensors:
        _check_dims(tensor.dims, f"{label}: initializer '{tensor.name}'", limits)
    for value in (*graph.input, *graph.output):
        _check_names((value.name,), label)
        if value.type.WhichOneof("value") == "tensor_type":
            dims = value.type.tensor_type.shape.dim
            _check_names((d.dim_param for d in dims), label)
            _check_dims([max(d.dim_value, 0) for d in dims], f"{label}: value '{value.name}'", limits)


def _nodes(nodes: Any, label: str, limits: Limits, depth: int) -> Iterator[Any]:
    """All nodes, those of subgraphs included."""
    if depth > limits.depth:
        raise ModelFileError(f"{label}: subgraphs may nest {limits.depth} deep, got more")
    for node in nodes:
        _check_names((node.name, node.op_type, node.domain, *node.input, *node.output), label)
        yield node
        for attribute in node.attribute:
            _check_names((attribute.name, attribute.ref_attr_name), label)
            for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                _check_graph(graph, label, limits)
                yield from _nodes(graph.node, label, limits, depth + 1)


def _check_names(names: Iterable[Any], label: str) -> None:
    """protobuf gives bytes where a name is no UTF-8."""
    for name in names:
        if not isinstance(name, str):
            raise ModelFileError(f"{label}: names must be text, got the bytes {name[:40]!r}; the file is damaged")


def _check_dims(dims: Any, what: str, limits: Limits) -> None:
    if len(dims) > limits.rank:
        raise ModelFileError(f"{what}: the rank may be {limits.rank}, got {len(dims)}")
    for d in dims:
        if d < 0 or d > limits.dim:
            raise ModelFileError(f"{what}: dimensions must be from 0 to {limits.dim}, got {d}")
