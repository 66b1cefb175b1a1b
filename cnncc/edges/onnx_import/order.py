"""Single assignment, defined inputs and an order of nodes, checked by us: files need not keep the standard's rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cnncc.errors import ModelFileError


def node_name(node: Any) -> str:
    """How messages name an ONNX node."""
    name = node.name or next((o for o in node.output if o), "")
    return f"{node.op_type} '{name}'"


def ordered(nodes: Sequence[Any], defined: Iterable[str], label: str) -> list[Any]:
    """Nodes in an order in which every value is computed before it is used: the file's own where that serves.

    Raises ModelFileError for values computed twice and for cycles.
    """
    makers: dict[str, int] = {}
    taken = set(defined)
    for i, node in enumerate(nodes):
        for name in node.output:
            if not name:
                continue
            if name in makers or name in taken:
                raise ModelFileError(f"{label}: {node_name(node)}: values need names of their own, got '{name}' twice")
            makers[name] = i
    needs = [sorted({makers[name] for name in reads(node) if name in makers}) for node in nodes]
    if all(all(j < i for j in need) for i, need in enumerate(needs)):
        return list(nodes)
    return [nodes[i] for i in _sorted(needs, nodes, label)]


def reads(node: Any) -> set[str]:
    """Names a node reads, its subgraphs included."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            inner = {o for n in graph.node for o in n.output} | {i.name for i in (*graph.input, *graph.initializer)}
            for child in graph.node:
                names |= reads(child) - inner
            names |= {o.name for o in graph.output} - inner
    return names


def _sorted(needs: list[list[int]], nodes: Sequence[Any], label: str) -> list[int]:
    result: list[int] = []
    state = [0] * len(nodes)  # 0 not seen, 1 being visited, 2 done
    for root in range(len(nodes)):
        stack = [root]
        while stack:
            i = stack[-1]
            if state[i] == 2:
                stack.pop()
                continue
            missing = [j for j in needs[i] if state[j] != 2]
            if missing:
                state[i] = 1
                if any(state[j] == 1 for j in missing):  # every node being visited leads to this one
                    path = [k for k in stack if state[k] == 1]
                    first = min(path.index(j) for j in missing if state[j] == 1)
                    names = ", ".join(node_name(nodes[k]) for k in path[first:][:8])
                    raise ModelFileError(f"{label}: the graph must not have a cycle, got one through {names}")
                stack += missing
                continue
            state[i] = 2
            result.append(i)
            stack.pop()
    return result
