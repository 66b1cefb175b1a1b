"""Updates in place: no kernel may see a value that was overwritten. Run as the plan lays memory out, and by proof."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cnncc.builder import Builder
from cnncc.driver import compile_graph, plan_graph
from cnncc.errors import VerifyError
from cnncc.interpret import evaluate, interpret
from cnncc.ir.graph import Graph, Value
from cnncc.passes import TRAINING, Context, run_passes
from cnncc.passes.memory import plan_memory
from cnncc.passes.state import order_updates, prove_updates, writes_over
from cnncc.passes.views import find_views
from cnncc.targets.machine import AVX2, find_target
from tests.tolerances import assert_close

NEXT = ".next"


def swapped() -> Graph:
    b = Builder("swapped")
    x, y = b.input("x", (4, 6)), b.input("y", (4, 6))
    b.output(b.mul(y, 2.0), "x.next")
    b.output(b.add(x, 1.0), "y.next")
    return b.finish()


def reversed_() -> Graph:
    b = Builder("reversed")
    x = b.input("x", (4, 6))
    b.output(b.flip(x, axes=(1,)), "x.next")
    return b.finish()


def normalised() -> Graph:
    b = Builder("normalised")
    x = b.input("x", (4, 6))
    b.output(b.softmax(x, axis=1), "x.next")
    return b.finish()


def through_a_view() -> Graph:
    """The writer reads its own old value as a reshape, at other places than it writes."""
    b = Builder("view")
    x = b.input("x", (4, 4))
    left = b.slice(b.reshape(x, shape=(2, 8)), starts=(0, 0), ends=(2, 4))
    b.output(b.add(x, b.pad(left, pads=(1, 0, 1, 0))), "x.next")
    return b.finish()


def reader_of_a_view() -> Graph:
    """A later kernel reads the old value, but only as a reshape of it."""
    b = Builder("reader")
    x, z = b.input("x", (4, 6)), b.input("z", (8, 3))
    b.output(b.mul(x, 2.0), "x.next")
    flat = b.reshape(x, shape=(3, 8))
    b.output(b.matmul(b.matmul(b.matmul(z, flat), z), flat), "y")
    return b.finish()


def shared() -> Graph:
    """One value replaces two states, and is an output besides; a third takes an input as it is."""
    b = Builder("shared")
    x, y, z, w = (b.input(n, (5, 3)) for n in "xyzw")
    new = b.add(b.mul(x, 0.5), y)
    for name in ("x.next", "y.next", "out"):
        b.output(new, name)
    b.output(w, "z.next")
    b.output(b.relu(z), "old")
    return b.finish()


def momentum() -> Graph:
    b = Builder("momentum")
    w, v, g = (b.input(n, (7, 5)) for n in ("w", "v", "g"))
    new = b.add(b.mul(v, 0.9), g)
    b.output(new, "v.next")
    b.output(b.sub(w, b.mul(new, 0.1)), "w.next")
    return b.finish()


HAZARDS = {f.__name__: f for f in (swapped, reversed_, normalised, through_a_view, reader_of_a_view, shared)}


def replaced(graph: Graph) -> dict[str, str]:
    return {n.removesuffix(NEXT): n for n in graph.output_names if n.endswith(NEXT)}


def copies(graph: Graph) -> int:
    return sum(n.source.startswith("copy of") for n in graph.nodes)


@pytest.mark.parametrize("make", [*HAZARDS.values(), momentum])
def test_runs_agree_with_the_interpreter(make):
    graph = make()
    state = replaced(graph)
    rng = np.random.default_rng(0)
    feeds = {v.name: rng.standard_normal([int(d) for d in v.type.shape]).astype(np.float32) for v in graph.inputs}
    initial = {n: feeds[n] for n in state}
    exe = compile_graph(graph, find_target("native", 1), state=state, initial=initial)
    for _ in range(3):
        expected = interpret(graph, feeds)
        result = exe.run({n: a for n, a in feeds.items() if n not in state})
        for name, array in expected.items():
            got = exe.state[name.removesuffix(NEXT)] if name.endswith(NEXT) else result[name]
            assert_close(got, array, "reduction", label=f"{graph.name} {name}")
        feeds.update({n: expected[new] for n, new in state.items()})


def test_no_copy_where_there_is_no_hazard():
    made = plan_graph(momentum(), AVX2, state=replaced(momentum()))
    assert copies(made.graph) == 0
    assert any(n.attrs.in_place for n in made.graph.nodes if n.body is not None)


@pytest.mark.parametrize("make", [swapped, reversed_, normalised, through_a_view])
def test_a_hazard_makes_a_copy(make):
    graph = make()
    assert copies(plan_graph(graph, AVX2, state=replaced(graph)).graph) == 1


def test_readers_of_views_run_before_the_writer():
    graph = reader_of_a_view()
    made = plan_graph(graph, AVX2, state=replaced(graph))
    assert copies(made.graph) == 0
    writer = next(v.node for old, v in made.updates.items())
    assert [n for n in made.graph.nodes if n.body is not None][-1] is writer


def laid_out(graph: Graph) -> tuple[Graph, dict[Value, Value]]:
    laid = run_passes(graph, TRAINING, Context(AVX2))
    return laid, order_updates(laid, replaced(graph))


def test_the_proof_refuses_a_reader_behind_the_writer():
    laid, updates = laid_out(reader_of_a_view())
    plan = plan_memory(laid, views=find_views(laid))
    prove_updates(laid, updates, plan)
    (new,) = updates.values()
    laid.nodes.remove(new.node)
    laid.nodes.insert(0, new.node)
    with pytest.raises(VerifyError, match=r"the state %x .*: it is read after kernel .* has overwritten it"):
        prove_updates(laid, updates, plan)


def test_the_proof_refuses_kernels_that_read_other_elements():
    graph = normalised()
    laid = run_passes(graph, TRAINING, Context(AVX2))
    (x,), (new,) = laid.inputs, laid.outputs
    assert not writes_over(new, x)
    new.node.attrs = replace(new.node.attrs, in_place=True)
    with pytest.raises(VerifyError, match="reads other elements"):
        prove_updates(laid, {x: new}, plan_memory(laid, views=find_views(laid)))


def test_the_proof_refuses_kernels_that_do_not_know():
    """A kernel that may assume that its operands and results lie apart."""
    laid, updates = laid_out(momentum())
    plan = plan_memory(laid, views=find_views(laid))
    for new in updates.values():
        new.node.attrs = replace(new.node.attrs, in_place=False)
    with pytest.raises(VerifyError, match="cannot be updated in place"):
        prove_updates(laid, updates, plan)


def test_the_proof_refuses_one_value_for_two_states():
    laid, updates = laid_out(momentum())
    first, second = updates
    with pytest.raises(VerifyError, match="one value replaces several states"):
        prove_updates(laid, {first: updates[first], second: updates[first]}, find_views(laid))


def random_updates(seed: int) -> Graph:
    """States of one shape whose new values are made of each other's old ones in all kinds of ways."""
    rng = np.random.default_rng(seed)
    b = Builder(f"random {seed}")
    states = [b.input(f"s{k}", (4, 4)) for k in range(4)]
    values = list(states)
    for _ in range(10):
        x, y = (values[k] for k in rng.integers(0, len(values), 2))
        kind = rng.integers(0, 6)
        values.append(
            [
                lambda x, y: b.add(x, b.mul(y, 0.5)),
                lambda x, y: b.flip(x, axes=(0,)),
                lambda x, y: b.sub(x, b.reduce_mean(y, axes=(1,))),
                lambda x, y: b.mul(b.matmul(x, y), 0.2),
                lambda x, y: b.reshape(b.relu(b.reshape(x, shape=(2, 8))), shape=(4, 4)),
                lambda x, y: b.transpose(x, perm=(1, 0)),
            ][kind](x, y)
        )
    for k in range(len(states)):
        b.output(values[int(rng.integers(0, len(values)))], f"s{k}{NEXT}")
    b.output(values[-1], "y")
    return b.finish()


