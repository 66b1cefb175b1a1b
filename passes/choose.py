"""choose: the algorithm and the layouts of every kernel, together, at the least modelled time for the whole graph.

Each kernel has a few alternatives with a time each; an edge whose ends disagree about the layout costs the transform.
That is a pairwise labelling problem. It is solved exactly by eliminating kernels in order of least degree (dynamic
programming; chains, residual networks and inception blocks all have small tables). Where a table would exceed LIMIT
entries, the kernel with most neighbours is fixed to its locally best alternative first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.layout import PLAIN, Layout
from cnncc.passes.alternatives import Alternative, alternatives, transform_seconds
from cnncc.passes.manager import Context

LIMIT = 100_000
Factor = tuple[tuple[int, ...], np.ndarray]


def choose(graph: Graph, context: Context) -> None:
    """Write the chosen algorithm and the wanted layouts into every kernel's attributes."""
    assert context.target is not None
    kernels = [n for n in graph.nodes if n.body is not None]
    options = [alternatives(n, context.target, context) for n in kernels]
    picked = solve([len(o) for o in options], _factors(graph, kernels, options, context))
    for node, ways, k in zip(kernels, options, picked, strict=True):
        way = ways[k]
        tags = tuple(
            layout.tag(v.type.rank) if layout else ""
            for v, layout in zip((*node.operands(), *node.outputs), (*way.operands, *way.results), strict=True)
        )
        node.attrs = replace(node.attrs, algorithm=way.algorithm, layouts=tags if any(tags) else ())


def _factors(
    graph: Graph, kernels: Sequence[Node], options: Sequence[Sequence[Alternative]], context: Context
) -> list[Factor]:
    assert context.target is not None
    index = {node: k for k, node in enumerate(kernels)}
    factors: list[Factor] = [((k,), np.array([a.seconds for a in ways])) for k, ways in enumerate(options)]

    def differs(value: Value, a: Layout, b: Layout) -> float:
        assert context.target is not None
        return 0.0 if a == b else transform_seconds(value.type, context.target)

    for k, node in enumerate(kernels):
        for position, value in enumerate(node.operands()):
            wanted = [a.operands[position] for a in options[k]]
            if value.is_constant:
                continue
            if value.node is not None and value.node in index:
                j, result = index[value.node], value.index
                have = [a.results[result] for a in options[j]]
                table = np.array([[differs(value, h, w) for w in wanted] for h in have])
                factors.append(((j, k), table))
            else:
                factors.append(((k,), np.array([differs(value, PLAIN, w) for w in wanted])))
        for result, value in enumerate(node.outputs):
            if value in graph.outputs or any(u not in index for u in value.users):
                factors.append(((k,), np.array([differs(value, a.results[result], PLAIN) for a in options[k]])))
    return factors


def solve(sizes: Sequence[int], factors: Sequence[Factor]) -> list[int]:
    """Labels that minimise the sum of the factors (tables over tuples of variables), by elimination."""
    pool = [f for f in factors if f[0]]
    fixed: dict[int, int] = {}
    steps: list[tuple[int, Factor]] = []
    remaining = set(range(len(sizes)))
    while remaining:
        neighbours = {v: {u for scope, _ in pool if v in scope for u in scope} | {v} for v in remaining}
        variable = min(remaining, key=lambda v: (np.prod([sizes[u] for u in neighbours[v]]), v))
        if np.prod([sizes[u] for u in neighbours[variable]], dtype=float) > LIMIT:
            variable = max(remaining, key=lambda v: (len(neighbours[v]), -v))
            cost = np.zeros(sizes[variable])
            for scope, table in pool:
                if variable in scope:
                    axes = tuple(i for i, u in enumerate(scope) if u != variable)
                    cost += table.min(axis=axes) if axes else table
            fixed[variable] = int(cost.argmin())
            pool = [_condition(f, variable, fixed[variable]) for f in pool]
            remaining.remove(variable)
            continue
        touching = [f for f in pool if variable in f[0]]
        pool = [f for f in pool if variable not in f[0]]
        scope = tuple(sorted(neighbours[variable] - {variable}))
        joined = _join(touching, (*scope, variable), sizes)
        steps.append((variable, ((*scope, variable), joined)))
        if scope:
            pool.append((scope, joined.min(axis=-1)))
        remaining.remove(variable)
    for variable, (scope, table) in reversed(steps):
        fixed[variable] = int(table[tuple(fixed[u] for u in scope[:-1])].argmin())
    return [fixed[v] for v in range(len(sizes))]


def _join(factors: Sequence[Factor], scope: tuple[int, ...], sizes: Sequence[int]) -> np.ndarray:
    total = np.zeros([sizes[u] for u in scope])
    for names, table in factors:
        order = sorted(range(len(names)), key=lambda i: scope.index(names[i]))
        shape = [sizes[u] if u in names else 1 for u in scope]
        total = total + table.transpose(order).reshape(shape)
    return total


def _condition(factor: Factor, variable: int, label: int) -> Factor:
    scope, table = factor
    if variable not in scope:
        return factor
    axis = scope.index(variable)
    return tuple(u for u in scope if u != variable), table.take(label, axis=axis)
