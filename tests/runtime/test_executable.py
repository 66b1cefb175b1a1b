"""Running programs made by hand: sizes, threads, state, inputs of every kind, errors."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import kernels as hand

from cnncc.runtime.executable import Executable


@pytest.mark.parametrize("threads", [1, 2])
def test_symbolic_batch_runs_every_size(threads: int) -> None:
    executable = Executable(hand.residual(threads))
    for rows in (1, 64, 3, 7, 1):
        hand.run_one(executable, rows)


@pytest.mark.parametrize("threads", [1, 2])
def test_state_is_updated_in_place(threads: int) -> None:
    executable = Executable(hand.counter(threads))
    ones = np.ones((1, 64), np.float32)
    np.testing.assert_array_equal(executable(ones), np.zeros(64))
    np.testing.assert_array_equal(executable(ones), -np.ones(64))
    np.testing.assert_array_equal(executable.state["p"], -np.ones((1, 64)))
