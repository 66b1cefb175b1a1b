"""The process that kernels are built and run in: `python -m cnncc.tune.worker`, one JSON object a line each way.

    {"do": "start", "target": {...}}                                   -> {"ok": true}
    {"do": "kernel", "text": ..., "constants": [...], "batch": n}      -> {"ok": true}
    {"do": "time", "way": ..., "base": ..., "seconds": s, "stop": s}   -> {"ok": true, "seconds": ..., "error": ...}
    {"do": "compare", "first": ..., "second": ..., "rounds": n}        -> {"ok": true, "pairs": [[..., ...], ...]}
    a failure                                                          -> {"ok": false, "reason": ...}

A way is {"algorithm": ..., "layouts": [...], "tile": [[name, value], ...]}. On one thread the processor's time counts,
on several the wall's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from cnncc.errors import CnnccError
from cnncc.runtime import native
from cnncc.runtime.executable import Executable
from cnncc.targets.target import Target
from cnncc.tune import alone

SAMPLE = 2e-3  # seconds that a sample takes at least, in as many calls as needed
CALLS = 500  # of one sample at most
SHORTEST = 1e-8  # where a virtual machine's processor clock stands still


@dataclass
class Built:
    """A kernel that is ready to run, so many times in one run; places for the results, and what they are."""

    executable: Executable
    calls: int
    out: list[np.ndarray]
    results: list[np.ndarray]

    def run(self) -> None:
        """A run; memory that the system has yet to provide would cost time, so the results have a place."""
        self.executable(out=self.out)


class Worker:
    """Answers requests about one kernel at a time."""

    def __init__(self) -> None:
        self.target: Target | None = None
        self.cache = alone.Memory()
        self.text = ""
        self.constants: list[str] = []
        self.batch = 1
        self.arrays: dict[str, np.ndarray] = {}
        self.kernels: dict[str, alone.Kernel] = {}  # by algorithm
        self.built: dict[str, Built] = {}  # by way

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request; kernels that cannot be built are replies too."""
        try:
            return {"ok": True, **getattr(self, f"do_{request.pop('do')}")(**request)}
        except (CnnccError, ValueError, TypeError, RuntimeError, MemoryError) as error:  # TVM raises these
            text = str(error).strip().partition("\n")[0][:300]
            return {"ok": False, "reason": f"{type(error).__name__}: {text}"}

    def do_start(self, target: dict[str, Any]) -> dict[str, Any]:
        """Imports the compiler."""
        self.target = Target(**{**target, "features": tuple(target["features"])})
        native.import_tvm()
        return {}

    def do_kernel(self, text: str, constants: list[str], batch: int) -> dict[str, Any]:
        """The kernel that further requests are about; the last one is forgotten."""
        self.built.clear()
        self.kernels.clear()
        self.text, self.constants, self.batch = text, constants, batch
        self.arrays = alone.make_arrays(text, batch)
        return {}

    def do_time(self, way: dict[str, Any], base: dict[str, Any], seconds: float, stop: float) -> dict[str, Any]:
        """Time of a call, and the largest difference of its results from those of `base`, relative to the largest.

        A kernel whose first sample takes longer than `stop` seconds a call is not measured further."""
        kernel, reference = self._built(way), self._built(base)
        difference = max(map(_difference, kernel.results, reference.results), default=0.0)
        samples: list[float] = []
        end = time.perf_counter() + seconds
        while len(samples) < 3 or time.perf_counter() < end:
            samples.append(self._sample(kernel))
            if samples[0] > stop:
                break
        return {"seconds": float(np.quantile(samples, 0.25)), "error": difference}

    def do_compare(self, first: dict[str, Any], second: dict[str, Any], rounds: int) -> dict[str, Any]:
        """Times of two kernels in turn, the order changing from round to round."""
        kernels = [self._built(first), self._built(second)]
        pairs = []
        for k in range(rounds):
            pair = [0.0, 0.0]
            for i in (0, 1) if k % 2 else (1, 0):
                kernels[i].run()  # wakes its threads
                pair[i] = self._sample(kernels[i])
            pairs.append(pair)
        return {"pairs": pairs}

    def _sample(self, kernel: Built) -> float:
        """Seconds of a call, the mean of one run."""
        assert self.target is not None
        now = time.thread_time if self.target.threads == 1 else time.perf_counter
        start = now()
        kernel.run()
        return max((now() - start) / kernel.calls, SHORTEST)

    def _built(self, way: dict[str, Any]) -> Built:
        key = json.dumps(way)
        if key not in self.built:
            self.built[key] = self._build(way)
        return self.built[key]

    def _build(self, way: dict[str, Any]) -> Built:
        assert self.target is not None
        name = way["algorithm"]
        if name not in self.kernels:  # the tiles of an algorithm read and write the same layouts
            self.kernels[name] = alone.lay_out(
                self.text, self.arrays, self.constants, name, tuple(way["layouts"]), self.batch, self.target,
                tuple(self.kernels.values()),
            )  # fmt: skip
        kernel = self.kernels[name]
        tile = tuple((field, tuple(v) if isinstance(v, list) else v) for field, v in way["tile"])
        once, out = alone.build(kernel, tile, self.target, self.cache), alone.places(kernel)
        once(out=out)
        made = Built(once, len(kernel.copies), out, alone.logical_results(kernel, out))
        rounds = min(int(SAMPLE / self._sample(made)), CALLS) // made.calls
        if rounds > 1:
            made = Built(
                alone.build(kernel, tile, self.target, self.cache, rounds), made.calls * rounds, out, made.results
            )
            made.run()
        return made


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference relative to the largest value; infinite where they are not finite in the same places."""
    if found.dtype.kind != "f":
        return 0.0 if np.array_equal(found, expected) else float("inf")
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(found)):
        return float("inf")
    if not finite.any():
        return 0.0
    largest = float(np.abs(expected[finite]).max())
    return float(np.abs(found[finite] - expected[finite]).max()) / max(largest, 1e-30)


def serve(requests: IO[str], replies: IO[str]) -> None:
    """Answers until the requests end."""
    worker = Worker()
    for line in requests:
        replies.write(json.dumps(worker.answer(json.loads(line))) + "\n")
        replies.flush()


if __name__ == "__main__":
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        serve(sys.stdin, replies)
    except KeyboardInterrupt:
        sys.exit(130)
