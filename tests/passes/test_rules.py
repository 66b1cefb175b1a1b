"""The rewrite engine: what a pattern matches, when a rule declines, and that rewriting comes to an end."""

from __future__ import annotations

import re

import numpy as np
import pytest

import cnncc
from cnncc.builder import Builder
from cnncc.errors import GraphError
from cnncc.interpret import interpret
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.verify import verify
from cnncc.passes import PASSES, Context, run_passes
from cnncc.passes.rules import Decline, Rule, apply_rules, rule
from tests.graphs import random_feeds, random_graph
from tests.tolerances import assert_close


def parse(*lines: str, result: str = "y") -> Graph:
    """A graph over %x, %z: f32[2] and the constant %c = [1, 2], made of the given lines."""
    body = "\n".join(f"  {line}" for line in lines)
    return cnncc.parse(
        f"graph g(%x: f32[2], %z: f32[2]) {{\n  const %c: f32[2] = [1.0, 2.0]\n{body}\n  return %{result}\n}}"
    )


def apply(graph: Graph, *rules: Rule) -> tuple[str, Context]:
    """The ops that are left, in order, and what was declined."""
    context = Context()
    apply_rules(graph, rules, context)
    verify(graph)
    return " ".join(n.op for n in graph.nodes), context


@rule("relu(t := tanh(x))")
def relu_of_tanh(b: Builder, x: Value, t: Node, root: Node) -> Value | Decline:
    """relu(tanh(x)) --> sigmoid(x), of course not."""
    assert t.op == "tanh"
    assert root.op == "relu"
    return b.sigmoid(x)


@rule("relu(tanh(x))", shared=True)
def relu_of_shared_tanh(b: Builder, x: Value) -> Value | Decline:
    """The same where tanh has other readers."""
    return b.sigmoid(x)


def test_interior_values_have_one_reader():
    text = "%t: f32[2] = tanh(%x)", "%r: f32[2] = relu(%t)", "%y: f32[2] = add(%r, %z)"
    assert apply(parse(*text), relu_of_tanh)[0] == "sigmoid add"
    shared = *text[:2], "%y: f32[2] = add(%r, %t)"
    assert apply(parse(*shared), relu_of_tanh)[0] == "tanh relu add"
    assert apply(parse(*shared), relu_of_shared_tanh)[0] == "tanh sigmoid add"


def test_interior_values_are_no_outputs():
    graph = parse("%t: f32[2] = tanh(%x)", "%y: f32[2] = relu(%t)")
    graph.add_output(graph.nodes[0].output)
    assert apply(graph.copy(), relu_of_tanh)[0] == "tanh relu"
    assert sorted(apply(graph, relu_of_shared_tanh)[0].split()) == ["sigmoid", "tanh"]


def test_a_value_read_twice_by_one_node_has_two_readers():
    @rule("add(tanh(x), y)")
    def drop(x: Value, y: Value) -> Value | Decline:
        return x

    assert apply(parse("%t: f32[2] = tanh(%x)", "%y: f32[2] = add(%t, %t)"), drop)[0] == "tanh add"


def test_commutative_operations_match_in_both_orders():
    @rule("add(tanh(x), z)")
    def swap(b: Builder, x: Value, z: Value) -> Value | Decline:
        return b.sub(x, z)

    for operands in ("%t, %z", "%z, %t"):
        graph = parse("%t: f32[2] = tanh(%x)", f"%y: f32[2] = add({operands})")
        assert apply(graph, swap)[0] == "sub"
        assert [v.name for v in graph.nodes[0].operands()] == ["x", "z"]

    @rule("sub(tanh(x), z)")
    def only_left(x: Value, z: Value) -> Value | Decline:
        return x

    assert apply(parse("%t: f32[2] = tanh(%x)", "%y: f32[2] = sub(%z, %t)"), only_left)[0] == "tanh sub"
    assert apply(parse("%t: f32[2] = tanh(%x)", "%y: f32[2] = sub(%t, %z)"), only_left)[0] == ""


def test_a_declined_order_leaves_the_other():
    @rule("mul(a, b0)")
    def constant_second(a: Value, b0: Value, root: Node) -> Value | Decline:
        return a if b0.is_constant else Decline(f"%{b0.name} is no constant")

    ops, context = apply(parse("%y: f32[2] = mul(%c, %x)"), constant_second)
    assert ops == ""
    assert [(d.rule, d.reason) for d in context.declined] == [("constant-second", "%x is no constant")]


def test_names_that_repeat_bind_the_same_value():
    @rule("sub(x, x)")
    def zero(b: Builder, x: Value) -> Value | Decline:
        return b.mul(x, 0.0)

    assert apply(parse("%y: f32[2] = sub(%x, %x)"), zero)[0] == "mul"
    assert apply(parse("%y: f32[2] = sub(%x, %z)"), zero)[0] == "sub"


