"""Winograd convolution: the choice of tiles, and built kernels against the definition."""

from __future__ import annotations

import functools
import re
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import accuracy
from cnncc.errors import ScheduleError
from cnncc.kernels.trial import Trial, build
from cnncc.ops.conv import ConvAttrs, conv
from cnncc.ops.winograd_matrices import (
    amplification,
    side,
    worst_signs,
)
from cnncc.passes.alternatives import DEFAULT_BOUND
from cnncc.targets.algorithm import Algorithm
from cnncc.targets.cpu.winograd import STACK, WINOGRAD_F2, WINOGRAD_F4, WINOGRAD_F4_FRESH, WINOGRAD_F6
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target
from tests.targets.cpu_records import AVX2, AVX512, SSE, WIDEST, needs_x86, runs
from tests.tolerances import tolerance

ALGORITHMS = {2: WINOGRAD_F2, 4: WINOGRAD_F4, 6: WINOGRAD_F6}

GRID = [
    "conv n1 ic16 h8 w8 oc16 k3x3 s1x1 p1x1",
    "conv n2 ic20 h13 w9 oc40 k3x3 s1x1 p1x0:2x1",  # ragged channels, asymmetric pads, odd sizes
    "conv n1 ic3 h3 w5 oc7 k3x3 s1x1 p0x0",  # one row of output
    "conv n1 ic33 h1 w17 oc16 k3x3 s1x1 p1x1",  # mostly padding
    "conv n1 ic48 h7 w30 oc80 k3x3 s1x1 p2x2",  # full convolution
    "conv n2 ic20 d5 h6 w9 oc24 k3x3x3 s1x1x1 p1x1x1",
    "conv n1 ic16 d7 h5 w5 oc16 k2x3x3 s2x1x1 p1x0x1:0x1x1 d3x1x1",  # strides and dilation in depth
    "conv n2 ic160 h7 w6 oc24 k3x3 s1x1 p1x1",  # sums in two levels
    "conv n1 ic16 d3 h5 w7 oc16 k1x1x3 s1x1x1 p0x0x1",
]
OTHER_TAPS = [
    "conv n2 ic20 w29 oc40 k3 s1 p2:0",  # one axis
    "conv n1 ic48 w17 oc16 k5 s1 p0",
    "conv n1 ic144 w31 oc33 k7 s1 p3",
    "conv n2 ic20 h5 w13 oc40 k1x3 s1x1 p0x1",  # one of two axes
    "conv n1 ic33 h13 w4 oc16 k3x1 s1x1 p0x2:1x0",
    "conv n1 ic48 h9 w9 oc32 k1x7 s1x1 p0x3",
    "conv n1 ic160 h9 w10 oc32 k7x1 s1x1 p3x0",
    "conv n1 ic20 h9 w7 oc24 k5x5 s1x1 p2x2",
    "conv n1 ic16 h8 w11 oc16 k3x5 s1x1 p1x0",
    "conv n1 ic48 d3 h2 w9 oc16 k2x1x5 s1x1x1 p1x0x2",
    "conv n2 ic20 h9 w13 oc40 k2x2 s1x1 p1x1",  # 2 taps: tiles of one more result
    "conv n1 ic144 w31 oc33 k2 s1 p1:0",
    "conv n1 ic20 d3 h6 w9 oc24 k2x2x2 s1x1x1 p1x1x1",
    "conv n1 ic33 h13 w4 oc16 k2x1 s1x1 p1x0:0x0",
]


@needs_x86
@pytest.mark.parametrize(("m", "text"), [(4, text) for text in GRID] + [(m, GRID[1]) for m in (2, 6)])
def test_kernel_equals_the_definition(m: int, text: str) -> None:
    _check(build(ALGORITHMS[m], ConvProblem.parse(text), WIDEST), m)


@needs_x86
@pytest.mark.parametrize(
    "text",
    [
        *GRID[:4],
        *GRID[5:8],
        *OTHER_TAPS[7:9],
        "conv n1 ic32 h7 w7 oc32 k2x2 s1x1 p0x0",
        "conv nN ic16 h9 w9 oc32 k3x3 s1x1 p1x1",
    ],
)
def test_weights_transformed_in_the_kernel(text: str) -> None:
    """The same bound holds; the weights come as they are, the taps of a vector side by side."""
    trial = build(WINOGRAD_F4_FRESH, ConvProblem.parse(text), WIDEST)
    shape = trial.shapes.w
    assert trial.prepare(np.zeros(shape, np.float32)).shape == shape
    for batch in (1, 3) if trial.problem.n == "N" else (None,):
        assert trial.error(batch) < WINOGRAD_F4_FRESH.error_bound(trial.problem, WIDEST)


