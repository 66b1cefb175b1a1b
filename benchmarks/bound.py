"""How near a network comes to the sum of its kernels: `python -m benchmarks.bound` at the top of a checkout.

    python -m benchmarks.bound --nets resnet18,mobilenetv2 --threads 1,2 --batch 1,8

A network's modelled bound is the sum over its layers of the best kernel measured alone: every algorithm that applies to
the layer with its own tile, in a process that runs nothing else, on operands that a first and second-level cache do not
hold, weights included. Kernels without a choice of algorithm (elementwise chains, pooling, layout changes) count with
their least time inside of a run. Times are the lower quartile of samples: of processor time on one thread, of the wall
clock on several. A network can pass 100 percent: its values are still in a cache where one kernel hands them to the
next.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from cnncc.driver import as_graph, compile_graph
from cnncc.profile import profile
from cnncc.runtime.arena import aligned
from cnncc.runtime.executable import Executable
from cnncc.targets.machine import find_target
from cnncc.targets.table import find_algorithm
from cnncc.targets.target import Target
from cnncc.tune.measure import Failure, Subprocess
from cnncc.tune.space import Task, find_tasks
from tests.zoo import with_example

NETS = "resnet18,resnet50,mobilenetv2,squeezenet,efficientnet_b0,densenet121,inception_v3,shufflenetv2"
SECONDS = 0.5  # of runs of a whole network


def best_alone(tasks: list[Task], target: Target) -> tuple[float, float, list[str]]:
    """Seconds of all kernels with an algorithm: the best of each, the one that compilations take; where they differ."""
    measure = Subprocess(target)
    best = default = 0.0
    better = []
    try:
        for task in tasks:
            own = measure.time(task, task.default, float("inf"))
            if isinstance(own, Failure):
                raise RuntimeError(f"{task.layer}: {own.reason}")
            least, name = own, task.default.algorithm
            for way in task.ways[1:]:
                other = measure.time(task, way.default, 2 * least)
                if not isinstance(other, Failure) and other < least:
                    least, name = other, way.default.algorithm
            best, default = best + task.count * least, default + task.count * own
            if own > 1.05 * least:
                better.append(f"{task.layer}: {task.default.algorithm} {own * 1e6:.0f} us, {name} {least * 1e6:.0f}")
    finally:
        measure.close()
    return best, default, better


def without_choice(executable: Executable, feeds: dict[str, np.ndarray], target: Target) -> float:
    """Seconds of the kernels that no algorithm is chosen for, inside of runs."""
    rows = profile(executable, feeds).rows
    return sum(row.seconds for row in rows if find_algorithm(target, row.algorithm) is None)


def of_network(executable: Executable, feeds: dict[str, np.ndarray], target: Target) -> float:
    """Seconds of a run."""
    now = time.thread_time if target.threads == 1 else time.perf_counter
    executable.run(feeds)
    samples, end = [], time.perf_counter() + SECONDS
    while len(samples) < 5 or time.perf_counter() < end:
        start = now()
        executable.run(feeds)
        samples.append(now() - start)
    return float(np.quantile(samples, 0.25))


def main(arguments: list[str] | None = None) -> None:
    """Prints one line a network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=NETS)
    parser.add_argument("--threads", default="1")
    parser.add_argument("--batch", default="1")
    options = parser.parse_args(arguments)
    shown = Table("network", "threads", "ms", "bound ms", "of the bound", "same kernels alone", "the rest", box=None)
    for threads in map(int, options.threads.split(",")):
        target = find_target("native", threads)
        for batch in map(int, options.batch.split(",")):
            for name in options.nets.split(","):
                module, example = with_example(name, batch)
                graph = as_graph(module, example)
                executable = compile_graph(graph, target)
                feeds = {executable.inputs[0].name: aligned(np.asarray(example))}
                rest = without_choice(executable, feeds, target)
                seconds = of_network(executable, feeds, target)
                best, default, better = best_alone(find_tasks(graph, target, "default"), target)
                seconds = min(seconds, of_network(executable, feeds, target))
                cells = (seconds, best + rest, default, rest)
                took, bound, alone, others = (f"{1e3 * cell:.2f}" for cell in cells)
                share = f"{100 * (best + rest) / seconds:.0f} %"
                shown.add_row(f"{name} x{batch}", str(threads), took, bound, share, alone, others)
                print(f"{name} x{batch}: {share}", *better, sep="\n  ", file=sys.stderr)
    Console().print(shown)


if __name__ == "__main__":
    main()
