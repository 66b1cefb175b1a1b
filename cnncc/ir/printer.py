"""IR as text. `cnncc.parse` reads it back exactly (large constants: by name and digest, values beside it)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from typing import Any

import numpy as np

from cnncc.ir.graph import Graph, Node, Value

INLINE = 16  # constants of up to this many elements are printed as numbers


def print_graph(graph: Graph, indent: str = "") -> str:
    """The graph in the textual form described in docs/ir.md."""
    inputs = ", ".join(f"{_name(v)}: {v.type}" for v in graph.inputs)
    lines = [f"graph {_bare(graph.name)}({inputs}) {{"]
    lines += [f"  const {_name(v)}: {v.type} = {_constant(v)}" for v in graph.constants]
    for node in graph.nodes:
        lines += _node(node)
    outputs = ", ".join(
        _name(v) + ("" if name == v.name else f" as {json.dumps(name)}")
        for v, name in zip(graph.outputs, graph.output_names, strict=True)
    )
    lines += [f"  return {outputs}", "}"]
    return "\n".join(indent + line for line in lines)


def digest(array: np.ndarray) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def attributes(attrs: Any) -> str:
    """Attributes as keyword arguments; those at their default are left out."""
    parts = []
    for f in dataclasses.fields(attrs):
        value = getattr(attrs, f.name)
        if f.default is dataclasses.MISSING or value != f.default:
            parts.append(f"{f.name}={_literal(value)}")
    return ", ".join(parts)


def _node(node: Node) -> list[str]:
    results = ", ".join(f"{_name(v)}: {v.type}" for v in node.outputs)
    if node.body is None:
        operands = ["none" if v is None else _name(v) for v in node.inputs]
    else:
        operands = [f"{_name(inner)}={_name(v)}" for inner, v in zip(node.body.inputs, node.operands(), strict=True)]
    arguments = ", ".join(filter(None, [*operands, attributes(node.attrs)]))
    source = f" @ {json.dumps(node.source)}" if node.source else ""
    head = f"  {results} = {node.op}({arguments})"
    if node.body is None:
        return [head + source]
    inner = print_graph(node.body).splitlines()[1:-1]
    return [head + " {", *("  " + line for line in inner), "  }" + source]


def _name(value: Value) -> str:
    return "%" + _bare(value.name)


def _bare(name: str) -> str:
    return name if re.fullmatch(r"[\w.]+", name) else json.dumps(name)


def _literal(value: Any) -> str:
    if isinstance(value, tuple):
        inner = ", ".join(map(_literal, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, (int, float, bool)) or value is None:
        return repr(value)
    return str(value)  # a symbolic dimension


def _constant(value: Value) -> str:
    data = value.data
    assert data is not None
    if data.size <= INLINE:
        flat = [x.item() if x.dtype.kind != "V" else float(x) for x in data.reshape(-1)]
        return "[" + ", ".join(map(repr, flat)) + "]"
    return f"sha256:{digest(data)}"