def test_rows_of_weights_that_fit_no_registers_or_are_none() -> None:
    line = ConvProblem.parse("conv n1 ic16 h8 w8 oc16 k1x3 s1x1 p0x1")
    assert "both axes have several taps" in str(WINOGRAD_F4_FRESH.applies(line, AVX512))
    assert "16 registers" in str(WINOGRAD_F4_FRESH.applies(ConvProblem.parse(GRID[0]), AVX2))


@needs_x86
@pytest.mark.parametrize("text", OTHER_TAPS)
@pytest.mark.parametrize("m", [2, 4])
def test_kernels_of_other_taps(m: int, text: str) -> None:
    _check(build(ALGORITHMS[m], ConvProblem.parse(text), WIDEST), m)


@needs_x86
@pytest.mark.parametrize("text", [OTHER_TAPS[0], OTHER_TAPS[1], OTHER_TAPS[4]])
def test_six_outputs_of_other_taps(text: str) -> None:
    _check(build(WINOGRAD_F6, ConvProblem.parse(text), WIDEST), 6)


@pytest.mark.parametrize("target", [AVX2, SSE, replace(AVX512, threads=1)], ids=lambda t: f"{t.name}-{t.threads}")
@pytest.mark.parametrize("text", [*GRID[:2], GRID[7], OTHER_TAPS[2], OTHER_TAPS[6], OTHER_TAPS[7]])
def test_other_targets(target: Target, text: str) -> None:
    trial = build(WINOGRAD_F4, ConvProblem.parse(text), runs(target))
    _check(trial, 4)
    assert ("TVMBackendParallelLaunch" in trial.llvm) == (target.threads > 1)


@needs_x86
@pytest.mark.parametrize(
    "text",
    [
        "conv nN ic16 h9 w9 oc32 k3x3 s1x1 p1x1",
        "conv nN ic144 w19 oc32 k5 s1 p2",
        "conv nN ic48 h5 w6 oc16 k7x1 s1x1 p3x0",
    ],
)
def test_symbolic_batch(text: str) -> None:
    trial = build(WINOGRAD_F4, ConvProblem.parse(text), WIDEST)
    for batch in (1, 3):
        assert trial.error(batch) < WINOGRAD_F4.error_bound(trial.problem, WIDEST)


@needs_x86
def test_tiles_of_several_register_tiles_and_shares() -> None:
    """Every loop of the recipe longer than one."""
    problem = ConvProblem.parse("conv n1 ic32 h30 w30 oc64 k3x3 s1x1 p1x1")
    tile = replace(WINOGRAD_F4.tiles_for(problem, WIDEST), th=4, tw=4, rh=2, rw=2, panel=2, share=2)
    _check(build(WINOGRAD_F4, problem, WIDEST, tile), 4)


@needs_x86
@pytest.mark.parametrize(
    ("m", "text"),
    [(m, "conv n1 ic64 h28 w28 oc64 k3x3 s1x1 p1x1") for m in (2, 4, 6)]
    + [(4, "conv n1 ic128 h17 w17 oc128 k7x1 s1x1 p3x0"), (4, "conv n1 ic64 w100 oc64 k5 s1 p2")],
)
def test_scratch_is_what_the_stack_holds(m: int, text: str) -> None:
    problem = ConvProblem.parse(text)
    trial = build(ALGORITHMS[m], problem, WIDEST)
    lines = re.findall(r"alloca \[(\d+) x <16 x float>\]", trial.llvm)
    assert lines
    claimed = ALGORITHMS[m].scratch(problem, WIDEST, trial.tile)
    assert claimed * 0.6 < 64 * sum(map(int, lines)) <= claimed


@needs_x86
@pytest.mark.parametrize(
    ("m", "kernel"), [(2, (3, 3)), (4, (3, 3)), (6, (3, 3)), (2, (5, 5)), (6, (1, 3)), (6, (5, 1)), (4, (1, 7))]
)
@pytest.mark.parametrize("channels", [16, 512])
def test_error_bound_on_the_worst_signs(m: int, kernel: tuple[int, int], channels: int) -> None:
    _worst_signs(ALGORITHMS[m], m, kernel, channels)


