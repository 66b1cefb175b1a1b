"""Where convolution by Fourier transforms begins to win: filters of 3x3 to 63x63, dense and depthwise.

    python -m benchmarks.fft                                # against our other algorithms
    python -m benchmarks.fft --against torch --kernels 7,31 # and oneDNN, called through PyTorch
    python -m benchmarks.fft --only depthwise --batch 4

Kernels have bias and ReLU, are compared with the definition (small ones), and timed in rounds that alternate; the best
round of each counts, one thread's processor time. Prints milliseconds, and what the cost model chooses.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from benchmarks.kernels import TARGETS, Entrant, in_turn, least
from benchmarks.onednn import Peer
from cnncc.kernels.trial import build
from cnncc.passes.alternatives import DEFAULT_BOUND
from cnncc.targets.machine import native
from cnncc.targets.problem import ConvProblem
from cnncc.targets.table import algorithms
from cnncc.targets.target import Target

KERNELS = (3, 5, 7, 9, 11, 13, 15, 21, 31, 47, 63)
DENSE = ((56, 64, 64), (112, 32, 32), (28, 128, 128), (14, 256, 256))  # size, input and output channels
DEPTHWISE = ((56, 128), (28, 256), (14, 512))  # size, channels
CHECKED = 2e8  # multiplications up to which results are compared with the definition
SLOW = 5e10  # multiplications a second that are expected of oneDNN at least
MANY = 1.3e10  # multiplications above which an algorithm that does them all is left out


def problems(kernels: tuple[int, ...], batch: int, only: str) -> list[ConvProblem]:
    """The layers, "same" padding throughout."""
    made = []
    for k in kernels:
        tail = f"k{k}x{k} s1x1 p{k // 2}x{k // 2}"
        if only != "depthwise":
            made += [f"conv n{batch} ic{i} h{s} w{s} oc{o} {tail}" for s, i, o in DENSE]
        if only != "dense":
            made += [f"conv n{batch} ic{c} h{s} w{s} oc{c} {tail} g{c}" for s, c in DEPTHWISE]
    return sorted(map(ConvProblem.parse, made), key=lambda p: (p.groups > 1, -p.size[0], p.kernel))


def main(arguments: list[str] | None = None) -> int:
    """Prints a table; exit code 1 where a result is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", default=",".join(map(str, KERNELS)))
    parser.add_argument("--only", choices=["dense", "depthwise"], default="")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--against", choices=["torch"], help="oneDNN through PyTorch, on the same problems")
    parser.add_argument("--target", default="native", choices=["native", *sorted(TARGETS)])
    parser.add_argument("--seconds", type=float, default=0.1, help="measuring time per kernel")
    options = parser.parse_args(arguments)
    os.environ["TVM_NUM_THREADS"] = "1"
    target = replace(TARGETS.get(options.target) or native(), threads=1)
    kernels = tuple(int(k) for k in options.kernels.split(","))
    print("| layer | filter | others, ms | Fourier, ms | gain | oneDNN, ms | gain | chosen |")
    print("|---|---|---|---|---|---|---|---|")
    with ExitStack() as stack:
        peer = stack.enter_context(Peer(1)) if options.against else None
        wrong = sum(show(p, target, options.seconds, peer) for p in problems(kernels, options.batch, options.only))
    return 1 if wrong else 0


def show(problem: ConvProblem, target: Target, seconds: float, peer: Peer | None) -> int:
    """Times a layer and prints its row; the number of wrong results."""
    entrants, wrong = [], 0
    allowed = [
        a
        for a in algorithms(target, "conv")
        if a.applies(problem, target) is None and a.error_bound(problem, target) <= DEFAULT_BOUND
    ]
    chosen = min(allowed, key=lambda a: a.cost(problem, target, a.tiles_for(problem, target)).seconds)
    for algorithm in allowed:
        if problem.macs > MANY and not algorithm.name.startswith("fft"):
            continue
        trial = build(algorithm, problem, target)
        wrong += problem.macs < CHECKED and not trial.error() < 1e-4
        tensors = trial.operands()[1]
        run = partial(trial.function, *tensors)
        entrants.append(Entrant(algorithm.name, partial(least, run, 1), algorithm=algorithm))
    theirs = []
    if peer is not None and problem.macs <= MANY:
        several = 6 * problem.macs / SLOW  # its time includes a first call
        theirs = [Entrant(f, lambda s, f=f: peer.round(f, s + several)) for f in peer.open(problem)]
    in_turn([*entrants, *theirs], 1, seconds)
    ours = min((e.best for e in entrants if e.name.startswith("fft")), default=float("nan"))
    others = min(entrants, key=lambda e: float("inf") if e.name.startswith("fft") else e.best)
    other = float("nan") if others.name.startswith("fft") else others.best
    onednn = min((e.best for e in theirs), default=float("nan"))
    layer = "x".join(map(str, (*problem.size, problem.ic))) + (
        " depthwise" if problem.groups > 1 else f"->{problem.oc}"
    )
    print(
        f"| {layer} | {problem.kernel[0]}x{problem.kernel[1]} | {_ms(other)} {others.name if other == other else ''} "
        f"| {_ms(ours)} | {other / ours:.2f} | {_ms(onednn)} | {onednn / ours:.2f} | {chosen.name} |".replace(
            "nan", "-"
        ),
        flush=True,
    )
    return wrong


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"


if __name__ == "__main__":
    sys.exit(main())
