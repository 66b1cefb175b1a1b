"""run_bench: every system in its own process, in alternating rounds, next to the machine's peak."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from cnncc.bench.client import Client
from cnncc.bench.machine import describe_machine
from cnncc.bench.model import Prepared, prepare
from cnncc.bench.results import BenchResult, Round, SystemResult, difference, summarise
from cnncc.bench.systems import SYSTEMS, WITHOUT, find_system
from cnncc.errors import GraphError
from cnncc.runtime.threads import default_threads


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
    instances: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> BenchResult:
    """Times a model in cnncc and in other systems (names of SYSTEMS, and cnncc-without-KIND of fusion).

    model: path of an ONNX file, onnx.ModelProto, or "module:function" of a torch module (see torch_reference.load).
    threads: for every system alike (None: the processors this process may use). Each system runs in its own process;
    a round lets each in turn run for `seconds` (at least `least` runs), after a pause in which the thread pools of
    the one before go to sleep; the order moves on by one each round. The FMA peak is measured in every round, where
    it is wanted. label: the model's name in the result (None: as given). clock: "cpu" counts
    the processor time of each process, which with one thread is still right on a busy machine.
    instances: more than one measures throughput: so many runs at once, of `threads` threads each, that share one copy
    of the weights where the system can; OpenVINO divides the same total by its own THROUGHPUT hint.
    Raises GraphError for unknown systems and shapes, ModelFileError, UnsupportedError.
    """
    names = list(dict.fromkeys([*(["cnncc"] if include_cnncc else []), *against]))
    unknown = [name for name in names if find_system(name) is None]
    if unknown:
        raise GraphError(f"{', '.join(unknown)}: no such system to time; there are {', '.join(SYSTEMS)}, {WITHOUT}KIND")
    threads = threads or max(1, default_threads() // instances)
    if instances > 1 and clock == "cpu":
        raise GraphError("clock: throughput is a matter of wall time, got cpu with several instances")
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="cnncc-bench-"))
        progress("preparing the model")
        prepared = prepare(model, shapes, scratch, batch, seed)
        entrants = []
        for name in names:
            progress(f"{name}: opening")
            client = stack.enter_context(Client(threads))
            entrants.append(_Entrant(name, client, prepared, threads, instances, scratch))
        peak = _Peak(stack.enter_context(Client(threads * instances)), threads * instances, with_peak)
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            peak.measure()
            running = [entrant for entrant in entrants if not entrant.failure]
            for step in range(len(running)):
                time.sleep(pause)
                running[(number + step) % len(running)].round(seconds, least, clock)
        for entrant in entrants:
            entrant.weigh()
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
        return _result(prepared, entrants, peak, threads, instances, settings)


class _Entrant:
    """A system during a run: its process and what it has shown so far."""

    def __init__(
        self, name: str, client: Client, prepared: Prepared, threads: int, instances: int, scratch: str
    ) -> None:
        self.name, self.client, self.instances = name, client, instances
        self.failure: dict[str, Any] | None = None
        self.rounds: list[Round] = []
        self.memory: dict[str, Any] = {}
        self.outputs: list[np.ndarray] = []
        path = os.path.join(scratch, f"{name}.npz")
        self.opened = self._ask(
            *("open", 900),
            system=name,
            onnx=prepared.onnx,
            feeds=prepared.feeds,
            threads=threads,
            instances=instances,
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
        limit = 120 + 10 * seconds
        if self.instances > 1:
            reply = self._ask("stream", limit, seconds=seconds, least=least, warmup=2)
        else:
            reply = self._ask("round", limit, seconds=seconds, least=least, warmup=2, clock=clock)
        if not self.failure:
            self.rounds.append(Round(reply["times"], reply["elapsed"], reply["done"], reply["at_once"]))

    def weigh(self) -> None:
        """Asks for the memory that the process has used."""
        self.memory = self._ask("memory", 60)


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


def _result(
    prepared: Prepared, entrants: list[_Entrant], peak: _Peak, threads: int, instances: int, settings: dict[str, Any]
) -> BenchResult:
    alive = [entrant for entrant in entrants if not entrant.failure and entrant.rounds]
    base = alive[0] if alive else None
    flops = statistics.median(peak.seen) if peak.seen else None
    work = 2 * prepared.macs / flops if flops and prepared.macs else None
    batch = next(iter(prepared.shapes.values()), (1,))[:1]
    systems = []
    for entrant in entrants:
        if entrant.failure or base is None:
            failure = entrant.failure or {"missing": False, "reason": "no round was run"}
            systems.append(SystemResult(entrant.name, "missing" if failure["missing"] else "failed", failure["reason"]))
            continue
        found = summarise(entrant.name, entrant.opened, entrant.rounds, base.rounds, work, *(batch or (1,)))
        apart = difference(entrant.outputs, base.outputs)
        memory = entrant.memory
        systems.append(replace(found, difference=apart, peak_bytes=memory.get("peak"), held_bytes=memory.get("held")))
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
        instances,
    )
