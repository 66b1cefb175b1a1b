"""choose: the solver against brute force, and what its choices mean for whole graphs."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnncc
from cnncc import nn
from cnncc.demo.networks import ResNet18
from cnncc.interpret import interpret
from cnncc.ir.graph import Graph, Node
from cnncc.passes import INFERENCE, LOWERING, PASSES, Context, run_passes
from cnncc.passes.alternatives import alternatives, transform_seconds
from cnncc.passes.choose import Factor, solve
from cnncc.targets.machine import AVX2, AVX512, GENERIC
from cnncc.targets.table import algorithms
from tests.graphs import random_feeds, random_graph
from tests.tolerances import assert_close

SOLVER = sys.modules["cnncc.passes.choose"]  # the package's attribute of that name is the pass


def cost(labels: tuple[int, ...] | list[int], factors: list[Factor]) -> float:
    return sum(float(table[tuple(labels[v] for v in scope)]) for scope, table in factors)


def best(sizes: list[int], factors: list[Factor]) -> float:
    return min(cost(labels, factors) for labels in itertools.product(*map(range, sizes)))


@st.composite
def problems(draw):
    """Up to 6 variables with up to 4 labels, and factors over one to three of them."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    factors: list[Factor] = [((v,), rng.integers(0, 20, n).astype(float)) for v, n in enumerate(sizes)]
    for _ in range(draw(st.integers(0, 8))):
        scope = tuple(int(v) for v in rng.permutation(len(sizes))[: rng.integers(1, 4)])
        factors.append((scope, rng.integers(0, 20, [sizes[v] for v in scope]).astype(float)))
    return sizes, factors


@settings(deadline=None, max_examples=200)
@given(problems())
def test_elimination_finds_the_minimum(problem):
    sizes, factors = problem
    labels = solve(sizes, factors)
    assert [0 <= k < n for k, n in zip(labels, sizes, strict=True)] == [True] * len(sizes)
    assert cost(labels, factors) == best(sizes, factors)


@settings(deadline=None, max_examples=60)
@given(problems(), st.integers(1, 30))
def test_beyond_the_limit_labels_are_still_valid(problem, limit):
    sizes, factors = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SOLVER, "LIMIT", limit)
        labels = solve(sizes, factors)
    assert [0 <= k < n for k, n in zip(labels, sizes, strict=True)] == [True] * len(sizes)
    assert cost(labels, factors) >= best(sizes, factors)
    if limit >= np.prod(sizes):
        assert cost(labels, factors) == best(sizes, factors)


def test_an_infinite_cost_is_avoided():
    inf = float("inf")
    factors = [((0,), np.array([0.0, 5.0])), ((1,), np.array([0.0, 1.0])), ((0, 1), np.array([[inf, inf], [inf, 0.0]]))]
    assert solve([2, 2], factors) == [1, 1]


def test_long_chains_and_ladders_are_exact_and_fast():
    rng = np.random.default_rng(0)
    length, labels = 300, 4
    factors: list[Factor] = [((k,), rng.random(labels)) for k in range(length)]
    factors += [((k, k + 1), rng.random((labels, labels))) for k in range(length - 1)]
    total = factors[0][1]
    for k in range(1, length):  # Viterbi
        total = (total[:, None] + factors[length + k - 1][1]).min(axis=0) + factors[k][1]
    assert cost(solve([labels] * length, factors), factors) == pytest.approx(total.min())
    skips = [*factors, *(((k, k + 3), rng.random((labels, labels))) for k in range(length - 3))]
    found = cost(solve([labels] * length, skips), skips)
    assert found >= total.min()


def kernels(graph: Graph) -> list[Node]:
    return [n for n in graph.nodes if n.body is not None]


