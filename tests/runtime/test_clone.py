"""Clones: several executables of one model that run at the same time on one copy of weights and code."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from cnncc.errors import GraphError
from cnncc.runtime.executable import Executable
from tests.runtime import kernels as hand


def test_weights_and_code_are_shared_and_the_rest_is_not() -> None:
    first = Executable(hand.residual(2))
    second = first.clone()
    shared = {b.name for b in first.program.buffers if b.kind == "constant"}
    assert shared
    assert all(second.program.constants[name] is first.program.constants[name] for name in shared)
    assert second._engine.functions is first._engine.functions
    assert second.state.lock is not first.state.lock
    hand.run_one(first, 3)
    hand.run_one(second, 5)
    assert not np.may_share_memory(second._engine._arena, first._engine._arena)


def test_a_clone_begins_with_the_present_state_and_keeps_its_own() -> None:
    counter = Executable(hand.counter())
    ones = np.ones((1, 64), np.float32)
    counter(ones)
    copy = counter.clone()
    np.testing.assert_array_equal(copy(ones), -np.ones(64))
    np.testing.assert_array_equal(copy.state["p"], -np.ones((1, 64)))
    np.testing.assert_array_equal(counter.state["p"], np.zeros((1, 64)))


@pytest.mark.parametrize("threads", [1, 2])
def test_clones_run_at_the_same_time(threads: int) -> None:
    executables = [Executable(hand.residual(2))]
    executables += [executables[0].clone(threads) for _ in range(3)]
    errors: list[BaseException] = []

    def work(executable: Executable) -> None:
        try:
            for rows in range(1, 40):
                hand.run_one(executable, rows)
        except BaseException as error:
            errors.append(error)

    callers = [threading.Thread(target=work, args=(e,)) for e in executables]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not errors
    assert [e.program.threads for e in executables] == [2, threads, threads, threads]


def test_a_clone_outlives_the_first() -> None:
    copy = Executable(hand.residual(2)).clone(1)
    hand.run_one(copy, 4)


def test_a_clone_needs_a_thread() -> None:
    with pytest.raises(GraphError, match="threads must be at least 1, got 0"):
        Executable(hand.residual()).clone(0)
