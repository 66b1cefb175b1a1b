"""How far results are from float64: `python -m benchmarks.accuracy` at the top of a checkout.

    python -m benchmarks.accuracy                          every algorithm, random and adversarial operands
    python -m benchmarks.accuracy --networks all           top-1 agreement of the networks of tests/zoo (needs torch)
    python -m benchmarks.accuracy --networks resnet18,unet --images 64 --accuracy strict

Prints Markdown, as it stands in docs/performance.md. Errors of algorithms are relative to the largest result or, where
results cancel, to what they would be with random signs: max(max|y|, max sqrt(conv(x^2, w^2))).
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from cnncc.kernels.trial import Trial, build
from cnncc.ops.winograd_matrices import axes, side
from cnncc.ops.winograd_matrices import worst_signs as matrix_signs
from cnncc.targets.algorithm import Algorithm
from cnncc.targets.problem import ConvProblem, MatmulProblem
from cnncc.targets.table import algorithms
from cnncc.targets.target import Target

CONVOLUTIONS = [
    "conv n1 ic512 h14 w14 oc64 k3x3 s1x1 p1x1",
    "conv n1 ic64 h28 w28 oc64 k3x3 s1x1 p1x1",
    "conv n1 ic256 h28 w28 oc64 k3x3 s2x2 p1x1",
    "conv n1 ic2048 h7 w7 oc64 k1x1 s1x1 p0x0",
    "conv n1 ic3 h64 w64 oc64 k7x7 s2x2 p3x3",
    "conv n1 ic144 h28 w28 oc144 k3x3 s1x1 p1x1 g144",
    "conv n1 ic96 h14 w14 oc96 k5x5 s1x1 p2x2 g96",
    "conv n1 ic512 h14 w14 oc16 k5x5 s1x1 p2x2",
    "conv n1 ic32 h28 w28 oc16 k11x11 s1x1 p5x5",
    "conv n1 ic16 h40 w40 oc16 k13x13 s1x1 p6x6 g16",
    "conv n1 ic16 h28 w28 oc16 k31x31 s1x1 p15x15 g16",
    "conv n1 ic128 h14 w14 oc128 k3x3 s1x1 p1x1 g32",
    "conv n1 ic48 h14 w14 oc48 k3x3 s1x1 p1x1 g2",
    "conv n1 ic2048 h7 w7 oc64 k3x3 s1x1 p1x1",
    "conv n1 ic48 h14 w14 oc64 k5x5 s1x1 p2x2",
    "conv n1 ic192 h17 w17 oc64 k1x7 s1x1 p0x3",
    "conv n1 ic256 w30 oc64 k3 s1 p1",
    "conv n1 ic256 w30 oc64 k5 s1 p2",
]
PRODUCTS = ["matmul m1 k4096 n256 nk", "matmul m16 k2048 n256 nk"]
SEEDS = {"aligned": 24}  # draws of each kind of operands; of the others, two

Arrays = tuple[np.ndarray, np.ndarray]


def normal(x: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> Arrays:
    """N(0, 1)."""
    return x, w


def one_sided(x: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> Arrays:
    """All products positive: partial sums grow to the end."""
    return np.abs(x), np.abs(w)


def wide_range(x: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> Arrays:
    """Elements of which each has a magnitude of its own, from 1e-4 to 1e4."""
    return x * np.float32(10) ** rng.uniform(-4, 4, x.shape).astype(np.float32), w


def neighbours(x: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> Arrays:
    """Neighbouring elements that differ by a million."""
    return x * np.where(np.indices(x.shape).sum(axis=0) % 3, np.float32(1e-3), np.float32(1e3)), w


def cancelling(x: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> Arrays:
    """A large constant under the input, and weights that sum to zero: what remains is a thousandth of the terms."""
    return x + np.float32(1000), w - w.mean(axis=tuple(range(1, w.ndim)), keepdims=True)


def aligned(x: np.ndarray, w: np.ndarray, rng: np.random.Generator) -> Arrays:
    """Nearly equal magnitudes, with signs in a pattern that all channels share and that repeats every 2, 4 or 6 pixels,
    as Winograd's tiles do: all channels' terms of a transform add up, and cancel in the result."""
    period = int(rng.choice([2, 4, 6]))
    shape = x.shape[-2:] if x.ndim != 3 else (1, x.shape[-1])
    signs = rng.choice([-1, 1], (period, period))
    pattern = np.tile(signs, [-(-extent // period) for extent in shape])[: shape[0], : shape[1]]
    taps = rng.choice([-1, 1], w.shape[2:]) if w.ndim > 2 else np.float32(1)
    return near(x, pattern), near(w, taps)


def near(magnitudes: np.ndarray, signs: Any) -> np.ndarray:
    """Numbers of given signs, with magnitudes from 1 to about 2."""
    return np.float32(signs) * (1 + np.abs(magnitudes) / 3)


INPUTS: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], Arrays]] = {
    "normal": normal,
    "one-sided": one_sided,
    "wide range": wide_range,
    "neighbours": neighbours,
    "cancelling": cancelling,
    "aligned": aligned,
}


def draws(kind: str, x: tuple[int, ...], w: tuple[int, ...]) -> Iterator[Arrays]:
    """Operands of one kind and of these shapes, from several seeds."""
    for seed in range(SEEDS.get(kind, 2)):
        rng = np.random.default_rng(seed)
        yield INPUTS[kind](*(rng.standard_normal(s, dtype=np.float32) for s in (x, w)), rng)


def exact(problem: Any, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The operation in float64."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    if isinstance(problem, MatmulProblem):
        return x @ (w.T if problem.transposed else w)
    from cnncc.ops.conv import ConvAttrs, conv

    (y,) = conv.run(ConvAttrs(problem.strides, problem.pads, problem.dilations, problem.groups), [x, w])
    return np.asarray(y)


def relative(problem: Any, found: np.ndarray, x: np.ndarray, w: np.ndarray) -> float:
    """The largest error, relative as the module says."""
    expected = exact(problem, x, w)
    x, w = x.astype(np.float64), w.astype(np.float64)
    scale = max(np.abs(expected).max(), np.sqrt(exact(problem, x * x, w * w).max()))
    return float(np.abs(found - expected).max() / scale)


def errors(trial: Trial) -> dict[str, float]:
    """The largest error of a kernel for each kind of operands."""
    (x, w, bias), _ = trial.operands()

    def error(given: Arrays) -> float:
        tensors = trial.packed(*given, bias)
        trial.function(*tensors)
        return relative(trial.problem, trial.result(tensors[-1]), *given)

    return {kind: max(map(error, draws(kind, x.shape, w.shape))) for kind in INPUTS}


def worst_signs(algorithm: Algorithm, problem: Any, target: Target) -> float | None:
    """The largest error where signs are in the pattern that Winograd's transforms lose most with, in all channels, and
    magnitudes nearly equal: one tile alone. None for other algorithms."""
    if algorithm.anchor_op != "winograd_conv":
        return None
    m = algorithm.tiles_for(problem, target).m
    last = axes(problem.rank)
    patterns = [matrix_signs(side(m, taps), taps)[1:] for taps in problem.kernel[-last:]]
    size = tuple(len(x) for x, _ in patterns)
    single = replace(problem, n=4, size=(*problem.size[:-last], *size), pads=(0,) * 2 * problem.rank)
    trial = build(algorithm, single, target, bare=True)
    x_signs, w_signs = (functools.reduce(np.multiply.outer, signs) for signs in zip(*patterns, strict=True))
    worst = 0.0
    for seed in range(SEEDS.get("worst signs", 4)):
        (x, w, bias), _ = trial.operands(seed=seed)
        given = near(x, x_signs), near(w, w_signs)
        tensors = trial.packed(*given, bias)
        trial.function(*tensors)
        worst = max(worst, relative(single, trial.result(tensors[-1]), *given))
    return worst


def algorithm_errors(algorithm: Algorithm, target: Target) -> Iterator[tuple[str, float, dict[str, float]]]:
    """For each kind of problem that an algorithm serves: its name, the largest stated bound and the largest errors."""
    problems: list[Any] = [ConvProblem.parse(t) for t in CONVOLUTIONS]
    if algorithm.op == "matmul":
        problems = [MatmulProblem.parse(t) for t in PRODUCTS]
    found: dict[str, tuple[float, dict[str, float]]] = {}
    for problem in problems:
        if algorithm.applies(problem, target) is None:
            label = algorithm.name
            if algorithm.anchor_op == "winograd_conv":
                label += f" {'x'.join(map(str, problem.kernel))}"
            bound, worst = found.get(label, (0.0, {}))
            made = errors(build(algorithm, problem, target, bare=True))
            signs = worst_signs(algorithm, problem, target)
            made |= {} if signs is None else {"worst signs": signs}
            largest = {name: max(worst.get(name, 0.0), error) for name, error in made.items()}
            found[label] = max(bound, algorithm.error_bound(problem, target)), largest
    for label, (bound, worst) in found.items():
        yield label, bound, worst


def by_definition(dtype: str, target: Target) -> dict[str, float]:
    """The same for the convolution that is scheduled from its definition, in a dtype that no algorithm is for."""
    import cnncc

    problem = ConvProblem.parse(CONVOLUTIONS[1])
    b = cnncc.Builder()
    x, w = (b.input(name, shape) for name, shape in (("x", (1, 64, 28, 28)), ("w", (64, 64, 3, 3))))
    x, w = (b.cast(v, dtype=dtype) if dtype != "f32" else v for v in (x, w))
    y = b.conv(x, w, strides=problem.strides, pads=problem.pads, dilations=problem.dilations)
    b.output(b.cast(y, dtype="f64"))
    executable = cnncc.compile(b.finish(), target)

    def error(given: Arrays) -> float:
        scaled = given[0] * np.float32(1e-3 if dtype == "f16" else 1)  # within the range
        x, w = rounded(scaled, dtype), rounded(given[1], dtype)
        return relative(problem, executable(x, w), x, w)

    return {kind: max(map(error, draws(kind, (1, 64, 28, 28), (64, 64, 3, 3)))) for kind in INPUTS}


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """The nearest values that a dtype has, as float32 (bf16: towards zero)."""
    if dtype == "f16":
        return array.astype(np.float16).astype(np.float32)
    if dtype == "bf16":
        return (np.ascontiguousarray(array).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.ascontiguousarray(array)


def show_algorithms(target: Target) -> int:
    """Prints the table; gives the number of bounds exceeded."""
    kinds = [*INPUTS, "worst signs"]
    print(f"| algorithm ({target.name}, {target.vector_bits} bits) | dtype | stated bound | {' | '.join(kinds)} |")
    print("|---|---|---|" + "---|" * len(kinds))

    def show(label: str, dtype: str, bound: float, worst: dict[str, float]) -> None:
        stated = f"{bound:.1e}" if bound else "the definition's"
        shown = [f"{worst[kind]:.0e}" if kind in worst else "-" for kind in kinds]
        print(f"| `{label}` | {dtype} | {stated} | {' | '.join(shown)} |", flush=True)

    exceeded = 0
    for algorithm in algorithms(target):
        if algorithm.op not in ("conv", "matmul"):
            continue
        for label, bound, worst in algorithm_errors(algorithm, target):
            exceeded += bound > 0 and max(worst.values()) > bound
            show(label, "f32", bound, worst)
    for dtype in ("f64", "f16", "bf16"):
        show("fallback", dtype, 0.0, by_definition(dtype, target))
    return exceeded


def show_networks(names: list[str], images: int, accuracy: Any, target: Target) -> None:
    """Prints, by network, how often the largest output is float64's, and the largest errors."""
    print(f"| network | images | top-1 as float64 | cnncc ({accuracy}) | PyTorch float32 |")
    print("|---|---|---|---|---|")
    for name in names:
        classes, total, same, ours, theirs = agreement(name, images, accuracy, target)
        predicted = f"{same} of {total}" if classes > 1 else "-"
        print(f"| {name} | {images} | {predicted} | {ours:.0e} | {theirs:.0e} |", flush=True)


