"""run_bench: every system in its own process, in alternating rounds, next to the machine's peak."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from cnncc.bench.client import Client
from cnncc.bench.machine import describe_machine
from cnncc.bench.model import Prepared, prepare
from cnncc.bench.systems import SYSTEMS
from cnncc.errors import GraphError


@dataclass(frozen=True)
class SystemResult:
    """One system. Times in seconds over all runs of all rounds; without runs, `status` and `reason` say why."""

    name: str
    status: str  # "ok", "missing" (not installed, or the model's form does not suit it) or "failed"
    reason: str = ""
    version: str = ""
    open_seconds: float | None = None
    median: float | None = None
    p90: float | None = None
    minimum: float | None = None
    runs: int = 0
    peak_percent: float | None = None  # FLOP by the definition / median time / measured peak; Winograd can pass 100
    ratio: float | None = None  # this median / the base's median, round by round: the middle, the least, the most
    ratio_least: float | None = None
    ratio_most: float | None = None
    difference: float | None = None  # largest |output - the base's output|, relative to the largest |output|
    round_medians: tuple[float, ...] = ()


@dataclass(frozen=True)
class BenchResult:
    """What run_bench found."""

    model: str
    shapes: dict[str, tuple[int, ...]]
    threads: int
    base: str  # the system that ratios and differences refer to
    macs: int | None
    peak_flops: float | None  # FLOP/s, median over the rounds
    peak_reason: str
    machine: dict[str, Any]
    systems: tuple[SystemResult, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> SystemResult:
        return next(system for system in self.systems if system.name == name)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def run_bench(
    model: Any,
    against: Sequence[str] = ("torch", "onnxruntime", "openvino"),
    threads: int | None = None,
    rounds: int = 5,
    seconds: float = 0.7,
    least: int = 3,
    pause: float = 0.2,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    batch: int = 1,
    seed: int = 0,
    include_cnncc: bool = True,
    with_peak: bool = True,
    label: str | None = None,
    clock: Literal["wall", "cpu"] = "wall",
    progress: Callable[[str], None] = lambda text: None,
) -> BenchResult:
    """Times a model in cnncc and in other systems (names of SYSTEMS).

    model: path of an ONNX file, onnx.ModelProto, or "module:function" of a torch module (see torch_reference.load).
    threads: for every system alike (None: the processors this process may use). Each system runs in its own process;
    a round lets each in turn run for `seconds` (at least `least` runs), after a pause in which the thread pools of
    the one before go to sleep; the order moves on by one each round. The FMA peak is measured in every round, where
    it is wanted. label: the model's name in the result (None: as given). clock: "cpu" counts
    the processor time of each process, which with one thread is still right on a busy machine.
    Raises GraphError for unknown systems and shapes, ModelFileError, UnsupportedError.
    """
    names = list(dict.fromkeys([*(["cnncc"] if include_cnncc else []), *against]))
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown:
        raise GraphError(f"{', '.join(unknown)}: no such system to time; there are {', '.join(SYSTEMS)}")
    threads = threads or len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="cnncc-bench-"))
        progress("preparing the model")
        prepared = prepare(model, shapes, scratch, batch, seed)
        entrants = []
        for name in names:
            progress(f"{name}: opening")
            entrants.append(_Entrant(name, stack.enter_context(Client(threads)), prepared, threads, scratch))
        peak = _Peak(stack.enter_context(Client(threads)), threads, with_peak)
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            peak.measure()
            running = [entrant for entrant in entrants if not entrant.failure]
            for step in range(len(running)):
                time.sleep(pause)
                running[(number + step) % len(running)].round(seconds, least, clock)
        settings = {
            "clock": clock,
            "rounds": rounds,
            "seconds": seconds,
            "least": least,
            "pause": pause,
            "batch": batch,
            "seed": seed,
        }
        if label is not None:
            prepared = replace(prepared, label=label)
        return _result(prepared, entrants, peak, threads, settings)


class _Entrant:
    """A system during a run: its process and what it has shown so far."""

    def __init__(self, name: str, client: Client, prepared: Prepared, threads: int, scratch: str) -> None:
        self.name, self.client = name, client
        self.failure: dict[str, Any] | None = None
        self.rounds: list[list[float]] = []
        self.outputs: list[np.ndarray] = []
        path = os.path.join(scratch, f"{name}.npz")
        self.opened = self._ask(
            *("open", 900),
            system=name,
            onnx=prepared.onnx,
            feeds=prepared.feeds,
            threads=threads,
            scratch=scratch,
            torch=prepared.torch,
        )
        self._ask("outputs", 120, path=path)
        if not self.failure:
            with np.load(path) as arrays:
                self.outputs = [arrays[key] for key in arrays.files]

    def _ask(self, do: str, limit: float, **request: Any) -> dict[str, Any]:
        if self.failure:
            return {}
        reply = self.client.ask(do, limit, **request)
        if not reply["ok"]:
            self.failure = reply
            self.client.close()
        return reply

    def round(self, seconds: float, least: int, clock: str) -> None:
        """One round, two runs of warm-up before it."""
        reply = self._ask("round", 120 + 10 * seconds, seconds=seconds, least=least, warmup=2, clock=clock)
        if not self.failure:
            self.rounds.append(reply["times"])


class _Peak:
    """The machine's FMA peak, measured in a process like a system; `reason` says why there is none."""

    def __init__(self, client: Client, threads: int, wanted: bool) -> None:
        self.client, self.threads = client, threads
        self.seen: list[float] = []
        self.reason = "" if wanted else "not measured"

    def measure(self) -> None:
        if not self.reason:
            reply = self.client.ask("peak", 60, threads=self.threads)
            self.reason = "" if reply["ok"] else reply["reason"]
            if reply["ok"]:
                self.seen.append(reply["flops"])