def total_seconds(graph: Graph, context: Context) -> float:
    """The modelled time of a graph in which every kernel has an algorithm and wanted layouts."""
    assert context.target is not None
    seconds, laid = 0.0, {}
    for node in kernels(graph):
        values = [*node.operands(), *node.outputs]
        tags = node.attrs.layouts or ("",) * len(values)
        ways = alternatives(node, context.target, Context(context.target))
        for way in ways:
            have = tuple(
                layout.tag(v.type.rank) if layout else ""
                for v, layout in zip(values, (*way.operands, *way.results), strict=True)
            )
            if way.algorithm == node.attrs.algorithm and have == tags:
                seconds += way.seconds
                break
        else:
            raise AssertionError(f"{node.where}: {node.attrs} is none of its alternatives")
        laid.update(zip(node.outputs, tags[len(node.inputs) :], strict=True))
        for value, tag in zip(node.operands(), tags, strict=False):
            if not value.is_constant and tag != laid.get(value, ""):
                seconds += transform_seconds(value.type, context.target)
    for value in graph.outputs:
        seconds += transform_seconds(value.type, context.target) if laid.get(value) else 0.0
    return seconds


CHAIN = """
graph g(%x: f32[1, 32, 14, 14]) {
  const %a: f32[32, 32, 3, 3] = random(1)
  const %b: f32[64, 32, 1, 1] = random(2)
  %1: f32[1, 32, 14, 14] = conv(%x, %a, pads=1)
  %2: f32[1, 32, 14, 14] = relu(%1)
  %3: f32[1, 64, 14, 14] = conv(%2, %b)
  %4: f32[1, 64, 7, 7] = max_pool(%3, kernel=(2, 2), strides=(2, 2))
  return %4
}
"""


def test_the_choice_is_the_cheapest_of_all():
    context = Context(AVX512)
    proposed = run_passes(cnncc.parse(CHAIN), LOWERING[:2], context)
    chosen = run_passes(proposed, LOWERING[2:3], context)
    ways = [alternatives(n, AVX512, Context(AVX512)) for n in kernels(proposed)]
    assert max(map(len, ways)) > 1
    seconds = []
    for picked in itertools.product(*ways):
        trial = proposed.copy()
        for node, way in zip(kernels(trial), picked, strict=True):
            values = [*node.operands(), *node.outputs]
            tags = tuple(
                layout.tag(v.type.rank) if layout else ""
                for v, layout in zip(values, (*way.operands, *way.results), strict=True)
            )
            node.attrs = type(node.attrs)(algorithm=way.algorithm, layouts=tags if any(tags) else ())
        seconds.append(total_seconds(trial, context))
    assert total_seconds(chosen, context) == pytest.approx(min(seconds))
    assert max(seconds) > 1.01 * min(seconds)


def test_layouts_agree_along_a_network():
    """ResNet-18 stays in blocks from the first layer to the last: transforms only at its ends."""
    graph = nn.trace(ResNet18().eval(), {"x": (1, 3, 64, 64)})
    laid = run_passes(graph, INFERENCE, Context(AVX512))
    moves = [n for n in laid.nodes if n.body is not None and [m.op for m in n.body.nodes] == ["to_layout"]]
    assert len(moves) <= 2
    assert not any(n.attrs.layouts for n in kernels(laid))
    assert all(n.attrs.algorithm for n in kernels(laid))


def test_strict_accuracy_takes_exact_algorithms():
    graph = cnncc.parse(CHAIN.replace("14", "56").replace("7, 7", "28, 28"))
    inexact = {a.name for a in algorithms(AVX512) if not a.exact}
    default, strict = Context(AVX512), Context(AVX512, "strict")
    assert {n.attrs.algorithm for n in kernels(run_passes(graph, LOWERING, default))} & inexact
    assert not {n.attrs.algorithm for n in kernels(run_passes(graph, LOWERING, strict))} & inexact
    assert any("accuracy='strict'" in d.reason for d in strict.declined)


@pytest.mark.parametrize("target", [AVX2, AVX512, GENERIC], ids=lambda t: t.name)
@pytest.mark.parametrize("seed", range(8))
def test_lowering_keeps_the_meaning(seed, target):
    """Layouts are no part of a value's meaning, prepared weights are: the interpreter sees both."""
    graph = random_graph(seed, "N" if seed % 2 else 1)
    context = Context(target)
    laid = run_passes(graph, [PASSES["lower-conv-transpose"], *LOWERING], context)
    assert all(n.attrs.algorithm for n in kernels(laid))
    assert all(not v.type.layout for v in (*laid.inputs, *laid.outputs))
    feeds = random_feeds(graph, {"N": 2})
    results = interpret(laid, feeds)
    for name, array in interpret(graph, feeds).items():
        assert_close(results[name], array, "winograd")