@needs_x86
@pytest.mark.parametrize("channels", [16, 512])
def test_error_bound_of_weights_transformed_in_the_kernel(channels: int) -> None:
    _worst_signs(WINOGRAD_F4_FRESH, 4, (3, 3), channels)


def _worst_signs(algorithm: Algorithm, m: int, kernel: tuple[int, int], channels: int) -> None:
    """Signs in the pattern whose products are large in the transforms and cancel in the result, in all channels."""
    size = [side(m, taps) + taps - 1 for taps in kernel]
    problem = ConvProblem(4, channels, 32, tuple(size), kernel, (1, 1), (0, 0, 0, 0), (1, 1))
    trial = build(algorithm, problem, WIDEST, bare=True)
    (_, x1, w1), (_, x2, w2) = (worst_signs(m, taps) if taps > 1 else (1.0, np.ones(1), np.ones(1)) for taps in kernel)
    (x, w, bias), _ = trial.operands()
    x, w = (
        np.float32(signs) * (1 + np.abs(array) / 3) for signs, array in ((np.outer(x1, x2), x), (np.outer(w1, w2), w))
    )
    tensors = trial.packed(x, w, bias)
    trial.function(*tensors)
    bound = algorithm.error_bound(problem, WIDEST)
    assert bound / 10 < accuracy.relative(problem, trial.result(tensors[-1]), x, w) <= bound


def test_the_bound_grows_with_the_channels() -> None:
    """F(4x4, 3x3) is for accuracy="default" up to some number of channels."""

    def bound(channels: int) -> float:
        return WINOGRAD_F4.error_bound(ConvProblem.parse(f"conv n1 ic{channels} h8 w8 oc16 k3x3 s1x1 p1x1"), AVX512)

    assert bound(16) < bound(256) < bound(1024) < bound(2048) < DEFAULT_BOUND < bound(4096)
    assert tolerance("winograd").atol > DEFAULT_BOUND


def _check(trial: Trial, m: int) -> None:
    assert trial.error() < ALGORITHMS[m].error_bound(trial.problem, WIDEST)
    assert "Workspace" not in trial.llvm


@functools.cache
def _bare(m: int) -> Trial:
    return build(ALGORITHMS[m], ConvProblem.parse("conv n1 ic32 h13 w13 oc16 k3x3 s1x1 p1x1"), WIDEST, bare=True)


@needs_x86
@pytest.mark.parametrize("m", [2, 4, 6])
@pytest.mark.parametrize("kind", ["positive", "cancelling", "ranges", "ramps"])
def test_errors_on_adversarial_inputs(m: int, kind: str) -> None:
    """The proven bound holds: `amplification` times the rounding errors of a sum, over max|x| * sum|w|."""
    trial = _bare(m)
    problem = trial.problem
    assert isinstance(problem, ConvProblem)
    (x, w, _), tensors = trial.operands()
    if kind == "positive":
        x, w = np.abs(x), np.abs(w)
    elif kind == "cancelling":  # all results vanish but for rounding
        x[:, 1::2], w[:, 1::2] = x[:, ::2], -w[:, ::2]
    elif kind == "ranges":  # neighbours that differ by a million
        x *= np.where(np.indices(x.shape).sum(axis=0) % 3, np.float32(1e-3), np.float32(1e3))
    else:
        x += np.linspace(0, 1000, 13, dtype=np.float32)
    tensors[0].copyfrom(trial.layouts.x.pack(x))
    tensors[1].copyfrom(trial.layouts.w.pack(trial.prepare(w)))
    trial.function(*tensors)
    expected = conv.reference(ConvAttrs((1, 1), problem.pads, (1, 1)), x.astype(np.float64), w.astype(np.float64))
    error = np.abs(trial.result(tensors[-1]) - expected).max()
    scale = np.abs(x).max() * np.abs(w).sum(axis=(1, 2, 3)).max()
    assert error <= 2.0**-24 * (problem.ic + 4 * (m + 2)) * amplification(m, 3) ** 2 * scale
    if kind == "positive":
        assert error <= ALGORITHMS[m].error_bound(problem, WIDEST) * np.abs(expected).max()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("conv n1 ic16 h8 w8 oc16 k4x3 s1x1 p1x1", "must have 2, 3, 5 or 7 taps, or one 1, got 4x3"),
        ("conv n1 ic16 h8 w8 oc16 k1x1 s1x1 p1x1", "or one 1, got 1x1"),
        ("conv n1 ic16 h8 w8 oc16 k7x7 s1x1 p1x1", "errors must be at most 3e-04 of the result"),
        ("conv n1 ic16 h8 w8 oc16 k3x3 s2x2 p1x1", "stride and dilation must be 1"),
        ("conv n1 ic16 h8 w8 oc16 k3x3 s1x1 p1x1 d2x2", "stride and dilation must be 1"),
        ("conv n1 ic16 h8 w8 oc16 k3x3 s1x1 p1x1 g2", "groups must be 1, got 2"),
        ("conv n1 ic16 h8 w8 oc16 k3x3 s1x1 p1x1 bf16", "got bf16"),
        ("conv n1 ic16 w8 oc16 k4 s1 p1", "7 taps, or one 1, got 4"),
        ("conv n1 ic16 w8 oc16 k3 s2 p1", "stride and dilation must be 1"),
        ("conv n1 ic16 d4 h8 w8 oc16 k3x3x3 s1x2x1 p1x1x1", "stride and dilation must be 1"),
        ("conv n1 ic8192 h8 w8 oc16 k3x3 s1x1 p1x1", "got 8192 input channels"),
        ("conv n1 ic16 h2 w8 oc16 k3x3 s1x1 p0x0", "at least one pixel"),
    ],
)
def test_declines_with_a_reason(text: str, reason: str) -> None:
    problem = ConvProblem.parse(text)
    assert reason in (WINOGRAD_F4.applies(problem, AVX512) or "")
    with pytest.raises(ScheduleError, match=r"conv n1"):
        build(WINOGRAD_F4, problem, AVX512)