def test_numbers_match_constants_of_that_value_everywhere():
    @rule("mul(x, 2)")
    def double(b: Builder, x: Value) -> Value | Decline:
        return b.add(x, x)

    for constant, expected in (("[2.0, 2.0]", "add"), ("[2.0, 1.0]", "mul")):
        text = f"graph g(%x: f32[2]) {{ const %k: f32[2] = {constant} %y: f32[2] = mul(%k, %x) return %y }}"
        assert apply(cnncc.parse(text), double)[0] == expected


def test_rules_run_to_a_fixpoint():
    @rule("tanh(tanh(x))", shared=True)
    def merge(b: Builder, x: Value) -> Value | Decline:
        return b.tanh(x)

    lines = ["%v0: f32[2] = tanh(%x)"] + [f"%v{k}: f32[2] = tanh(%v{k - 1})" for k in range(1, 30)]
    assert apply(parse(*lines, result="v29"), merge)[0] == "tanh"


def test_what_one_rule_makes_another_may_match():
    @rule("exp(x)")
    def exp_to_tanh(b: Builder, x: Value) -> Value | Decline:
        return b.relu(b.tanh(x))

    assert apply(parse("%y: f32[2] = exp(%x)"), relu_of_tanh, exp_to_tanh)[0] == "sigmoid"


def test_rules_that_never_end_are_found():
    @rule("exp(x)")
    def again(b: Builder, x: Value) -> Value | Decline:
        return b.exp(x)

    with pytest.raises(AssertionError, match="again does not come to an end at exp"):
        apply(parse("%y: f32[2] = exp(%x)"), again)


def test_the_first_rule_that_applies_wins():
    @rule("tanh(x)")
    def first(b: Builder, x: Value) -> Value | Decline:
        return Decline("not today")

    @rule("tanh(x)")
    def second(b: Builder, x: Value) -> Value | Decline:
        return b.exp(x)

    @rule("tanh(x)")
    def third(b: Builder, x: Value) -> Value | Decline:
        raise AssertionError("a rule before applied")

    ops, context = apply(parse("%y: f32[2] = tanh(%x)"), first, second, third)
    assert ops == "exp"
    (declined,) = context.declined
    assert (declined.rule, declined.where, declined.reason) == ("first", "tanh %y", "not today")


def test_a_rule_must_keep_the_type():
    @rule("tanh(x)")
    def flatten(b: Builder, x: Value) -> Value | Decline:
        return b.reshape(x, shape=(2, 1))

    with pytest.raises(AssertionError, match=re.escape("the type must stay f32[2], got f32[2, 1]")):
        apply(parse("%y: f32[2] = tanh(%x)"), flatten)


def test_new_nodes_take_the_source_of_the_old():
    @rule("exp(x)")
    def exp_to_tanh(b: Builder, x: Value) -> Value | Decline:
        return b.relu(b.op("tanh", x, source="own"))

    graph = parse('%y: f32[2] = exp(%x) @ "layer"')
    apply(graph, exp_to_tanh)
    assert [n.source for n in graph.nodes] == ["own", "layer"]


def test_what_a_rewrite_leaves_behind_goes():
    graph = parse("%e: f32[2] = exp(%z)", "%m: f32[2] = mul(%e, %c)", "%y: f32[2] = tanh(%m)")

    @rule("tanh(x)")
    def cut(b: Builder, x: Value) -> Value | Decline:
        return b.relu(b.graph.inputs[0])

    apply(graph, cut)
    assert [n.op for n in graph.nodes] == ["relu"]
    assert graph.constants == []
    assert not graph.inputs[1].users


def test_patterns_are_checked_at_import():
    with pytest.raises(GraphError, match="no operation called 'rleu'"):
        rule("rleu(x)")(lambda x: x)
    with pytest.raises(AssertionError, match="<lambda>"):
        rule("relu(x)")(lambda y: y)


GRAPH_PASSES = ["canonicalize", "fold-constants", "fold-pad", "fold-batchnorm", "sink-transposes", "merge-duplicates"]


@pytest.mark.parametrize("seed", range(15))
def test_simplification_is_idempotent_and_keeps_the_numbers(seed):
    graph = random_graph(seed, "N")
    passes = [PASSES[n] for n in (*GRAPH_PASSES, "canonicalize", "remove-dead")]
    once = run_passes(graph, passes, Context())
    assert [n.op for n in run_passes(once, passes, Context()).nodes] == [n.op for n in once.nodes]
    feeds = random_feeds(graph, {"N": 2})
    results = interpret(once, feeds)
    for name, array in interpret(graph, feeds).items():
        assert_close(results[name], array, "conv")
    assert np.all([v.name for v in once.inputs] == [v.name for v in graph.inputs])
