"""Convolution by Fourier transforms: lines, tiles, the choice of lengths, and built kernels against the definition."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from cnncc.errors import GraphError, ScheduleError
from cnncc.kernels.trial import Trial, build
from cnncc.ops.fft import FftAttrs, transform_filters
from cnncc.ops.fft_tiles import axis
from cnncc.targets.cpu import direct, fft_dense, fft_depthwise
from cnncc.targets.cpu.depthwise import DEPTHWISE
from cnncc.targets.cpu.fft_tiles import STACK, FftTile, scratch
from cnncc.targets.cpu.fourier import transform
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target
from tests.targets.cpu_records import AVX2, AVX512, SSE, WIDEST, needs_x86, runs

DEPTHWISE_FFT, DENSE_FFT = fft_depthwise.ALGORITHM, fft_dense.ALGORITHM


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("n", range(1, 21))
def test_straight_line_transforms(n: int, sign: int) -> None:
    """All points, and with the last ones known to be zero."""
    z = np.random.default_rng(n).standard_normal((2, n))
    for zeros in (0, n // 2):
        values = [(z[0, k], z[1, k]) if k < n - zeros else (None, None) for k in range(n)]
        line = np.where(np.arange(n) < n - zeros, z[0] + 1j * z[1], 0)
        expected = np.fft.fft(line) if sign < 0 else np.fft.ifft(line) * n
        found = [complex(a or 0, b or 0) for a, b in transform(values, sign, lambda value: value)]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("length", "size", "kernel", "pads"),
    [
        (8, 5, 3, (1, 1)),
        (8, 20, 3, (0, 2)),
        (5, 3, 9, (4, 4)),
        (9, 6, 5, (4, 4)),
        (4, 30, 4, (3, 0)),
        (16, 7, 3, (9, 1)),
    ],
)
def test_tiles_compute_the_correlation(length: int, size: int, kernel: int, pads: tuple[int, int]) -> None:
    """Circular correlations of tiles as `Axis` describes them, in numpy."""
    tiles = axis(length, size, kernel, *pads)
    assert tiles is not None
    rng = np.random.default_rng(size)
    x, w = rng.standard_normal(size), rng.standard_normal(kernel)
    circle = np.zeros(length)
    circle[: tiles.taps] = w[tiles.first : tiles.first + tiles.taps]
    circle = np.roll(circle, -tiles.shift)
    found = []
    for t in range(tiles.count):
        at = np.arange(length) + t * tiles.step - tiles.lead
        tile = np.where((at >= 0) & (at < size), x[at.clip(0, size - 1)], 0)
        assert not tile[tiles.filled :].any() or not tiles.single
        tile[tiles.filled :] = 0
        found += [sum(circle[k] * tile[(o + k) % length] for k in range(length)) for o in range(tiles.step)]
    expected = np.correlate(np.pad(x, pads), w)
    np.testing.assert_allclose(found[: tiles.out], expected, rtol=0, atol=1e-12)


def test_one_tile_needs_zeros_at_one_side_only() -> None:
    tiles = axis(64, 56, 17, 8, 8)
    assert tiles is not None
    assert (tiles.count, tiles.shift, tiles.filled) == (1, 8, 56)
    several = axis(63, 56, 17, 8, 8)
    assert several is not None
    assert several.count == 2
    assert axis(16, 56, 17, 8, 8) is None


def test_taps_that_meet_nothing_are_left_out() -> None:
    tiles = axis(28, 14, 31, 15, 15)
    assert tiles is not None
    assert (tiles.first, tiles.taps, tiles.count) == (2, 27, 1)


GRID = [
    "conv n1 ic16 h56 w56 oc16 k13x13 s1x1 p6x6 g16",  # one tile
    "conv n2 ic20 h13 w9 oc20 k5x8 s1x1 p2x3:1x4 g20",  # ragged channels, asymmetric pads, odd sizes
    "conv n1 ic16 h70 w131 oc16 k15x9 s1x1 p0x4 g16",  # several tiles, without pads on an axis
    "conv n1 ic33 h14 w14 oc33 k31x31 s1x1 p15x15 g33",  # taps that never meet the image
    "conv n1 ic16 h5 w6 oc16 k4x4 s1x1 p3x9 g16",  # more outputs than inputs
    "conv n1 ic16 h31 w20 oc16 k3x3 s1x1 p4x6 d4x6 g16",  # dilated
    "conv n1 ic16 h1 w90 oc16 k1x64 s1x1 p0x31:0x32 g16",  # one axis alone
    "conv n1 ic16 h150 w1 oc16 k64x1 s1x1 p0x0 g16",
]


@needs_x86
@pytest.mark.parametrize("text", GRID)
def test_depthwise_equals_the_definition(text: str) -> None:
    _check(build(DEPTHWISE_FFT, ConvProblem.parse(text), WIDEST))


DENSE = [
    "conv n1 ic48 h35 w35 oc64 k5x5 s1x1 p2x2",
    "conv n2 ic20 h13 w9 oc40 k5x8 s1x1 p2x3:1x4",  # ragged channels, asymmetric pads, odd sizes
    "conv n3 ic16 h30 w61 oc48 k7x7 s1x1 p0x3",  # a last chunk of fewer tiles
    "conv n1 ic32 h14 w14 oc16 k31x31 s1x1 p15x15",
    "conv n1 ic16 h17 w17 oc32 k1x7 s1x1 p0x3",
    "conv n1 ic16 h31 w20 oc16 k7x7 s1x1 p6x9 d2x3",
]


@needs_x86
@pytest.mark.parametrize("text", DENSE)
def test_dense_equals_the_definition(text: str) -> None:
    _check(build(DENSE_FFT, ConvProblem.parse(text), WIDEST))


@needs_x86
def test_tiles_in_chunks() -> None:
    """Fewer tiles at a time than there are, register tiles that do not divide them, several vectors."""
    problem = ConvProblem.parse("conv n2 ic16 h40 w40 oc64 k5x5 s1x1 p2x2")
    tile = replace(DENSE_FFT.tiles_for(problem, WIDEST), high=(2, 5), wide=(3, 4), rows=3, tiles=9, vectors=2)
    _check(build(DENSE_FFT, problem, WIDEST, tile))


@needs_x86
@pytest.mark.parametrize(("high", "wide"), [((3, 3), (3, 5)), ((5, 9), (2, 7)), ((1, 8), (8, 1))])
def test_lengths_of_every_kind(high: tuple[int, int], wide: tuple[int, int]) -> None:
    """Odd lengths, odd numbers of results, steps of one point."""
    tile = FftTile(WIDEST.block, min(WIDEST.block, WIDEST.lanes()), high, wide, True)
    for size in (4, 5, 9):
        problem = ConvProblem.parse(f"conv n1 ic16 h{size} w{size} oc16 k4x4 s1x1 p1x2:2x1 g16")
        _check(build(DEPTHWISE_FFT, problem, WIDEST, tile))


@pytest.mark.parametrize("target", [AVX2, SSE, replace(AVX512, threads=1)], ids=lambda t: f"{t.name}-{t.threads}")
@pytest.mark.parametrize("text", [*GRID[:2], *DENSE[:2]])
def test_other_targets(target: Target, text: str) -> None:
    trial = build(DEPTHWISE_FFT if "g" in text else DENSE_FFT, ConvProblem.parse(text), runs(target))
    _check(trial)
    assert ("TVMBackendParallelLaunch" in trial.llvm) == (target.threads > 1)


@needs_x86
def test_symbolic_batch() -> None:
    trial = build(DEPTHWISE_FFT, ConvProblem.parse("conv nN ic16 h12 w12 oc16 k7x7 s1x1 p3x3 g16"), WIDEST)
    dense = build(DENSE_FFT, ConvProblem.parse("conv nN ic16 h12 w12 oc16 k7x7 s1x1 p3x3"), WIDEST)
    for batch in (1, 3, 7):
        assert trial.error(batch) < DEPTHWISE_FFT.error_bound(trial.problem, WIDEST)
        assert dense.error(batch) < DENSE_FFT.error_bound(dense.problem, WIDEST)


@needs_x86
@pytest.mark.parametrize("text", GRID[:3])
def test_scratch_is_what_the_stack_holds(text: str) -> None:
    problem = ConvProblem.parse(text)
    trial = build(DEPTHWISE_FFT, problem, WIDEST)
    lines = re.findall(r"alloca \[(\d+) x <16 x float>\]", trial.llvm)
    assert lines
    claimed = scratch(problem, WIDEST, trial.tile)
    assert claimed * 0.6 < 64 * sum(map(int, lines)) <= claimed + 4096  # beside it what LLVM keeps in registers


@needs_x86
def test_workspaces_are_what_the_kernel_keeps() -> None:
    problem = ConvProblem.parse(DENSE[0])
    trial = build(DENSE_FFT, problem, WIDEST)
    assert trial.workspaces == DENSE_FFT.workspaces(problem, trial.tile)


def _check(trial: Trial) -> None:
    (x, w, bias), _ = trial.operands()
    trial.function(*trial.packed(np.full_like(x, np.nan), w, bias))  # whatever is left on the stack is not read
    assert trial.error() < DENSE_FFT.error_bound(trial.problem, WIDEST), trial.tile
    assert "Workspace" not in trial.llvm


def test_filters_are_transformed_in_double_precision() -> None:
    w = np.random.default_rng(0).standard_normal((3, 1, 5, 4)).astype(np.float32)
    attrs = FftAttrs((8, 9), (20, 20), (5, 4), (0, 0, 0, 0), (1, 1), 3)
    found = transform_filters(attrs, w)
    expected = np.conj(np.fft.rfft2(w[:, 0].astype(np.float64), (8, 9))).transpose(0, 2, 1) / (2 * 8 * 9)
    assert found.shape == (3, 5, 8, 2)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.stack([expected.real, expected.imag], axis=-1).astype(np.float32))


def test_a_transform_too_short_is_named() -> None:
    with pytest.raises(GraphError, match="as many points as the taps, got 4 for 5"):
        _ = FftAttrs((4, 8), (20, 20), (5, 4), (0, 0, 0, 0)).axes


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("conv n1 ic16 h28 w28 oc16 k9x9 s2x2 p4x4 g16", "strides must be 1"),
        ("conv n1 ic16 h28 w28 oc32 k9x9 s1x1 p4x4 g16", "16 channels, 32 outputs, 16 groups"),
        ("conv n1 ic16 h28 w28 oc16 k9x9 s1x1 p4x4 g16 bf16", "it is for f32, got bf16"),
        ("conv n1 ic16 h300 w300 oc16 k255x255 s1x1 p127x127 g16", "a transform of at most 100 points"),
        ("conv n1 ic16 h28 w28 oc16 k9x9 s1x1 p4x4 g2", "16 channels, 16 outputs, 2 groups"),
        ("conv n1 ic16 d9 h28 w28 oc16 k3x9x9 s1x1x1 p1x4x4 g16", "two spatial axes, got 3"),
    ],
)
def test_depthwise_declines_with_a_reason(text: str, reason: str) -> None:
    problem = ConvProblem.parse(text)
    assert reason in (DEPTHWISE_FFT.applies(problem, AVX512) or "")
    with pytest.raises(ScheduleError, match=r"conv n1"):
        build(DEPTHWISE_FFT, problem, AVX512)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("conv n1 ic16 h28 w28 oc16 k9x9 s2x2 p4x4", "strides must be 1"),
        ("conv n1 ic16 h28 w28 oc16 k9x9 s1x1 p4x4 g2", "groups must be 1, got 2"),
        ("conv n1 ic16 h28 w28 oc16 k1x1 s1x1 p0x0", "the kernel must have several taps"),
        ("conv n1 ic16 h31 w20 oc16 k3x3 s1x1 p4x6 d4x6", "at most 12 times the memory of the weights"),
    ],
)
def test_dense_declines_with_a_reason(text: str, reason: str) -> None:
    problem = ConvProblem.parse(text)
    assert reason in (DENSE_FFT.applies(problem, AVX512) or "")
    with pytest.raises(ScheduleError, match=r"conv n1"):
        build(DENSE_FFT, problem, AVX512)


@pytest.mark.parametrize("target", [AVX512, AVX2, SSE], ids=lambda t: t.name)
@pytest.mark.parametrize("k", [7, 13, 31, 63])
def test_tiles_of_real_layers_fit_the_machine(k: int, target: Target) -> None:
    for size, channels in ((56, 128), (28, 256), (14, 512)):
        problem = ConvProblem.parse(
            f"conv n1 ic{channels} h{size} w{size} oc{channels} k{k}x{k} s1x1 p{k // 2}x{k // 2} g{channels}"
        )
        tile = DEPTHWISE_FFT.tiles_for(problem, target)
        assert tile.lanes == min(target.lanes(), target.block)
        assert scratch(problem, target, tile) <= min(STACK, target.l2)


def test_the_model_knows_where_transforms_lose() -> None:
    """They win by a factor on large filters; on small ones they lose."""

    def gain(k: int, size: int, channels: int) -> float:
        problem = ConvProblem.parse(
            f"conv n1 ic{channels} h{size} w{size} oc{channels} k{k}x{k} s1x1 p{k // 2}x{k // 2} g{channels}"
        )
        seconds = [a.cost(problem, AVX512, a.tiles_for(problem, AVX512)).seconds for a in (DEPTHWISE, DEPTHWISE_FFT)]
        return seconds[0] / seconds[1]

    assert gain(31, 28, 256) > 4
    assert gain(13, 56, 128) > 1.9
    assert gain(9, 56, 128) > 1
    assert gain(3, 56, 128) < 0.5
    assert gain(5, 14, 384) < 1
    # alone they win, in networks not
    assert max(gain(7, 56, 24), gain(7, 28, 48), gain(7, 56, 96), gain(7, 28, 192)) < 1


@pytest.mark.parametrize("target", [AVX512, AVX2, SSE], ids=lambda t: t.name)
@pytest.mark.parametrize(
    "text", ["conv n1 ic48 h35 w35 oc64 k5x5 s1x1 p2x2", "conv n8 ic64 h56 w56 oc64 k7x7 s1x1 p3x3"]
)
def test_dense_tiles_of_real_layers_fit_the_machine(text: str, target: Target) -> None:
    problem = ConvProblem.parse(text)
    tile = DENSE_FFT.tiles_for(problem, target)
    assert 2 * tile.rows * tile.vectors + 2 * tile.vectors + 2 <= target.vector_registers
    assert tile.tiles % tile.rows == 0
    assert scratch(problem, target, tile) <= min(STACK, target.l2)
    assert 4 * sum(map(np.prod, DENSE_FFT.workspaces(problem, tile))) <= target.l3 // 2


def test_the_model_knows_dense_gains() -> None:
    """From 5x5 on; not where spectra are read for a few pixels."""

    def gain(text: str) -> float:
        problem = ConvProblem.parse(text)
        algorithms = (direct.ALGORITHM, DENSE_FFT)
        seconds = [a.cost(problem, AVX512, a.tiles_for(problem, AVX512)).seconds for a in algorithms]
        return seconds[0] / seconds[1]

    assert gain("conv n1 ic64 h56 w56 oc64 k7x7 s1x1 p3x3") > 3
    assert gain("conv n1 ic48 h35 w35 oc64 k5x5 s1x1 p2x2") > 2
    assert gain("conv n1 ic512 h7 w7 oc512 k5x5 s1x1 p2x2") < 1
