"""The process that one system runs in: `python -m cnncc.bench.worker`, one JSON object a line each way.

    {"do": "open", "system": ..., "onnx": ..., "feeds": npz, "threads": n, "instances": k, "scratch": dir, "torch": ...}
                                          -> {"ok": true, "version": ..., "seconds": ...}
    {"do": "round", "seconds": s, "least": n, "warmup": n, "clock": c}
                                          -> {"ok": true, "times": [...], "elapsed": s, "done": n, "at_once": 1}
    {"do": "stream", "seconds": s, "least": n, "warmup": n}    -> the same, of several runs at once
    {"do": "memory"}                                           -> {"ok": true, "peak": bytes, "held": bytes}
    {"do": "outputs", "path": npz}                             -> {"ok": true}
    {"do": "peak", "threads": n}                               -> {"ok": true, "flops": ...}
    {"do": "export", "torch": ..., "path": ..., "shapes": ...} -> {"ok": true}
    a failure                                                  -> {"ok": false, "missing": bool, "reason": ...}

The systems print what they like: file descriptor 1 is pointed at stderr, and replies go to a copy of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from cnncc.bench.systems import Job, MissingError, Session, find_system, peak
from cnncc.bench.torch_reference import export


def _aligned(array: np.ndarray) -> np.ndarray:
    """A copy that starts at a multiple of 64 bytes, as a caller who cares about time would keep it."""
    room = np.empty(array.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    view = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def _memory(field: str) -> int | None:
    """A size from /proc/self/status in bytes; None where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:")), None)


class Worker:
    """Answers requests; holds the one session that was opened."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.bare = _memory("VmRSS")  # before the system is there

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request; failures of a system become replies too."""
        try:
            return {"ok": True, **getattr(self, f"do_{request.pop('do')}")(**request)}
        except MissingError as reason:
            return {"ok": False, "missing": True, "reason": str(reason)}
        except Exception as error:  # whatever a foreign system raises ends in the report, with its type
            text = str(error).strip().partition("\n")[0][:300]
            return {"ok": False, "missing": False, "reason": f"{type(error).__name__}: {text}"}

    def do_open(
        self, system: str, onnx: str, feeds: str, threads: int, scratch: str, torch: str | None, instances: int = 1
    ) -> dict[str, Any]:
        """Loads and compiles the model; the seconds are all it takes from a running process with numpy to there."""
        known = find_system(system)
        assert known is not None, system
        absent = [name for name in known.packages if importlib.util.find_spec(name) is None]
        if absent:
            raise MissingError(f"not installed: {', '.join(absent)}")
        with np.load(feeds) as arrays:
            given = {name: _aligned(arrays[name]) for name in arrays.files}
        self.bare = _memory("VmRSS")
        start = time.perf_counter()
        module = importlib.import_module(f"cnncc.bench.systems.{known.module}")
        self.session = module.start(Job(onnx, given, threads, scratch, torch, known.options, instances))
        took = time.perf_counter() - start if self.session.seconds is None else self.session.seconds
        return {"version": self.session.version, "seconds": took}

    def do_round(self, seconds: float, least: int, warmup: int, clock: str = "wall") -> dict[str, Any]:
        """Seconds of each run, on the wall or of the processor: at least `least` runs, and until the time is up."""
        now = time.process_time if clock == "cpu" else time.perf_counter
        run = self._opened().run
        for _ in range(warmup):
            run()
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < least or time.perf_counter() < end:
            start = now()
            run()
            times.append(now() - start)
        return {"times": times, "elapsed": sum(times), "done": len(times), "at_once": 1}

    def do_stream(self, seconds: float, least: int, warmup: int) -> dict[str, Any]:
        """Seconds of each run, all lanes of the session running at once, each on a thread of its own."""
        lanes = self._opened().lanes
        begins: list[float] = []
        start = threading.Barrier(len(lanes), lambda: begins.append(time.perf_counter()))

        def work(run: Callable[[], Any]) -> list[tuple[float, float]]:
            try:
                for _ in range(warmup):
                    run()
            except BaseException:
                start.abort()
                raise
            start.wait()
            spans: list[tuple[float, float]] = []
            while len(spans) < least or time.perf_counter() < begins[0] + seconds:
                began = time.perf_counter()
                run()
                spans.append((began, time.perf_counter()))
            return spans

        with ThreadPoolExecutor(len(lanes)) as pool:
            pending = [pool.submit(work, lane) for lane in lanes]
            failed = [f.exception() for f in pending if not isinstance(f.exception(), threading.BrokenBarrierError)]
            for error in filter(None, failed):
                raise error
            spans = [future.result() for future in pending]
        # Until the first stops: behind that, the others have the processors to themselves.
        begin, end = begins[0], min(lane[-1][1] for lane in spans)
        runs = [run for lane in spans for run in lane]
        done = sum(max(0.0, min(e, end) - max(b, begin)) / (e - b) for b, e in runs)
        return {"times": [e - b for b, e in runs], "elapsed": end - begin, "done": done, "at_once": len(lanes)}

    def do_memory(self) -> dict[str, Any]:
        """Bytes resident beyond those of a bare worker: the most so far, and now."""
        now, most = _memory("VmRSS"), _memory("VmHWM")
        if self.bare is None or most is None or now is None:
            return {"peak": None, "held": None}
        # (The system brings its counters up to date at different times.)
        return {"peak": max(0, most - self.bare, now - self.bare), "held": max(0, now - self.bare)}

    def do_outputs(self, path: str) -> dict[str, Any]:
        """Writes the outputs of one run."""
        session = self._opened()
        np.savez(path, *[np.asarray(array) for array in session.fetch(session.run())])
        return {}

    def do_peak(self, threads: int) -> dict[str, Any]:
        """Measures the FMA peak."""
        return {"flops": peak.measure(threads)}

    def do_export(self, torch: str, path: str, shapes: dict[str, tuple[int, ...]] | None) -> dict[str, Any]:
        """torch module --> ONNX file."""
        if importlib.util.find_spec("torch") is None:
            raise MissingError("not installed: torch")
        export(torch, path, shapes)
        return {}

    def _opened(self) -> Session:
        assert self.session is not None, "a round before open"
        return self.session


def main(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answers requests on stdin until they end."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        for line in sys.stdin:
            replies.write(json.dumps(answer(json.loads(line))) + "\n")
            replies.flush()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(Worker().answer)
