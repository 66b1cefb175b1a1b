"""Kernels alone, in percent of the FMA peak measured in between.

    python -m benchmarks.kernels "conv n1 ic64 h56 w56 oc64 k3x3 s1x1 p1x1" --algorithm direct --threads 1,2
    python -m benchmarks.kernels --network resnet50 --target avx2
    python -m benchmarks.kernels --network resnet50 --against torch       # oneDNN, called through PyTorch

Each kernel has bias and ReLU, is compared with the definition, and is timed in rounds that alternate with a loop of
nothing but fused multiply-adds and with the peer, which runs in a process of its own; the best round of each counts.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.onednn import Peer, Problem, parse
from cnncc.errors import CnnccError
from cnncc.runtime.peak import measure_peak
from cnncc.targets.algorithm import Algorithm
from cnncc.targets.machine import native
from cnncc.targets.problem import ConvProblem
from cnncc.targets.table import algorithms
from cnncc.targets.target import Target

ZEN4 = Target("avx512", "cpu", mcpu="znver4", vector_bits=512, vector_registers=32, fma=True, l2=1 << 20, l3=32 << 20,
              gflops_per_core=117.0, unit_bits=256, gbytes_per_second=20.0)  # fmt: skip
ZEN3 = replace(ZEN4, name="avx2", mcpu="znver3", vector_bits=256, vector_registers=16, l2=512 << 10)
SSE = replace(ZEN4, name="sse", mcpu="x86-64-v2", vector_bits=128, vector_registers=16, fma=False)
TARGETS = {t.name: t for t in (ZEN4, ZEN3, SSE)}


def _conv(ic: int, hw: int, oc: int, k: int, s: int = 1, p: int | None = None) -> str:
    pad = k // 2 if p is None else p
    return f"conv n1 ic{ic} h{hw} w{hw} oc{oc} k{k}x{k} s{s}x{s} p{pad}x{pad}"


NETWORKS: dict[str, list[str]] = {
    "resnet50": [
        _conv(64, 56, 64, 1), _conv(64, 56, 64, 3), _conv(64, 56, 256, 1), _conv(256, 56, 64, 1),
        _conv(256, 56, 128, 1), _conv(128, 56, 128, 3, 2), _conv(128, 28, 512, 1), _conv(256, 56, 512, 1, 2),
        _conv(512, 28, 128, 1), _conv(128, 28, 128, 3), _conv(256, 28, 256, 3, 2), _conv(256, 14, 256, 3),
        _conv(1024, 14, 256, 1), _conv(256, 14, 1024, 1), _conv(512, 28, 1024, 1, 2), _conv(512, 14, 512, 3, 2),
        _conv(512, 7, 512, 3), _conv(512, 7, 2048, 1), _conv(2048, 7, 512, 1), _conv(1024, 14, 2048, 1, 2),
    ],
    "vgg16": [
        _conv(64, 224, 64, 3), _conv(128, 112, 128, 3), _conv(256, 56, 256, 3), _conv(512, 28, 512, 3),
        _conv(512, 14, 512, 3),
    ],
    "squeezenet": [
        _conv(64, 55, 16, 1), _conv(16, 55, 64, 1), _conv(16, 55, 64, 3), _conv(128, 27, 32, 1), _conv(32, 27, 128, 3),
        _conv(48, 13, 192, 3), _conv(64, 13, 256, 3), _conv(512, 13, 1000, 1),
    ],
    "inception": [
        _conv(32, 149, 32, 3, 1, 0), _conv(32, 147, 64, 3), _conv(64, 73, 80, 1), _conv(80, 73, 192, 3, 1, 0),
        _conv(48, 35, 64, 5), _conv(64, 35, 96, 3), _conv(288, 35, 384, 3, 2, 0),
        "conv n1 ic128 h17 w17 oc128 k1x7 s1x1 p0x3", "conv n1 ic160 h17 w17 oc192 k7x1 s1x1 p3x0",
        _conv(768, 17, 192, 1), _conv(448, 8, 384, 3), "conv n1 ic384 h8 w8 oc384 k1x3 s1x1 p0x1",
        _conv(2048, 8, 320, 1),
    ],
    "densenet": [
        _conv(64, 56, 128, 1), _conv(128, 56, 32, 3), _conv(128, 28, 32, 3), _conv(256, 28, 128, 1),
        _conv(128, 14, 32, 3), _conv(640, 14, 128, 1), _conv(128, 7, 32, 3), _conv(992, 7, 128, 1),
    ],
    "mobile": [
        _conv(32, 112, 16, 1), _conv(16, 112, 96, 1), _conv(96, 56, 24, 1), _conv(24, 56, 144, 1),
        _conv(144, 28, 32, 1), _conv(192, 28, 32, 1), _conv(192, 14, 64, 1), _conv(64, 14, 384, 1),
        _conv(576, 14, 96, 1), _conv(960, 7, 160, 1), _conv(320, 7, 1280, 1), _conv(40, 28, 240, 1),
        _conv(672, 14, 112, 1), _conv(96, 1, 4, 1), _conv(1152, 1, 48, 1),
    ],
    "first": [
        _conv(3, 224, 64, 7, 2), _conv(3, 224, 32, 3, 2, 1), _conv(3, 224, 64, 3), _conv(3, 224, 64, 11, 4, 2),
        _conv(3, 299, 32, 3, 2, 0), _conv(3, 224, 64, 3, 2, 0), _conv(1, 28, 6, 5),
    ],
    "dense": [
        "matmul m1 k2048 n1000 nk", "matmul m1 k25088 n4096 nk", "matmul m1 k4096 n1000 nk", "matmul m8 k2048 n1000 nk",
        "matmul m64 k2048 n1000 nk", "matmul m64 k512 n512 kn", "matmul m256 k1024 n1024 nk", "matmul m1 k512 n512 kn",
    ],
    "grouped": [
        "conv n1 ic128 h56 w56 oc128 k3x3 s1x1 p1x1 g32", "conv n1 ic256 h28 w28 oc256 k3x3 s1x1 p1x1 g32",
        "conv n1 ic512 h14 w14 oc512 k3x3 s1x1 p1x1 g32", "conv n1 ic1024 h7 w7 oc1024 k3x3 s1x1 p1x1 g32",
        "conv n1 ic96 h27 w27 oc256 k5x5 s1x1 p2x2 g2", "conv n1 ic48 h112 w112 oc48 k3x3 s2x2 p1x1 g6",
        "conv n1 ic104 h28 w28 oc104 k3x3 s1x1 p1x1 g13", "conv n1 ic208 h14 w14 oc208 k3x3 s1x1 p1x1 g26",
        "conv n1 ic440 h7 w7 oc440 k3x3 s1x1 p1x1 g55", "conv n1 ic168 h28 w28 oc168 k3x3 s1x1 p1x1 g7",
    ],
}  # fmt: skip


@dataclass
class Entrant:
    """A kernel of ours, or a form of the peer: how it is timed for some seconds, and its best time so far."""

    name: str
    time: Callable[[float], float]
    notes: str = ""
    algorithm: Algorithm | None = None
    tile: Any = None
    best: float = float("inf")


def main(arguments: list[str] | None = None) -> int:
    """Times the problems, one line for each algorithm; exit code 1 where a result is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*")
    parser.add_argument("--network", action="append", choices=sorted(NETWORKS), default=[])
    parser.add_argument("--algorithm", default="", help="comma-separated names; default: those that apply")
    parser.add_argument("--against", choices=["torch"], help="oneDNN through PyTorch, on the same problems")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--target", default="native", choices=["native", *sorted(TARGETS)])
    parser.add_argument("--seconds", type=float, default=0.15, help="measuring time per kernel")
    options = parser.parse_args(arguments)
    counts = [int(t) for t in options.threads.split(",")]
    os.environ["TVM_NUM_THREADS"] = str(max(counts))
    texts = options.problems + [text for name in options.network for text in NETWORKS[name]]
    wrong = 0
    for threads in counts:
        target = replace(TARGETS.get(options.target) or native(), threads=threads)
        with ExitStack() as stack:
            peer = stack.enter_context(Peer(threads)) if options.against else None
            if peer is not None:
                print(peer.version())
            for text in texts:
                wrong += _show(parse(text), target, options.algorithm, options.seconds, peer)
    return 1 if wrong else 0


