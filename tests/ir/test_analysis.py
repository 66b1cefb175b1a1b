"""Graphs compared by structure, copied, and as networkx graphs."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

import cnncc
from cnncc.builder import Builder
from cnncc.ir.analysis import structurally_equal
from cnncc.ir.graph import Graph
from tests.graphs import random_graph


def build(name: str = "g", constant: object = 2.0, dtype: str = "f32", axis: int = 1, output: str = "y") -> Graph:
    b = Builder(name)
    x = b.input(name + "x", ("N", 3), dtype)
    c = b.constant(constant, name + "c", dtype)
    b.output(b.softmax(b.mul(x, c), axis=axis), output)
    return b.finish()


def test_names_do_not_matter():
    assert structurally_equal(build("a"), build("b"))


@pytest.mark.parametrize(
    "other",
    [
        build(constant=3.0),
        build(constant=[2.0]),
        build(dtype="f64"),
        build(axis=0),
        build(output="z"),
    ],
    ids=["value of a constant", "shape of a constant", "dtype", "attribute", "output name"],
)
def test_everything_else_does(other):
    assert not structurally_equal(build(), other)
    assert not structurally_equal(other, build())


def wired(second: str) -> Graph:
    b = Builder()
    x, y = b.input("x", (2,)), b.input("y", (2,))
    b.output(b.sub(x, {"x": x, "y": y}[second]), "out")
    return b.finish()


def test_wiring_matters():
    assert not structurally_equal(wired("x"), wired("y"))
    assert not structurally_equal(wired("y"), wired("x"))


def test_constants_of_another_type_differ():
    def graph(dtype: str) -> Graph:
        b = Builder()
        one = b.constant(1, dtype="i32")
        b.output(one, "a")
        b.output(one if dtype == "i32" else b.constant(1, dtype=dtype), "b")
        return b.finish()

    assert structurally_equal(graph("i32"), graph("i32"))
    assert not structurally_equal(graph("i32"), graph("i64"))
    assert not structurally_equal(graph("i64"), graph("i32"))


def test_constants_compare_by_bits():
    assert structurally_equal(build(constant=np.float32(np.nan)), build(constant=np.float32(np.nan)))
    assert not structurally_equal(build(constant=0.0), build(constant=-0.0))


def test_a_constant_may_be_shared_or_not():
    def graph(shared: bool) -> Graph:
        b = Builder()
        x, c = b.input("x", (2,)), b.constant([1.0, 2.0])
        b.output(b.mul(b.add(x, c), c if shared else b.constant([1.0, 2.0])))
        b.graph.output_names = ["y"]
        return b.finish()

    assert structurally_equal(graph(True), graph(False))
    assert structurally_equal(graph(False), graph(True))


def test_bodies_are_compared():
    text = """graph g(%x: f32[2]) {{
      %1: f32[2] = kernel(%a=%x) {{
        %b: f32[2] = {}(%a)
        return %b
      }}
      return %1
    }}"""
    relu, tanh = (cnncc.parse(text.format(op)) for op in ("relu", "tanh"))
    assert structurally_equal(relu, relu.copy())
    assert not structurally_equal(relu, tanh)


@pytest.mark.parametrize("seed", range(5))
def test_copies_are_equal_and_independent(seed):
    graph = random_graph(seed)
    text, copy = str(graph), graph.copy()
    assert structurally_equal(graph, copy)
    assert not set(graph.values()) & set(copy.values())
    copy.nodes[-1].op = "tanh" if copy.nodes[-1].op != "tanh" else "relu"
    copy.inputs[0].name = "changed"
    assert str(graph) == text


@pytest.mark.parametrize("seed", range(5))
def test_networkx_has_the_same_edges(seed):
    graph = random_graph(seed)
    exported = graph.to_networkx()
    assert nx.is_directed_acyclic_graph(exported)
    assert set(exported) == {*graph.inputs, *graph.constants, *graph.nodes}
    edges = sorted((d["value"].name, d["operand"], v.where) for _, v, d in exported.edges(data=True))
    assert edges == sorted((o.name, k, n.where) for n in graph.nodes for k, o in enumerate(n.inputs) if o is not None)
    kinds = nx.get_node_attributes(exported, "kind")
    assert {kinds[v] for v in graph.inputs} == {"input"}
    assert all(kinds[n] == "node" for n in graph.nodes)


def test_networkx_keeps_operands_that_repeat():
    b = Builder()
    x = b.input("x", (2,))
    b.output(b.mul(x, x))
    assert b.finish().to_networkx().number_of_edges() == 2


@pytest.mark.parametrize("seed", range(5))
def test_tidy_sorts_and_removes(seed):
    graph = random_graph(seed)
    expected = {n.where for n in graph.nodes}
    b = Builder(graph)
    b.relu(b.tanh(graph.inputs[0]))  # nothing reads these
    rng = np.random.default_rng(seed)
    graph.nodes = [graph.nodes[k] for k in rng.permutation(len(graph.nodes))]
    graph.tidy()
    assert {n.where for n in graph.nodes} == expected
    position = {n: k for k, n in enumerate(graph.nodes)}
    assert all(position[v.node] < position[n] for n in graph.nodes for v in n.operands() if v.node is not None)
