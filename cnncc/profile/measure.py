"""An executable and its inputs --> the time of every kernel call, next to what the machine could do at best."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from cnncc.errors import UnsupportedError
from cnncc.profile.clock import run_spans, timed
from cnncc.profile.roof import Roof, measure_roof
from cnncc.report import KernelRow
from cnncc.runtime.executable import Executable
from cnncc.runtime.program import Call, dim_at, shape_at
from cnncc.runtime.signature import solve_symbols
from cnncc.runtime.specialize import Specializing

_PARALLEL = b"TVMBackendParallel"  # what the names of functions begin with that kernels on several threads call
_TOGETHER = 1.0  # seconds that the runs should take together


@dataclass(frozen=True)
class KernelTime:
    """One kernel call. Work is of the given inputs, and by the definition: Winograd does it with fewer products."""

    index: int
    layer: str
    kernel: str
    ops: str
    algorithm: str
    layouts: str
    problem: str
    seconds: float  # the least over the runs: what the kernel takes where nothing disturbs it
    median: float
    flops: float  # of convolutions and matrix products; 0 for everything else
    weights: int  # bytes of constants
    values: int  # bytes of all other operands and results
    bound: float  # seconds that the machine needs at least (see Roof.bound)
    limit: str  # what sets the bound: "compute", "L2", "L3", "memory"
    alone: float | None  # least seconds on one thread, where the kernel runs on several

    @property
    def nbytes(self) -> int:
        """Bytes of operands and results."""
        return self.weights + self.values

    @property
    def gflops(self) -> float:
        """GFLOP/s."""
        return self.flops / self.seconds / 1e9

    @property
    def gbytes_per_second(self) -> float:
        """GB/s of operands and results."""
        return self.nbytes / self.seconds / 1e9

    @property
    def roof_percent(self) -> float:
        """The bound in percent of the time."""
        return 100 * self.bound / self.seconds

    @property
    def transform(self) -> bool:
        """Whether the kernel only changes a layout."""
        return set(self.ops.split("+")) == {"to_layout"}


@dataclass(frozen=True)
class Profile:
    """All kernel calls of a model in order, and runs of the whole.

    run_seconds: median time of a run; run_least: the least.
    busy: processors that were busy during runs; threads of the pool that look for work count as busy.
    taken: how many more would have been, had other work on the machine not had them (None: the system does not tell).
    spans: begin and end of every call in some runs, in seconds from the first, [runs, calls, 2].
    """

    name: str
    threads: int
    shapes: Mapping[str, tuple[int, ...]]
    roof: Roof
    rows: tuple[KernelTime, ...]
    run_seconds: float
    run_least: float
    busy: float
    taken: float | None
    spans: np.ndarray

    @property
    def seconds(self) -> float:
        """The sum of the kernels' times."""
        return sum(row.seconds for row in self.rows)

    @property
    def bound(self) -> float:
        """The sum of the kernels' bounds."""
        return sum(row.bound for row in self.rows)

    def efficiency(self, row: KernelTime) -> float | None:
        """The share of the threads' time that a kernel makes use of: time on one thread / (threads x time).

        The rest is threads that wait (too few or unequal tasks, the launch), and threads that slow each other down
        at caches and memory. None where a run has one thread.
        """
        if self.threads == 1:
            return None
        return (row.seconds if row.alone is None else row.alone) / (self.threads * row.seconds)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without the spans."""
        kept = {"name", "threads", "run_seconds", "run_least", "busy", "taken"}
        data = {key: value for key, value in vars(self).items() if key in kept}
        rows = [
            asdict(row) | {"roof_percent": row.roof_percent, "thread_efficiency": self.efficiency(row)}
            for row in self.rows
        ]
        return data | {"shapes": dict(self.shapes), "roof": asdict(self.roof), "kernels": rows}


def profile(executable: Executable | Specializing, feeds: Mapping[str, Any], repeat: int | None = None) -> Profile:
    """Times every kernel call of a compiled model in `repeat` runs (None: as many as a second takes, at least 10).

    State is left as it was. The FMA peak and bandwidths are measured in this process. Where a run has several threads,
    the kernels are timed on one thread as well. Raises UnsupportedError for a model that is not compiled for CPUs.
    """
    shapes = {name: tuple(np.shape(array)) for name, array in feeds.items()}
    if isinstance(executable, Specializing):
        executable = executable.specialized(shapes)
    program = executable.program
    if program.target.get("kind") == "cuda":
        raise UnsupportedError("a profile times kernels on this machine's processors, got a model compiled for CUDA")
    roof = measure_roof(program.threads)
    noted = timed(executable)
    start = time.perf_counter()
    run_spans(noted, feeds, 2)
    count = repeat or max(10, min(200, round(2 * _TOGETHER / (time.perf_counter() - start))))
    spans = run_spans(noted, feeds, count)
    run_seconds, run_least, busy, taken = _whole(executable, feeds, count)
    alone = None
    if program.threads > 1:
        alone = run_spans(timed(executable, 1), feeds, max(2, count // 2) + 1)[1:]
    values = solve_symbols(program.inputs, [shapes[port.name] for port in program.inputs])
    footprint = dim_at(executable.peak_memory, values)
    rows = []
    for i, (call, row) in enumerate(zip(program.calls, executable.report().rows, strict=True)):
        flops, weights, moved = _work(executable, call, row, values)
        bound, limit = roof.bound(flops, weights, moved, footprint)
        parallel = alone is not None and _PARALLEL in program.kernels[call.kernel]
        times = _times(spans, i)
        rows.append(
            KernelTime(
                *(i, row.layer, row.kernel, row.ops, row.algorithm, row.layouts, row.problem),
                seconds=float(times.min()),
                median=float(np.median(times)),
                flops=flops,
                weights=weights,
                values=moved,
                bound=bound,
                limit=limit,
                alone=float(_times(alone, i).min()) if parallel and alone is not None else None,
            )
        )
    name = str(program.notes.get("name") or "model")
    return Profile(
        *(name, program.threads, shapes, roof, tuple(rows), run_seconds, run_least, busy, taken),
        spans=spans - spans.flat[0],
    )


def _times(spans: np.ndarray, call: int) -> np.ndarray:
    times: np.ndarray = spans[:, call, 1] - spans[:, call, 0]
    return times


def _whole(executable: Executable, feeds: Mapping[str, Any], count: int) -> tuple[float, float, float, float | None]:
    """Median and least seconds of a run; processors that were busy on average; those that other work took from us."""
    before = dict(executable.state)
    times = []
    try:
        executable.run(feeds)
        start, used, delayed = time.perf_counter(), time.process_time(), _delayed()
        for _ in range(count):
            begin = time.perf_counter()
            executable.run(feeds)
            times.append(time.perf_counter() - begin)
        busy, more, took = time.process_time() - used, _delayed(), time.perf_counter() - start
    finally:
        executable.state.update(before)
    taken = None if delayed is None or more is None else max(0.0, more - delayed) / took
    return float(np.median(times)), min(times), busy / took, taken


def _delayed() -> float | None:
    """Seconds that this process's threads have been ready to run without a processor (Linux's schedstat)."""
    try:
        files = list(Path("/proc/self/task").glob("*/schedstat"))
        return sum(int(file.read_text().split()[1]) for file in files) / 1e9 if files else None
    except (OSError, IndexError):  # a thread ended meanwhile, or the kernel keeps no such statistics
        return None


def _work(executable: Executable, call: Call, row: KernelRow, values: Mapping[str, int]) -> tuple[float, int, int]:
    """FLOP, bytes of constants, bytes of other operands and results; intermediates inside a kernel do not count."""
    buffers = [executable.program.buffers[i] for i in call.buffers]
    weights = moved = 0
    for buffer in buffers:
        nbytes = prod(shape_at(buffer.shape, values)) * np.dtype(buffer.dtype).itemsize
        if buffer.kind == "constant":
            weights += nbytes
        elif ".workspace" not in buffer.name:
            moved += nbytes
    symbolic = any(not isinstance(extent, int) for buffer in buffers for extent in buffer.shape)
    batch = prod(values.values()) if symbolic else 1  # a report counts at batch 1, and work is linear in the batch
    return row.gflop * 1e9 * batch, weights, moved
