"""Fixing the shapes of inputs: symbols get their values, contradictions name both places."""

from __future__ import annotations

import re

import numpy as np
import pytest

import cnncc
from cnncc.builder import Builder
from cnncc.errors import GraphError
from cnncc.interpret import interpret
from cnncc.ir.dims import symbol
from cnncc.ir.graph import Graph
from cnncc.ir.reshape import bind_shapes, bind_symbols
from tests.graphs import random_feeds, random_graph

N, H = symbol("N"), symbol("H")


def two_inputs() -> Graph:
    b = Builder("g")
    x, y = b.input("x", (N, 2, H)), b.input("y", (N, 2, H))
    b.output(b.reshape(b.add(x, y), shape=(N, 2 * H)), "z")
    return b.finish()


def formulas() -> Graph:
    b = Builder("g")
    x, y = b.input("x", (N, 2)), b.input("y", (2 * N + 1,))
    b.output(b.reshape(x, shape=(2 * N,)), "flat")
    b.output(b.relu(y), "more")
    return b.finish()


def test_symbols_are_replaced_everywhere():
    graph = bind_shapes(two_inputs(), {"x": (3, 2, 5)})
    assert [str(v.type) for v in graph.values()] == ["f32[3, 2, 5]", "f32[3, 2, 5]", "f32[3, 2, 5]", "f32[3, 10]"]
    assert graph.nodes[-1].attrs.shape == (3, 10)
    assert graph.symbols == ()


def test_some_may_stay_symbolic():
    graph = bind_shapes(two_inputs(), {"x": ("N", 2, np.int64(5))})
    assert str(graph.inputs[1].type) == "f32[N, 2, 5]"
    assert graph.symbols == ("N",)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x": (3, 2, 5), "y": (4, 2, 5)}, "symbol N is 3 at input 'x' axis 0, but 4 at input 'y' axis 0"),
        ({"x": (3, 2, 5), "y": (3, 2, 6)}, "symbol H is 5 at input 'x' axis 2, but 6 at input 'y' axis 2"),
        ({"x": (3, 7, 5)}, "input 'x' axis 1: must be 2, got 7"),
        ({"x": (3, "C", 5)}, "input 'x' axis 1: is 2 in the graph and cannot become the symbol C"),
        ({"x": (3, 2)}, "input 'x': rank must be 3, got 2"),
        ({"q": (3, 2)}, "there is no input 'q'; inputs are x, y"),
        ({"x": (-1, 2, 5)}, "input 'x' axis 0: a size must be a number of at least 0, got -1"),
        ({"x": (1.5, 2, 5)}, "must be a number of at least 0, got 1.5"),
    ],
)
def test_contradictions(shapes, message):
    with pytest.raises(GraphError, match=re.escape(message)):
        bind_shapes(two_inputs(), shapes)


def test_formulas_follow_from_their_symbols_or_give_them():
    assert str(bind_shapes(formulas(), {"x": (3, 2)}).inputs[1].type) == "f32[7]"
    assert str(bind_shapes(formulas(), {"y": (7,)}).inputs[0].type) == "f32[3, 2]"
    assert str(bind_shapes(formulas(), {"x": (3, 2), "y": (7,)}).outputs[0].type) == "f32[6]"
    with pytest.raises(GraphError, match=re.escape("input 'y' axis 0: 2*N + 1 is 7, but 9 was given")):
        bind_shapes(formulas(), {"x": (3, 2), "y": (9,)})
    with pytest.raises(GraphError, match=re.escape("2*N + 1 must be 8, but no N gives that")):
        bind_shapes(formulas(), {"y": (8,)})


def test_shapes_that_do_not_fit_an_operation_name_it():
    b = Builder()
    x = b.input("x", (1, 1, H, 4))
    b.output(b.op("conv", x, b.constant(np.zeros((1, 1, 3, 3), np.float32)), source="first"))
    with pytest.raises(GraphError, match=r"conv 'first': the window must fit .* axis 0 has 2 \+ 0 \+ 0 < 3"):
        bind_shapes(b.finish(), {"x": (1, 1, 2, 4)})


@pytest.mark.parametrize("seed", range(6))
def test_bound_graphs_compute_the_same(seed):
    graph = random_graph(seed, "N")
    bound = bind_symbols(graph, {"N": 3})
    assert bound.symbols == ()
    assert "N" in str(graph)
    feeds = random_feeds(graph, {"N": 3})
    expected = interpret(graph, feeds)
    for name, array in interpret(bound, feeds).items():
        assert np.array_equal(array, expected[name])


def test_compile_says_which_symbols_contradict():
    with pytest.raises(GraphError, match=r"symbol N is 1 .* but 2"):
        cnncc.compile(two_inputs(), shapes={"x": (1, 2, 3), "y": (2, 2, 3)})