def _difference(outputs: Sequence[np.ndarray], base: Sequence[np.ndarray]) -> float | None:
    """The largest difference relative to the base's largest magnitude; None where the outputs do not correspond."""
    if len(outputs) != len(base) or any(a.size != b.size for a, b in zip(outputs, base, strict=True)):
        return None
    worst = 0.0
    for a, b in zip(outputs, base, strict=True):
        wide = b.astype(np.float64).ravel()
        largest = float(np.abs(wide).max(initial=0.0)) or 1.0
        worst = max(worst, float(np.abs(a.astype(np.float64).ravel() - wide).max(initial=0.0)) / largest)
    return worst


def _result(
    prepared: Prepared, entrants: list[_Entrant], peak: _Peak, threads: int, settings: dict[str, Any]
) -> BenchResult:
    alive = [entrant for entrant in entrants if not entrant.failure and entrant.rounds]
    base = alive[0] if alive else None
    flops = statistics.median(peak.seen) if peak.seen else None
    systems = []
    for entrant in entrants:
        if entrant.failure or base is None:
            failure = entrant.failure or {"missing": False, "reason": "no round was run"}
            systems.append(SystemResult(entrant.name, "missing" if failure["missing"] else "failed", failure["reason"]))
            continue
        medians = tuple(statistics.median(times) for times in entrant.rounds)
        everything = np.sort(np.concatenate(entrant.rounds))
        median = float(np.median(everything))
        ratios = [own / statistics.median(other) for own, other in zip(medians, base.rounds, strict=True)]
        systems.append(
            SystemResult(
                entrant.name,
                "ok",
                version=entrant.opened["version"],
                open_seconds=entrant.opened["seconds"],
                median=median,
                p90=float(np.quantile(everything, 0.9)),
                minimum=float(everything[0]),
                runs=len(everything),
                peak_percent=100 * 2 * prepared.macs / median / flops if flops and prepared.macs else None,
                ratio=statistics.median(ratios),
                ratio_least=min(ratios),
                ratio_most=max(ratios),
                difference=_difference(entrant.outputs, base.outputs),
                round_medians=medians,
            )
        )
    return BenchResult(
        prepared.label,
        prepared.shapes,
        threads,
        base.name if base else "",
        prepared.macs,
        flops,
        peak.reason,
        describe_machine(),
        tuple(systems),
        settings,
    )
