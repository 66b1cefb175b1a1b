"""Tuning a whole model: its kernels, then the network with and without what was found, in turn."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.assemble import required_features
from cnncc.driver import as_graph, compile_graph
from cnncc.errors import UnsupportedError
from cnncc.ir.graph import Graph
from cnncc.passes.manager import Accuracy
from cnncc.runtime.arena import aligned
from cnncc.runtime.machine import check_features
from cnncc.runtime.specialize import open_symbols
from cnncc.targets.machine import find_target
from cnncc.targets.problem import HINT
from cnncc.targets.target import Target
from cnncc.tune.database import Database, default_path, find_setting
from cnncc.tune.decide import Interval, gain
from cnncc.tune.lookup import Tuning
from cnncc.tune.measure import Measurer, Subprocess
from cnncc.tune.records import Verdict
from cnncc.tune.search import Search, Watch
from cnncc.tune.space import Task, find_tasks

if TYPE_CHECKING:
    from cnncc.runtime.executable import Executable

ROUNDS = 21
SAMPLE = 0.02  # seconds of runs in a round


@dataclass(frozen=True)
class NetworkGain:
    """Seconds of an inference with the defaults and tuned, and how many times faster the tuned one is."""

    default: float
    tuned: float
    gain: Interval


@dataclass(frozen=True)
class TuneResult:
    """What tuning a model found. `verdicts`: by task, None where the budget did not reach it, or where `failures` says
    why its default could not be measured; `network`: None where nothing changed."""

    database: Path
    tasks: tuple[Task, ...]
    verdicts: tuple[Verdict | None, ...]
    failures: Mapping[tuple[str, str], str]
    network: NetworkGain | None


def tune(
    model: Any,
    target: str | Target = "native",
    threads: int | None = None,
    shapes: Any = None,
    accuracy: Accuracy = "default",
    budget: float = 120.0,
    database: str | os.PathLike[str] | None = None,
    watch: Watch | None = None,
    measurer: Callable[[Target], Measurer] = Subprocess,
    measure_network: bool = True,
) -> TuneResult:
    """Measure tiles and algorithms for a model's kernels, for `budget` seconds at most, and keep what is faster.

    Arguments as for `cnncc.compile`. Where tuning was stopped, or its budget was too small, it goes on when it is
    called again. `measurer` makes what measures kernels.

    Raises UnsupportedError where kernels for the target do not run on this machine, or the model has symbolic sizes
    besides the batch; ModelFileError where the database cannot be read or written.
    """
    graph = as_graph(model, shapes)
    if open_symbols(graph):
        raise UnsupportedError(
            f"tuning needs sizes, got symbols {', '.join(sorted(open_symbols(graph)))}: fix them (shapes=...)"
        )
    machine = find_target(target, threads)
    _check_target(machine)
    path = Path(database) if database is not None else default_path()
    if path is None:
        raise UnsupportedError("tuning needs a place for its database: name one (--database, CNNCC_TUNING)")
    setting, store = find_setting(machine, accuracy), Database(path)
    tasks = find_tasks(graph, machine, accuracy)
    measure = measurer(machine)
    try:
        search = Search(tasks, setting, store, measure, watch)
        search.run(budget)
    finally:
        measure.close()
    verdicts = tuple(search.verdicts.get(task.name) for task in tasks)
    network = None
    if measure_network and any(v is not None and any(m.kept for m in v.choices) for v in verdicts):
        network = compare_network(graph, machine, accuracy, Tuning(store.read(setting, trials=False)))
    return TuneResult(path, tuple(tasks), verdicts, search.failures, network)


def compare_network(graph: Graph, target: Target, accuracy: Accuracy, tuning: Tuning) -> NetworkGain:
    """Compile a graph without and with records, and run both in turn."""
    default = compile_graph(graph, target, accuracy)
    tuned = compile_graph(graph, target, accuracy, tuning=tuning)
    rng = np.random.default_rng(0)
    feeds = []
    for v in graph.inputs:
        shape = [d if isinstance(d, int) else HINT for d in v.type.shape]
        data = rng.standard_normal(shape) if v.type.numpy.kind == "f" else rng.integers(0, 2, shape)
        feeds.append(aligned(data.astype(v.type.numpy)))
    counts = [_calibrate(exe, feeds, target) for exe in (default, tuned)]
    pairs = []
    for k in range(ROUNDS):
        pair = [0.0, 0.0]
        for i in (0, 1) if k % 2 else (1, 0):
            time.sleep(0.005)  # the other's threads go to sleep
            pair[i] = _sample((default, tuned)[i], feeds, counts[i], target)
        pairs.append((pair[0], pair[1]))
    return NetworkGain(median(p[0] for p in pairs), median(p[1] for p in pairs), gain(pairs))


def _calibrate(exe: Executable, feeds: list[np.ndarray], target: Target) -> int:
    exe(*feeds)
    return max(1, int(SAMPLE / _sample(exe, feeds, 1, target)))


def _sample(exe: Executable, feeds: list[np.ndarray], count: int, target: Target) -> float:
    now = time.thread_time if target.threads == 1 else time.perf_counter
    exe(*feeds)  # wakes threads
    start = now()
    for _ in range(count):
        exe(*feeds)
    return max((now() - start) / count, 1e-9)


def _check_target(target: Target) -> None:
    if target.kind != "cpu":
        raise UnsupportedError(f"tuning measures on CPUs, got a target of kind {target.kind}")
    if target.triple and target.triple.split("-")[0] != platform.machine():
        raise UnsupportedError(f"tuning runs kernels: this machine is {platform.machine()}, the target {target.triple}")
    check_features(f"tuning for {target.name}", required_features(target))
