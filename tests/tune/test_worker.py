"""Kernels measured in a process of their own: right results, failures as answers, hangs and deaths survived."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

from cnncc.targets.machine import find_target
from cnncc.tune import worker
from cnncc.tune.measure import ROUNDS, TOLERANCE, Failure, Subprocess, _way
from cnncc.tune.records import Choice
from cnncc.tune.space import find_tasks
from tests.tune.networks import THIRD, small

TARGET = find_target("native", 1)


@pytest.fixture(scope="module")
def inside():
    """The worker in this process."""
    made = worker.Worker()
    assert made.answer({"do": "start", "target": asdict(TARGET)}) == {"ok": True}
    return made


def opened(inside, task):
    assert inside.answer({"do": "kernel", "text": task.text, "constants": list(task.constants), "batch": 2})["ok"]


@pytest.mark.parametrize("batch", [1, "N"])
def test_every_algorithm_of_every_kernel_runs_and_agrees(inside, batch):
    for task in find_tasks(small(batch), TARGET, "default"):
        opened(inside, task)
        base = _way(task, task.default)
        for way in task.ways:
            later = [c for c in task.candidates(way.default.algorithm) if c != way.default]
            for choice in (way.default, *later[3:4]):
                reply = inside.answer(
                    {"do": "time", "way": _way(task, choice), "base": base, "seconds": 0, "stop": 1e9}
                )
                assert reply["ok"], (choice, reply)
                assert reply["seconds"] > 0
                assert reply["error"] < TOLERANCE, choice
        assert len(inside.kernels) == len(task.ways)


def test_operands_are_rotated(inside):
    task = find_tasks(small(), TARGET, "default")[0]
    opened(inside, task)
    made = inside._built(_way(task, task.default))
    copies = inside.kernels[task.default.algorithm].copies
    program = made.executable.program
    assert len(copies) > 1
    assert made.calls == len(program.calls)
    assert made.calls % len(copies) == 0
    assert len({call.buffers for call in program.calls}) == len(copies)
    assert len({id(a) for arrays in copies for a in arrays}) == len(copies) * len(copies[0])


def test_algorithms_of_one_layout_share_their_operands(inside):
    task = next(t for t in find_tasks(small(), TARGET, "default") if t.name[0] == THIRD)
    opened(inside, task)
    for way in task.ways:
        inside._built(_way(task, way.default))
    assert {"direct", "pointwise"} <= set(inside.kernels)
    assert inside.kernels["direct"].copies is inside.kernels["pointwise"].copies


def test_comparisons_are_pairs(inside):
    task = find_tasks(small(), TARGET, "default")[0]
    opened(inside, task)
    ways = [_way(task, way.default) for way in task.ways[:2]]
    reply = inside.answer({"do": "compare", "first": ways[0], "second": ways[1], "rounds": 3})
    assert np.shape(reply["pairs"]) == (3, 2)


def test_what_does_not_build_is_an_answer(inside):
    task = find_tasks(small(), TARGET, "default")[0]
    opened(inside, task)
    base = _way(task, task.default)
    for tile in ([["no_such_field", 3]], []):
        reply = inside.answer({"do": "time", "way": base | {"tile": tile}, "base": base, "seconds": 0, "stop": 1})
        assert reply["ok"] or reply["reason"]
    reply = inside.answer({"do": "kernel", "text": "no graph", "constants": [], "batch": 1})
    assert not reply["ok"]
    assert "ParseError" in reply["reason"]


def test_differences_are_of_the_largest():
    a = np.array([4.0, 0.0, np.nan], np.float32)
    assert worker._difference(a, a) == 0
    assert worker._difference(np.array([4.0, 1.0, np.nan]), a) == 0.25
    assert worker._difference(np.array([4.0, 1.0, 2.0]), a) == float("inf")
    assert worker._difference(np.array([1, 2]), np.array([1, 3])) == float("inf")
    assert worker._difference(np.array([np.nan]), np.array([np.nan])) == 0


def test_a_process_that_hangs_or_dies_is_replaced():
    task = find_tasks(small(), TARGET, "default")[0]
    measure = Subprocess(TARGET)
    try:
        assert isinstance(measure.time(task, task.default, 1e9), float)
        first = measure._client._process
        measure._limit = 1e-6
        hung = measure.time(task, task.ways[1].default, 1e9)
        assert hung == Failure("no answer to time within 1e-06 s")
        assert first.poll() is not None
        measure._limit = 60
        assert isinstance(measure.time(task, task.ways[1].default, 1e9), float)
        second = measure._client._process
        assert second.pid != first.pid
        second.kill()
        dead = measure.time(task, task.default, 1e9)
        assert isinstance(dead, Failure)
        assert "ended" in dead.reason
        pairs = measure.compare(task, task.default, task.ways[1].default)
        assert np.shape(pairs) == (ROUNDS, 2)
        third = measure._client._process
    finally:
        measure.close()
    assert third.poll() is not None
    measure.close()


def test_a_failure_does_not_mix_up_kernels():
    """After a choice of another kernel that does not build, the first one is opened again."""
    first, second, *_ = find_tasks(small(), TARGET, "default")
    asked = []

    class Recorder:
        def ask(self, do, limit, **request):
            asked.append((do, request.get("text")))
            bad = do == "time" and asked[-2][1] == second.text
            return {"ok": False, "reason": "no"} if bad else {"ok": True, "seconds": 1.0, "error": 0.0}

        def __exit__(self, *exception):
            pass

    measure = Subprocess(TARGET)
    measure._client = Recorder()
    assert measure.time(first, first.default, 1e9) == 1.0
    assert measure.time(second, second.default, 1e9) == Failure("no")
    assert measure.time(first, first.default, 1e9) == 1.0
    texts = [text for do, text in asked if do == "kernel"]
    assert texts == [first.text, second.text, first.text]


def test_wrong_results_are_a_failure(monkeypatch):
    task = find_tasks(small(), TARGET, "default")[0]
    measure = Subprocess(TARGET)
    monkeypatch.setattr(measure, "_ask", lambda *a, **k: {"ok": True, "seconds": 1.0, "error": 0.5})
    outcome = measure.time(task, task.default, 1e9)
    assert isinstance(outcome, Failure)
    assert "differ from the default's by 5.0e-01" in outcome.reason


def test_threads_run_parallel_kernels():
    target = replace(TARGET, threads=2)
    task = find_tasks(small(), target, "default")[0]
    parallel = Choice("direct", tuple((k, v or k == "parallel") for k, v in task.way("direct").default.tile))
    measure = Subprocess(target)
    try:
        assert isinstance(measure.time(task, parallel, 1e9), float)
    finally:
        measure.close()
