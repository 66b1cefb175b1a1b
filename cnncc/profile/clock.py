"""Reading the clock inside a run: a copy of a program that notes the time between its kernels.

The copy has one more kernel, which writes the time, called before, between and behind all others, and one more output,
which holds what was written. So kernels are timed as they run, their threads started and their data where runs leave
it; started one by one from Python, each would wait for threads to start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from cnncc.kernels.build import KernelSource, build_all
from cnncc.runtime.executable import Executable
from cnncc.runtime.program import Buffer, Call, Port, Program
from cnncc.runtime.state import State
from cnncc.targets.target import Target

CLOCK = "cnncc_clock"  # the symbol of the kernel, and the name of the output
_MONOTONIC = 1  # clock_gettime's number of the clock that Python's perf_counter reads
_ROW = 8  # words of a reading: seconds, nanoseconds, and what aligns the next one


def timed(executable: Executable, threads: int | None = None) -> Executable:
    """An executable of the same weights that notes the time; `threads`: how many, if not as many.

    Its runs update a copy of the state.
    """
    given = executable.program if threads is None else replace(executable.program, threads=threads)
    return Executable(with_clock(given), State({name: executable.state[name] for name in executable.state}))


def with_clock(program: Program) -> Program:
    """A program that reads the clock around every call, into an output of [calls + 1, 8] words named CLOCK."""
    machine = Target(name="native", kind="cpu")
    built = build_all({CLOCK: KernelSource(f"{CLOCK} v1", read_clock)}, machine)
    readings, root = len(program.calls) + 1, len(program.buffers)
    buffers = [Buffer(CLOCK, "int64", (readings, _ROW), "output")]
    buffers += [Buffer(f"{CLOCK}.{i}", "int64", (1, _ROW), "output", 8 * _ROW * i, root) for i in range(readings)]
    calls = [Call(CLOCK, (root + 1,), CLOCK)]
    for i, call in enumerate(program.calls):
        calls += [call, Call(CLOCK, (root + 2 + i,), CLOCK)]
    return replace(
        program,
        buffers=(*program.buffers, *buffers),
        calls=tuple(calls),
        outputs=(*program.outputs, Port(CLOCK, "int64", (readings, _ROW), root)),
        kernels={**program.kernels, CLOCK: built[CLOCK]},
    )


def run_spans(executable: Executable, feeds: Mapping[str, Any], repeat: int) -> np.ndarray:
    """When every kernel call of some runs of a timed executable began and ended, in seconds: [repeat, calls, 2]."""
    readings = np.stack([executable.run(feeds)[CLOCK] for _ in range(repeat)])
    times = readings[:, :, 0] + 1e-9 * readings[:, :, 1]
    return np.stack([times[:, :-1], times[:, 1:]], axis=-1)


def read_clock() -> Any:
    """The kernel as a PrimFunc of one row: seconds and nanoseconds of the monotonic clock."""
    from tvm.script import tirx as T  # noqa: N812

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]  # TVM has no types here
    def clock(row: T.handle) -> None:
        reading = T.match_buffer(row, (1, _ROW), "int64")
        with T.sblock("read"):
            reading[0, 0] = T.int64(0)
            reading[0, 2] = T.cast(
                T.call_extern("int32", "clock_gettime", _MONOTONIC, T.address_of(reading[0, 0])), "int64"
            )

    return clock
