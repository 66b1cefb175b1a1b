"""What there is to tune: kernels by name, alone as text, and their choices in order."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import pytest

import cnncc
from cnncc.ir.layout import Layout
from cnncc.passes import INFERENCE, Context, run_passes
from cnncc.passes.tiles import tile_pairs, tile_record
from cnncc.targets.cpu.tiling import KINDS
from cnncc.targets.problem import ConvProblem, MatmulProblem
from cnncc.targets.table import algorithms
from cnncc.targets.target import Target
from cnncc.tune.region import kernel_name, problem_text
from cnncc.tune.space import plan
from tests.tune.networks import FIRST, SECOND, TARGET, THIRD, small, tasks

TWO = replace(TARGET, threads=2)
NARROW = replace(TARGET, vector_bits=256, vector_registers=16)
PROBLEMS = [
    "conv n1 ic64 h28 w28 oc64 k3x3 s1x1 p1x1",
    "conv n1 ic3 h64 w64 oc32 k7x7 s2x2 p3x3",
    "conv n2 ic128 h14 w14 oc256 k1x1 s1x1 p0x0",
    "conv n1 ic48 h13 w13 oc40 k3x3 s2x2 p1x1",
    "conv nN ic96 h28 w28 oc96 k3x3 s1x1 p1x1 g96",
    "conv n1 ic64 h14 w14 oc64 k3x3 s1x1 p1x1 g16",
    "conv n1 ic16 d6 h10 w10 oc32 k3x3x3 s1x1x1 p1x1x1",
    "conv n1 ic32 w200 oc64 k9 s4 p4",
    "matmul m1 k512 n1000 nk",
    "matmul m7 k130 n65 kn",
]


@dataclass(frozen=True)
class Foreign:
    """A problem record of an operation from outside."""

    n: str


def problem_of(text: str) -> ConvProblem | MatmulProblem:
    return MatmulProblem.parse(text) if text.startswith("matmul") else ConvProblem.parse(text)


@pytest.mark.parametrize("target", [TARGET, TWO, NARROW], ids=["wide", "threads", "narrow"])
@pytest.mark.parametrize("text", PROBLEMS)
def test_candidates_of_the_algorithms(text: str, target: Target):
    """Of the record's type, all different, the best by the model first, the default early, and repeatable."""
    problem, checked = problem_of(text), 0
    for algorithm in algorithms(target, text.split()[0]):
        if algorithm.applies(problem, target) is not None:
            continue
        assert algorithm.candidates is not None, algorithm.name
        default = algorithm.tiles_for(problem, target)
        found = list(algorithm.candidates(problem, target))
        assert default in found[:KINDS]
        assert len(set(found)) == len(found)
        assert all(tile_record(type(default), tile_pairs(tile)) == tile for tile in found)
        assert found == list(algorithm.candidates(problem, target))
        seconds = [algorithm.cost(problem, target, tile).seconds for tile in found]
        assert seconds[0] == min(seconds) <= algorithm.cost(problem, target, default).seconds
        assert algorithm.scratch(problem, target, found[-1]) < 1 << 20
        checked += 1
    assert checked


def test_kinds_come_before_variants():
    from cnncc.targets.cpu.direct import ALGORITHM

    tiles = list(ALGORITHM.candidates(problem_of(PROBLEMS[0]), TARGET))
    kinds = len({(t.pixels, t.vectors) for t in tiles})
    assert kinds > 5
    assert len({(t.pixels, t.vectors) for t in tiles[:kinds]}) == kinds


def test_kernels_of_a_network():
    found = {task.name: task for task in tasks()}
    assert {(FIRST, ""), (SECOND, "reads1 sigmoid"), (THIRD, "")} < set(found)
    assert [t.weight for t in tasks()] == sorted((t.weight for t in tasks()), reverse=True)
    task = found[FIRST, ""]
    assert task.default.algorithm == task.ways[0].default.algorithm
    assert task.constants == ("a1",)
    assert {w.default.algorithm for w in task.ways} >= {"direct", "winograd_f2", "winograd_f4"}
    assert all(len(way.layouts) == 3 for way in task.ways)