LAYERS = [
    "conv n1 ic64 h56 w56 oc64 k3x3 s1x1 p1x1",
    "conv n1 ic128 h28 w28 oc128 k3x3 s1x1 p1x1",
    "conv n1 ic256 h14 w14 oc256 k3x3 s1x1 p1x1",
    "conv n1 ic512 h7 w7 oc512 k3x3 s1x1 p1x1",
    "conv n1 ic64 h224 w224 oc64 k3x3 s1x1 p1x1",
    "conv n1 ic512 h28 w28 oc512 k3x3 s1x1 p1x1",
    "conv n1 ic96 h13 w13 oc80 k3x3 s1x1 p1x1",
]
NARROW = [
    "conv n1 ic192 h17 w17 oc192 k1x7 s1x1 p0x3",
    "conv n1 ic192 h17 w17 oc192 k7x1 s1x1 p3x0",
    "conv n1 ic384 h8 w8 oc384 k1x3 s1x1 p0x1",
    "conv n1 ic48 h35 w35 oc64 k5x5 s1x1 p2x2",
    "conv n1 ic128 w493 oc128 k3 s1 p0",
]


@pytest.mark.parametrize("target", [AVX512, AVX2, SSE], ids=lambda t: t.name)
@pytest.mark.parametrize(
    ("m", "text"), [(m, t) for t in LAYERS for m in (2, 4, 6)] + [(m, t) for t in NARROW for m in (2, 4)]
)
def test_tiles_of_real_layers_fit_the_machine(text: str, m: int, target: Target) -> None:
    problem = ConvProblem.parse(text)
    tile = ALGORITHMS[m].tiles_for(problem, target)
    vectors = tile.panel * tile.block // target.lanes()
    assert tile.rh * tile.rw * vectors + vectors < target.vector_registers
    assert -(-problem.oc // tile.block) % tile.share == 0
    assert tile.share % tile.panel == 0
    assert tile.th % tile.rh == 0
    assert tile.tw % tile.rw == 0
    assert ALGORITHMS[m].scratch(problem, target, tile) <= STACK


def test_the_model_knows_where_winograd_loses() -> None:
    """Against 90 percent of the FMA peak: it wins by two on large layers, loses where weights outweigh the work."""

    def gain(text: str, target: Target) -> float:
        problem = ConvProblem.parse(text)
        tile = WINOGRAD_F4.tiles_for(problem, target)
        direct = 2 * problem.macs / (0.9 * target.gflops_per_core * target.threads * 1e9)
        return direct / WINOGRAD_F4.cost(problem, target, tile).seconds

    assert all(gain(text, AVX512) > 1.5 for text in NARROW)
    assert gain(LAYERS[0], AVX512) > 2
    assert gain(LAYERS[1], AVX512) > 2
    assert gain(LAYERS[4], AVX512) > 2
    assert gain(LAYERS[3], replace(AVX512, gbytes_per_second=10.0)) < 1
    assert gain("conv n1 ic3 h32 w32 oc16 k3x3 s1x1 p1x1", AVX512) < 1
