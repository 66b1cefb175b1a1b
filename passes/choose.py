"""choose: the algorithm and the layouts of every kernel, together, at the least modelled time for the whole graph.

Each kernel has a few alternatives with a time each; an edge whose ends disagree about the layout costs the transform.
That is a pairwise labelling problem. It is solved exactly by eliminating kernels in order of least degree (dynamic
programming; chains, residual networks and inception blocks all have small tables). Where a table would exceed LIMIT
entries, the kernel with most neighbours is fixed to its locally best alternative first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod

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
        node.attrs = replace(node.attrs, algorithm=ways[k].algorithm, layouts=layout_tags(node, ways[k]))


def layout_tags(node: Node, way: Alternative) -> tuple[str, ...]:
    """The layouts that a way to run a kernel wants, as its attributes name them."""
    tags = tuple(
        layout.tag(v.type.rank) if layout else ""
        for v, layout in zip((*node.operands(), *node.outputs), (*way.operands, *way.results), strict=True)
    )
    return tags if any(tags) else ()


def _factors(
    graph: Graph, kernels: Sequence[Node], options: Sequence[Sequence[Alternative]], context: Context
) -> list[Factor]:
    assert context.target is not None
    index = {node: k for k, node in enumerate(kernels)}
    factors: list[Factor] = [((k,), np.array([a.seconds for a in ways])) for k, ways in enumerate(options)]

    def differs(value: Value, a: Layout, b: Layout) -> float:
        assert context.target is not None
        same = value.type.with_(layout=a).lies_as(b)
        return 0.0 if same else transform_seconds(value.type, context.target)

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
    problem = _Problem(sizes, factors)
    fixed: dict[int, int] = {}
    steps: list[tuple[int, Factor]] = []
    while problem.remaining:
        variable = min(problem.remaining, key=lambda v: (problem.entries[v], v))
        if problem.entries[variable] > LIMIT:
            variable = max(problem.remaining, key=lambda v: (len(problem.neighbours[v]), -v))
            fixed[variable] = problem.best_alone(variable)
            problem.condition(variable, fixed[variable])
        else:
            steps.append((variable, problem.eliminate(variable)))
    for variable, (scope, table) in reversed(steps):
        fixed[variable] = int(table[tuple(fixed[u] for u in scope[:-1])].argmin())
    return [fixed[v] for v in range(len(sizes))]


class _Problem:
    """Factors with, for every remaining variable, those that touch it, its neighbours, and entries of their table."""

    def __init__(self, sizes: Sequence[int], factors: Sequence[Factor]):
        self.sizes = sizes
        self.remaining = set(range(len(sizes)))
        self.touching: dict[int, list[Factor]] = {v: [] for v in self.remaining}
        self.neighbours: dict[int, set[int]] = {v: {v} for v in self.remaining}
        self.entries: dict[int, float] = {}
        for factor in factors:
            self._add(factor)
        self._count(self.remaining)

    def eliminate(self, variable: int) -> Factor:
        """Replace a variable by the factor over its neighbours of its best label; returns that before the minimum."""
        touching = self.touching[variable]
        scope = tuple(sorted(self.neighbours[variable] - {variable}))
        joined = _join(touching, (*scope, variable), self.sizes)
        self._remove(variable, touching)
        self._add((scope, joined.min(axis=-1)))
        self._count(scope)
        return (*scope, variable), joined

    def condition(self, variable: int, label: int) -> None:
        """Fix a variable to a label."""
        touching, around = self.touching[variable], self.neighbours[variable] - {variable}
        self._remove(variable, touching)
        for scope, table in touching:
            axis = scope.index(variable)
            self._add((tuple(u for u in scope if u != variable), table.take(label, axis=axis)))
        self._count(around)

    def best_alone(self, variable: int) -> int:
        """The label that is best where every neighbour suits it."""
        cost = np.zeros(self.sizes[variable])
        for scope, table in self.touching[variable]:
            axes = tuple(i for i, u in enumerate(scope) if u != variable)
            cost += table.min(axis=axes) if axes else table
        return int(cost.argmin())

    def _add(self, factor: Factor) -> None:
        for v in factor[0]:
            self.touching[v].append(factor)
            self.neighbours[v].update(factor[0])

    def _remove(self, variable: int, factors: Sequence[Factor]) -> None:
        self.remaining.remove(variable)
        gone = set(map(id, factors))
        for v in self.neighbours[variable] - {variable}:
            self.touching[v] = [f for f in self.touching[v] if id(f) not in gone]
            self.neighbours[v] = {v}.union(*(scope for scope, _ in self.touching[v]))

    def _count(self, variables: Iterable[int]) -> None:
        for v in variables:
            self.entries[v] = prod(self.sizes[u] for u in self.neighbours[v])


def _join(factors: Sequence[Factor], scope: tuple[int, ...], sizes: Sequence[int]) -> np.ndarray:
    total = np.zeros([sizes[u] for u in scope])
    for names, table in factors:
        order = sorted(range(len(names)), key=lambda i: scope.index(names[i]))
        shape = [sizes[u] if u in names else 1 for u in scope]
        total = total + table.transpose(order).reshape(shape)
    return total