def test_accuracy_decides_what_may_be_measured():
    names = {w.default.algorithm for task in tasks(accuracy="strict") for w in task.ways}
    assert not any(name.startswith("winograd") for name in names)


def test_a_kernel_alone_reads_back_and_lays_out():
    for task in tasks():
        graph = cnncc.parse(task.text)
        (node,) = graph.nodes
        assert kernel_name(node.body) == task.name
        assert {v.name for v in graph.inputs} >= set(task.constants)
        for way in task.ways:
            assert all(not tag or Layout.parse(tag) for tag in way.layouts)


def test_names_do_not_depend_on_layouts_and_prepared_weights():
    """A kernel has one name before lay-out, where `choose` asks, and after it, where `choose-tiles` does."""
    before = run_passes(small(), INFERENCE[:-2], Context(TARGET))
    after = run_passes(small(), INFERENCE[:-1], Context(TARGET))
    assert any(m.op == "winograd_conv" for n in after.nodes if n.body is not None for m in n.body.nodes)
    names = [{kernel_name(n.body) for n in g.nodes if n.body is not None} - {None} for g in (before, after)]
    assert names[0] == names[1]


@pytest.mark.parametrize("symbol", ["N", "batch_size"])
def test_a_symbolic_batch_has_one_name(symbol):
    assert (FIRST.replace("n1", "nN"), "") in {task.name for task in tasks(batch=symbol)}


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (ConvProblem.parse("conv nB ic3 h8 w8 oc4 k1x1 s1x1 p0x0"), "conv nN ic3 h8 w8 oc4 k1x1 s1x1 p0x0"),
        (ConvProblem.parse("conv n2 ic3 h8 w8 oc4 k1x1 s1x1 p0x0"), "conv n2 ic3 h8 w8 oc4 k1x1 s1x1 p0x0"),
        (MatmulProblem("rows", 3, 4), "matmul mN k3 n4 kn"),
        (Foreign("B"), "Foreign(n='B')"),
    ],
)
def test_problems_by_name(problem, text):
    assert problem_text(problem) == text


def test_equal_kernels_are_one_task():
    text = """
    graph g(%x: f32[1, 32, 8, 8]) {
      const %a: f32[32, 32, 3, 3] = random(1)
      const %b: f32[32, 32, 3, 3] = random(2)
      %1: f32[1, 32, 8, 8] = conv(%x, %a, pads=1)
      %2: f32[1, 32, 8, 8] = relu(%1)
      %3: f32[1, 32, 8, 8] = conv(%2, %b, pads=1)
      %4: f32[1, 32, 8, 8] = neg(%3)
      return %4
    }
    """
    from cnncc.tune.space import find_tasks

    (task,) = find_tasks(cnncc.parse(text), TARGET, "default")
    assert task.count == 2


def test_the_plan_begins_with_every_algorithm_and_leaves_out_what_is_slow():
    task = next(t for t in tasks() if t.name == (FIRST, ""))
    seconds: dict = {}
    taken = []
    for choice in itertools.islice(plan(task, seconds), 60):
        taken.append(choice)
        seconds[choice] = {"direct": 1.0, "winograd_f2": 1.4, "winograd_f4": 1.6}.get(choice.algorithm)
    own = [way.default for way in task.ways]
    assert taken[: len(own)] == own
    assert taken[0] == task.default
    later = {choice.algorithm for choice in taken[len(own) :]}
    assert later == {"direct", "winograd_f2"}


def test_the_plan_ends():
    task = next(t for t in tasks() if t.name == (THIRD, ""))
    seconds: dict = {}
    for choice in plan(task, seconds):
        seconds[choice] = 1.0
    assert len(seconds) == len({c for w in task.ways for c in [w.default, *task.candidates(w.default.algorithm)]})
