"""The process that one system trains in, for benchmarks/training.py: JSON objects a line each way (cnncc.bench.worker).

{"do": "open", "system": ..., "net": ..., "shape": [...], "batch": n, "threads": n, "optimizer": ...}
                                                                     -> {"ok": true, "seconds": ...}
{"do": "round", "seconds": s, "clock": c}                            -> {"ok": true, "times": [...]}
{"do": "kernels", "count": n}       -> {"ok": true, "kernels": [...], "algorithms": {...}}
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.training_nets import NETS, build
from cnncc.bench.worker import main

LEAST = 3  # steps of a round
RATE, MOMENTUM = 0.01, 0.9


def batch_of(net: str, shape: Sequence[int], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images of a shape, and labels."""
    known, random = NETS[net], np.random.default_rng(0)
    x = random.standard_normal((batch, *shape)).astype(np.float32)
    y = random.integers(0, known.classes, (batch, *(shape[1:] if known.per_pixel else ())))
    return x, y.astype(np.int64)


class Worker:
    """Holds the one step that was opened."""

    def __init__(self) -> None:
        self.step: Callable[[], Any] = lambda: None
        self.executable: Any = None
        self.feeds: dict[str, Any] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request; failures of a system become replies too."""
        try:
            return {"ok": True, **getattr(self, f"do_{request.pop('do')}")(**request)}
        except Exception as error:  # whatever a system raises ends in the report, with its type
            text = str(error).strip().partition("\n")[0][:300]
            return {"ok": False, "missing": False, "reason": f"{type(error).__name__}: {text}"}

    def do_open(
        self, system: str, net: str, shape: Sequence[int], batch: int, threads: int, optimizer: str
    ) -> dict[str, Any]:
        """Builds the network and makes the first step; the seconds are what both take, compilation with it."""
        x, y = batch_of(net, shape, batch)
        start = time.perf_counter()
        if system == "cnncc":
            self._cnncc(net, x, y, threads, optimizer)
        else:
            self._torch(net, x, y, threads, optimizer, channels_last=system == "torch-channels-last")
        self.step()
        return {"seconds": time.perf_counter() - start}

    def _cnncc(self, net: str, x: np.ndarray, y: np.ndarray, threads: int, optimizer: str) -> None:
        from cnncc import nn, optim
        from cnncc.train import TrainStep

        kinds = {"sgd": lambda: optim.SGD(lr=RATE, momentum=MOMENTUM), "adamw": lambda: optim.AdamW(lr=RATE)}
        step = TrainStep(build(net, nn), "cross_entropy", kinds[optimizer](), threads=threads)
        step.prepare(x, y)
        self.step, self.executable, self.feeds = lambda: step(x, y), step.executable, step.feeds(x, y)

    def _torch(self, net: str, x: np.ndarray, y: np.ndarray, threads: int, optimizer: str, channels_last: bool) -> None:
        import torch

        torch.set_num_threads(threads)
        module = build(net, torch.nn).train()
        images, labels = torch.from_numpy(x), torch.from_numpy(y)
        if channels_last:
            form = torch.channels_last if images.dim() == 4 else torch.channels_last_3d
            module, images = module.to(memory_format=form), images.to(memory_format=form)
        kinds = {
            "sgd": lambda p: torch.optim.SGD(p, lr=RATE, momentum=MOMENTUM),
            "adamw": lambda p: torch.optim.AdamW(p, lr=RATE),
        }
        update, loss = kinds[optimizer](module.parameters()), torch.nn.CrossEntropyLoss()

        def step() -> None:
            update.zero_grad()
            loss(module(images), labels).backward()
            update.step()

        self.step = step

    def do_round(self, seconds: float, clock: str) -> dict[str, Any]:
        """Seconds of each step, until the time is up."""
        now = time.process_time if clock == "cpu" else time.perf_counter
        self.step()
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < LEAST or time.perf_counter() < end:
            start = now()
            self.step()
            times.append(now() - start)
        return {"times": times}

    def do_kernels(self, count: int) -> dict[str, Any]:
        """The slowest kernels of a step, and the sums by algorithm."""
        from cnncc.profile.clock import run_spans, timed

        spans = run_spans(timed(self.executable), self.feeds, 5)
        times = (spans[:, :, 1] - spans[:, :, 0]).min(0)
        rows = self.executable.report().rows
        total, algorithms = float(times.sum()), {}
        for seconds, row in zip(times, rows, strict=True):
            n, sum_ = algorithms.get(row.algorithm, (0, 0.0))
            algorithms[row.algorithm] = (n + 1, sum_ + float(seconds))
        slowest = sorted(zip(times, rows, strict=True), key=lambda pair: -pair[0])[:count]
        return {
            "kernels": [
                {
                    **{name: getattr(row, name) for name in ("layer", "ops", "algorithm", "problem", "fallback")},
                    "ms": 1e3 * float(seconds),
                    "percent": 100 * float(seconds) / total,
                }
                for seconds, row in slowest
            ],
            "algorithms": {
                name: (n, 1e3 * s, 100 * s / total)
                for name, (n, s) in sorted(algorithms.items(), key=lambda item: -item[1][1])
            },
        }


if __name__ == "__main__":
    main(Worker().answer)