def _show(problem: Problem, target: Target, names: str, seconds: float, peer: Peer | None) -> int:
    """Times a problem and prints what came out; the number of wrong results."""
    ours, wrong = _built(problem, target, names)
    theirs = []
    if peer is not None:
        forms = peer.open(problem)
        theirs = [Entrant(f"torch {form}", lambda s, form=form: peer.round(form, s)) for form in forms]
    peak = in_turn([*ours, *theirs], target.threads, seconds)
    best = min((e.best for e in ours), default=None)
    for entrant in (*ours, *theirs):
        rate = 2e-9 * problem.macs / entrant.best
        notes = entrant.notes
        if entrant.algorithm is not None:
            model = entrant.algorithm.cost(problem, target, entrant.tile)
            notes = (
                f"{model.bytes / entrant.best / 1e9:5.1f} GB/s model {100 * model.seconds / entrant.best:4.0f}% {notes}"
            )
        elif best is not None:
            notes = f"{entrant.best / best:5.2f} of our best"
        share = f"{entrant.best * 1e6:9.1f} us {rate:7.1f} GF {100 * rate / peak:5.1f}%"
        print(f"{problem!s:58s} {entrant.name:12s} t{target.threads} {share} {notes}", flush=True)
    return wrong


def _built(problem: Problem, target: Target, names: str) -> tuple[list[Entrant], int]:
    """The kernels of the algorithms that apply (or are named), and how many of them are wrong."""
    from cnncc.kernels.trial import build

    made: list[Entrant] = []
    wrong = 0
    for algorithm in algorithms(target):
        if names and algorithm.name not in names.split(","):
            continue
        if algorithm.op != ("conv" if isinstance(problem, ConvProblem) else "matmul"):
            continue
        reason = algorithm.applies(problem, target)
        if reason is not None:
            if names:
                print(f"{problem}  {algorithm.name}: {reason}")
            continue
        start = time.perf_counter()
        try:
            trial = build(algorithm, problem, target)
        except CnnccError as error:
            print(f"{problem}  {algorithm.name}: {error}")
            wrong += 1
            continue
        took = time.perf_counter() - start
        _, tensors = trial.operands()
        error = trial.error()
        bad = not error < 1e-4
        wrong += bad
        notes = f"build {took:4.2f}s err {error:.0e}{' WRONG' if bad else ''} {trial.tile}"
        run = lambda s, t=trial, a=tensors: least(lambda: t.function(*a), target.threads, s)  # noqa: E731
        made.append(Entrant(algorithm.name, run, notes, algorithm, trial.tile))
    return made, wrong


def in_turn(entrants: list[Entrant], threads: int, seconds: float, rounds: int = 3) -> float:
    """Times entrants in rounds; the best FMA peak measured between them, in GFLOP/s."""
    peak = 0.0
    for _ in range(rounds):
        for entrant in entrants:
            peak = max(peak, measure_peak(threads, rounds=1))
            entrant.best = min(entrant.best, entrant.time(seconds / rounds))
    return peak


def least(run: Callable[[], Any], threads: int, seconds: float) -> float:
    """The least time of a run. Of one thread its processor time, so that other processes disturb less."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    run()
    best, end, count = float("inf"), time.perf_counter() + seconds, 0
    while time.perf_counter() < end or count < 5:
        start = clock()
        run()
        took = clock() - start
        best, count = min(best, took) if took > 0 else best, count + 1  # (a virtual clock may stand still)
    return best


if __name__ == "__main__":
    sys.exit(main())