@pytest.mark.parametrize("seed", range(60))
def test_random_updates(seed):
    """The kernels one by one on memory as it is laid out: the state's new value in the place of the old one."""
    graph = random_updates(seed)
    made = plan_graph(graph, AVX2, state=replaced(graph))
    rng = np.random.default_rng(seed)
    feeds = {v.name: rng.standard_normal((4, 4)).astype(np.float32) for v in graph.inputs}
    expected = interpret(graph, feeds)
    home = {new: old for old, new in made.updates.items()}
    memory = {v: feeds[v.name].copy() for v in made.graph.inputs}

    def place(value: Value) -> Value:
        root = made.plan.root(value)
        return home.get(root, root)

    for node in made.graph.nodes:
        if node.body is None:
            continue
        arrays = [
            v.data if v.is_constant else memory[place(v)].reshape([int(d) for d in v.type.shape])
            for v in node.operands()
        ]
        inner = evaluate(node.body, dict(zip(node.body.inputs, arrays, strict=True)))
        for value, result in zip(node.outputs, node.body.outputs, strict=True):
            memory[place(value)] = np.array(inner[result])
    for value, name in zip(made.graph.outputs, made.graph.output_names, strict=True):
        assert_close(memory[place(value)].reshape(4, 4), expected[name], "reduction", label=f"seed {seed} {name}")