def agreement(name: str, images: int, accuracy: Any, target: Target) -> tuple[int, int, int, float, float]:
    """Of a network's predictions (per image, pixel or box): among how many classes, how many, how many as in float64;
    and the largest error relative to an image's largest output, of cnncc and of PyTorch in float32."""
    import torch

    import cnncc
    from tests import zoo

    single, double = zoo.build(name), zoo.build(name).double()
    executable = cnncc.compile(zoo.export(name, dynamo=False, symbolic_batch=True), target, accuracy=accuracy)
    classes = total = same = 0
    ours = theirs = 0.0
    for seed in range(images):
        x = zoo.inputs(name, seed=seed)["input"]
        found = executable(x)
        with torch.no_grad():
            expected = double(torch.from_numpy(x.astype(np.float64))).numpy()
            other = single(torch.from_numpy(x)).numpy()
        axis = 2 if expected.ndim == 3 else 1  # boxes in rows, each with its classes
        classes = expected.shape[axis]
        total += expected.size // classes
        same += int((found.argmax(axis) == expected.argmax(axis)).sum())
        largest = np.abs(expected).max()
        ours = max(ours, float(np.abs(found - expected).max() / largest))
        theirs = max(theirs, float(np.abs(other - expected).max() / largest))
    return classes, total, same, ours, theirs


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 where an algorithm exceeds its stated bound."""
    from cnncc.targets.machine import find_target

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="", help="names from tests/zoo, comma-separated, or all")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--accuracy", default="default", choices=["strict", "default", "fast"])
    parser.add_argument("--target", default="native")
    options = parser.parse_args(arguments)
    target = find_target(options.target, 1)
    if not options.networks:
        return 1 if show_algorithms(target) else 0
    from tests import zoo

    names = list(zoo.NETS) if options.networks == "all" else options.networks.split(",")
    show_networks(names, options.images, options.accuracy, target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
