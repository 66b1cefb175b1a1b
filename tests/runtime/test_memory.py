"""Memory that a run holds, as stated and as measured; the GIL during a run."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from cnncc.runtime.arena import empty, side_by_side, usable
from cnncc.runtime.executable import Executable
from tests.runtime import kernels as hand

ROOT = Path(__file__).parents[2]

MEASURE = """
import numpy as np
from cnncc.runtime.arena import empty
from cnncc.runtime.executable import Executable
from tests.runtime import kernels as hand

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

executable = Executable(hand.residual(2))
hand.run_one(executable, 1)
rows = 100_000
x = empty((rows + 1, 64), np.float32).reshape(-1)[1 : rows * 64 + 1].reshape(rows, 64)  # cannot be read in place
x[:] = 1
before = resident()
y = executable(x)
print(resident() - before, executable.peak_memory.at({"N": rows}))
z = executable(x)
del y
print(resident() - before)
del z, executable
import gc; gc.collect()
print(resident() - before)
"""


def test_stated_memory_is_what_a_run_takes() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, again, after = done.stdout.splitlines()
    taken, stated = map(int, first.split())
    assert stated == 100_000 * 1024 + 320
    assert abs(taken - stated) < 0.02 * stated
    assert abs(int(again) - stated) < 0.02 * stated  # no growth with runs
    assert int(after) < 0.02 * stated  # and released with the executable


def test_other_threads_run_during_a_run() -> None:
    program = hand.residual()
    executable = Executable(replace(program, calls=program.calls * 40))
    x = empty((20_000, 64), np.float32)
    x[...] = 0
    ticks: list[float] = []
    ended = threading.Event()

    def tick() -> None:
        while not ended.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        begin = time.perf_counter()
        executable(x)
        end = time.perf_counter()
    finally:
        ended.set()
        thread.join()
    margin = (end - begin) / 4
    assert any(begin + margin < t < end - margin for t in ticks)


def test_arrays_side_by_side() -> None:
    shapes = [((3, 5), np.float32), ((0, 4), np.float32), ((), np.int64), ((7,), np.uint8), ((2, 2), np.float64)]
    arrays = side_by_side([(shape, np.dtype(dtype)) for shape, dtype in shapes])
    assert [(a.shape, a.dtype) for a in arrays] == [(shape, np.dtype(dtype)) for shape, dtype in shapes]
    for k, array in enumerate(arrays):
        assert usable(array)
        array[...] = k + 1
    for k, array in enumerate(arrays):
        assert (array == k + 1).all()
