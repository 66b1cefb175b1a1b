"""The dense convolutions and the matrix product on a CPU: choice of tiles, and built kernels against the definition."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from benchmarks.kernels import NETWORKS
from cnncc.errors import ScheduleError
from cnncc.kernels.trial import Trial, build, definition
from cnncc.targets.cpu import dense, direct, first_layer, grouped, lanes, narrow, pointwise, tiling
from cnncc.targets.cpu.tiling import ConvTile
from cnncc.targets.problem import ConvProblem, MatmulProblem
from cnncc.targets.target import Target
from tests.targets.cpu_records import AVX2, AVX512, SSE, WIDEST, needs_x86, runs
from tests.tolerances import assert_close, tolerance

CONVOLUTIONS = {a.name: a for a in (m.ALGORITHM for m in (direct, pointwise, first_layer, grouped, lanes, narrow))}

GRID = [
    "conv n1 ic16 h8 w8 oc16 k3x3 s1x1 p1x1",
    "conv n2 ic20 h13 w9 oc40 k3x3 s1x1 p1x0:2x1",  # ragged channels, asymmetric pads, odd sizes
    "conv n1 ic32 h17 w35 oc48 k3x3 s2x2 p1x1",
    "conv n1 ic16 h19 w23 oc32 k5x3 s2x3 p0x1 d2x3",  # everything differs between the axes
    "conv n1 ic16 h9 w41 oc32 k1x7 s1x1 p0x3",
    "conv n1 ic32 h7 w7 oc32 k1x1 s2x2 p0x0",
    "conv n1 ic16 h5 w5 oc16 k5x5 s1x1 p0x0",  # one pixel of output
    "conv n1 ic16 h2 w2 oc16 k3x3 s1x1 p3x3",  # more padding than input
    "conv n2 ic64 h11 w13 oc32 k3x3 s1x1 p1x1 g2",
    "conv n1 ic16 w37 oc32 k5 s2 p2 d2",
    "conv n1 ic16 d5 h6 w7 oc32 k3x3x3 s1x2x1 p1x1x1:1x0x1",
]
POINTWISE = [
    "conv n1 ic32 h7 w7 oc64 k1x1 s1x1 p0x0",
    "conv n2 ic24 h13 w5 oc40 k1x1 s1x1 p0x0",
    "conv n1 ic16 d3 h4 w5 oc16 k1x1x1 s1x1x1 p0x0x0",
    "conv n1 ic64 h5 w9 oc64 k1x1 s1x1 p0x0 g2",
]
FIRST = [
    "conv n1 ic3 h30 w37 oc32 k7x7 s2x2 p3x3",
    "conv n2 ic3 h17 w19 oc24 k3x3 s1x1 p1x1",
    "conv n1 ic1 h28 w28 oc6 k5x5 s1x1 p2x2",
    "conv n1 ic2 h12 w20 oc16 k3x3 s1x1 p0x0 d2x2",
    "conv n1 ic1 w50 oc16 k9 s4 p4",
    "conv n1 ic3 d4 h9 w9 oc16 k3x3x3 s1x1x1 p1x1x1",
]
GROUPED = [
    "conv n1 ic32 h9 w9 oc32 k3x3 s1x1 p1x1 g8",
    "conv n1 ic48 h7 w8 oc48 k3x3 s2x2 p1x1 g2",  # groups that end within blocks
    "conv n1 ic12 h6 w6 oc36 k1x1 s1x1 p0x0 g3",
    "conv n2 ic8 h6 w6 oc24 k3x3 s1x1 p1x1 g8",  # several outputs for each input channel
    "conv n1 ic40 h5 w7 oc10 k3x3 s1x1 p0x1 g5",
]
LANES = [
    "conv n1 ic32 h9 w9 oc32 k3x3 s1x1 p1x1 g8",
    "conv n2 ic24 h13 w11 oc24 k3x5 s2x1 p1x0:0x2 g12",  # a last block of fewer groups
    "conv n1 ic8 h6 w6 oc32 k3x3 s1x1 p1x1 d2x2 g8",  # several outputs for each input channel
    "conv n1 ic32 w21 oc16 k5 s2 p2 g16",  # and the reverse
    "conv n1 ic32 d4 h5 w6 oc32 k2x3x3 s1x1x1 p1x1x1 g4",
]
NARROW = [
    "conv n1 ic32 h9 w9 oc32 k3x3 s1x1 p1x1 g4",
    "conv n2 ic40 h13 w11 oc40 k3x5 s2x1 p1x0:0x2 g5",  # a last block of one group
    "conv n1 ic144 h7 w9 oc144 k3x3 s2x2 p1x1 g6",  # groups of one block and a half
    "conv n1 ic72 h6 w6 oc72 k3x3 s1x1 p1x1 g3",  # tasks of all channels
    "conv n1 ic12 h6 w6 oc24 k3x3 s1x1 p1x1 d2x2 g3",  # several outputs for each input channel
    "conv n1 ic96 w21 oc24 k5 s2 p2 g3",  # and the reverse, beyond the last block of inputs
    "conv n1 ic48 h5 w6 oc24 k1x1 s1x1 p0x0 g3",
    "conv n1 ic32 d4 h5 w6 oc32 k2x3x3 s1x1x1 p1x1x1 g4",
]
DENSE = [
    "matmul m1 k37 n10 nk",
    "matmul m1 k100 n1000 nk",
    "matmul m1 k64 n72 kn",
    "matmul m1 k37 n130 kn",
    "matmul m5 k48 n64 nk",
    "matmul m64 k100 n36 nk",
    "matmul m13 k130 n65 kn",
    "matmul m33 k3001 n16 nk",
]


def cases() -> list[tuple[str, str]]:
    lists = {
        "direct": GRID + POINTWISE[:2],
        "pointwise": POINTWISE,
        "first_layer": FIRST,
        "grouped": GROUPED,
        "lanes": LANES,
        "narrow": NARROW,
    }
    return [(name, text) for name, texts in lists.items() for text in texts]


def check(trial: Trial, batch: int | None = None) -> None:
    assert trial.error(batch) < tolerance("conv").atol
    assert "Workspace" not in trial.llvm
    assert ("TVMBackendParallelLaunch" in trial.llvm) == trial.tile.parallel


@needs_x86
@pytest.mark.parametrize(("name", "text"), cases())
def test_convolution_equals_the_definition(name: str, text: str) -> None:
    check(build(CONVOLUTIONS[name], ConvProblem.parse(text), WIDEST))


@needs_x86
@pytest.mark.parametrize("text", DENSE)
def test_matrix_product_equals_the_definition(text: str) -> None:
    check(build(dense.ALGORITHM, MatmulProblem.parse(text), WIDEST))


@pytest.mark.parametrize("target", [AVX2, SSE], ids=lambda t: t.name)
@pytest.mark.parametrize("name", [*CONVOLUTIONS, "dense"])
def test_other_vectors(name: str, target: Target) -> None:
    if name == "dense":
        check(build(dense.ALGORITHM, MatmulProblem.parse("matmul m9 k70 n50 nk"), runs(target)))
        return
    text = {
        "direct": GRID[1],
        "pointwise": POINTWISE[1],
        "first_layer": FIRST[1],
        "grouped": GROUPED[0],
        "lanes": LANES[1],
        "narrow": "conv n2 ic36 h13 w11 oc36 k3x5 s2x1 p1x0:0x2 g3",  # a block and a half, of 8 channels
    }[name]
    check(build(CONVOLUTIONS[name], ConvProblem.parse(text), runs(target)))


@needs_x86
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("direct", "conv nN ic16 h9 w10 oc32 k3x3 s1x1 p1x1"),
        ("pointwise", "conv nN ic32 h5 w7 oc32 k1x1 s1x1 p0x0"),
        ("first_layer", "conv nN ic3 h9 w10 oc16 k3x3 s2x2 p1x1"),
        ("grouped", "conv nN ic16 h6 w6 oc16 k3x3 s1x1 p1x1 g4"),
        ("lanes", "conv nN ic16 h6 w6 oc16 k3x3 s1x1 p1x1 g4"),
        ("narrow", "conv nN ic24 h6 w6 oc24 k3x3 s1x1 p1x1 g3"),
    ],
)
@pytest.mark.parametrize("parallel", [False, True])
def test_symbolic_batch(name: str, text: str, parallel: bool) -> None:
    problem = ConvProblem.parse(text)
    tile = replace(CONVOLUTIONS[name].tiles_for(problem, WIDEST), parallel=parallel)
    trial = build(CONVOLUTIONS[name], problem, WIDEST, tile)
    for batch in (1, 3):
        check(trial, batch)


@needs_x86
@pytest.mark.parametrize("text", ["matmul mN k70 n40 nk", "matmul mN k33 n200 kn"])
def test_symbolic_rows(text: str) -> None:
    trial = build(dense.ALGORITHM, MatmulProblem.parse(text), WIDEST)
    for rows in (1, 4, 7, 33):
        check(trial, rows)


@needs_x86
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize(
    ("pixels", "vectors", "group", "chunk"),
    [
        ((1, 4), 1, (3, 4), 2),  # every loop of the recipe longer than one
        ((2, 3), 2, (12, 20), 4),
        ((5, 3), 1, (6, 10), 1),  # narrower last tiles along both axes
        ((1, 1), 4, (1, 1), 4),
    ],
)
def test_given_tiles(pixels: tuple[int, int], vectors: int, group: tuple[int, int], chunk: int, parallel: bool) -> None:
    problem = ConvProblem.parse("conv n2 ic32 h12 w20 oc64 k3x3 s1x1 p1x1")
    tile = ConvTile(pixels, vectors, group, chunk, WIDEST.block, True, parallel)
    check(build(direct.ALGORITHM, problem, WIDEST, tile))


@needs_x86
@pytest.mark.parametrize(
    ("name", "text"), [("direct", GRID[0]), ("pointwise", POINTWISE[0]), ("first_layer", FIRST[1])]
)
def test_input_computed_where_it_is_read(name: str, text: str) -> None:
    """A prologue that maps zero to one: what is padded is its result."""
    problem, algorithm = ConvProblem.parse(text), CONVOLUTIONS[name]

    def define(p: ConvProblem, tile: ConvTile, x: Any, w: Any, finish: Any) -> Any:
        return algorithm.define(p, tile, Computed(lambda *i: x(*i) + 1.0, x.shape), w, finish)

    trial = build(replace(algorithm, define=define), problem, WIDEST)
    (x, w, bias), tensors = trial.operands()
    trial.function(*tensors)
    expected = definition(problem, x + 1.0, w, bias)
    assert_close(trial.result(tensors[-1]), expected, "conv")


@dataclass(frozen=True)
class Computed:
    """An operand that is an expression of its indices."""

    at: Callable[..., Any]
    shape: Any

    def __call__(self, *index: Any) -> Any:
        return self.at(*index)


@needs_x86
def test_dense_tiles_of_several_parts() -> None:
    problem = MatmulProblem.parse("matmul m30 k64 n256 nk")
    tile = dense.tiles_for(problem, WIDEST)
    tile = replace(tile, rows=3, chunk=2, depth=24, parallel=True)
    check(build(dense.ALGORITHM, problem, WIDEST, tile))


@needs_x86
def test_scratch_is_what_the_stack_holds() -> None:
    for algorithm, text in [
        (direct.ALGORITHM, "conv n1 ic64 h28 w28 oc64 k3x3 s1x1 p1x1"),
        (first_layer.ALGORITHM, "conv n1 ic3 h64 w64 oc16 k7x7 s2x2 p3x3"),
        (grouped.ALGORITHM, "conv n1 ic64 h14 w14 oc64 k3x3 s1x1 p1x1 g16"),
        (lanes.ALGORITHM, "conv n1 ic64 h14 w14 oc64 k3x3 s1x1 p1x1 g16"),
    ]:
        problem = ConvProblem.parse(text)
        trial = build(algorithm, problem, WIDEST)
        lines = re.findall(r"alloca \[(\d+) x <16 x float>\]", trial.llvm)
        claimed = algorithm.scratch(problem, WIDEST, trial.tile)
        assert claimed <= 64 * sum(map(int, lines)) < claimed + 64 * len(lines)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("direct", "conv n1 ic16 h8 w8 oc16 k3x3 s1x1 p1x1 bf16", "got bf16"),
        ("direct", "conv n1 ic16 h8 w8 oc16 k3x3 s1x1 p1x1 g2", "multiples of the block 16, got 8 in and 8 out"),
        ("direct", "conv n1 ic16 h2 w8 oc16 k3x3 s1x1 p0x0", "at least one pixel"),
        ("direct", "conv n1 ic4096 h50 w50 oc16 k11x11 s1x1 p1x1", "bytes of scratch, got"),
        ("pointwise", "conv n1 ic16 h8 w8 oc16 k1x1 s2x2 p0x0", "kernel and stride 1 and no pads"),
        ("pointwise", "conv n1 ic16 w8 oc16 k1 s1 p0", "one spatial axis"),
        ("first_layer", "conv n1 ic17 h8 w8 oc16 k3x3 s1x1 p1x1", "at most 16 input channels"),
        ("grouped", "conv n1 ic64 h8 w8 oc64 k3x3 s1x1 p1x1 g2", "whole blocks"),
        ("lanes", "conv n1 ic64 h8 w8 oc48 k3x3 s1x1 p1x1 g2", "several whole groups, got 2 of 24"),
        ("grouped", "conv n1 ic64 h8 w8 oc64 k3x3 s1x1 p1x1 g64", "depthwise"),
        ("narrow", "conv n1 ic64 h8 w8 oc64 k3x3 s1x1 p1x1 g2", "whole blocks"),
        ("narrow", "conv n1 ic64 h8 w8 oc64 k3x3 s1x1 p1x1 g32", "a multiple of 4, got 2"),
        ("grouped", "conv n1 ic64 h8 w8 oc64 k3x3 s1x1 p1x1", "several groups"),
    ],
)
def test_declines_with_a_reason(name: str, text: str, reason: str) -> None:
    problem = ConvProblem.parse(text)
    assert reason in (CONVOLUTIONS[name].applies(problem, AVX512) or "")
    with pytest.raises(ScheduleError, match=r"conv n1"):
        build(CONVOLUTIONS[name], problem, AVX512)


LAYERS = sorted({text for texts in NETWORKS.values() for text in texts if text.startswith("conv")})


@pytest.mark.parametrize("target", [AVX512, AVX2, SSE, replace(AVX2, threads=1)], ids=lambda t: f"{t.name}-{t.threads}")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_tiles_of_real_layers_fit_the_machine(name: str, target: Target) -> None:
    algorithm = CONVOLUTIONS[name]
    applied = 0
    for problem in map(ConvProblem.parse, LAYERS):
        if algorithm.applies(problem, target) is not None:
            continue
        applied += 1
        tile = algorithm.tiles_for(problem, target)
        out = problem.out if name != "pointwise" else (math.prod(problem.out),)
        block = narrow.vector(problem, target.block) if name == "narrow" else tile.width
        vectors = tile.vectors * max(1, block // target.lanes()) - tile.half
        assert tiling.registers(math.prod(tile.pixels), vectors, target) <= target.vector_registers
        assert all(o % g == 0 and g >= p for o, g, p in zip(out, tile.group, tile.pixels, strict=True)), problem
        blocks = -(-problem.oc // target.block) * target.block // block
        assert blocks % tile.chunk == 0
        assert tile.chunk % tile.vectors == 0
        assert algorithm.scratch(problem, target, tile) <= tiling.SCRATCH + grouped.SPREAD
        assert not (tile.parallel and target.threads == 1)
    assert applied


@pytest.mark.parametrize("target", [AVX512, AVX2], ids=lambda t: t.name)
def test_the_model_expects_most_of_the_peak(target: Target) -> None:
    """Large layers of ResNet-50 and VGG at 86 percent and more, on both threads."""
    for text in NETWORKS["resnet50"][:12] + NETWORKS["vgg16"]:
        problem = ConvProblem.parse(text)
        tile = direct.ALGORITHM.tiles_for(problem, target)
        peak = 2 * problem.macs / (target.gflops_per_core * target.threads * 1e9)
        assert peak < direct.ALGORITHM.cost(problem, target, tile).seconds < 1.16 * peak, (text, tile)


def test_half_vectors_count_as_the_units_are() -> None:
    """Groups of 8 channels in registers of 16 lanes: as fast as whole vectors where the units have 256 bits."""
    problem = ConvProblem.parse("conv n1 ic208 h14 w14 oc208 k3x3 s1x1 p1x1 g26")
    halved = replace(AVX512, unit_bits=256)
    assert (AVX512.rate(16), AVX512.rate(8), halved.rate(8), halved.rate(4)) == (117.0, 58.5, 117.0, 58.5)
    whole, half = (
        narrow.ALGORITHM.cost(problem, t, narrow.ALGORITHM.tiles_for(problem, t)).seconds for t in (AVX512, halved)
    )
    assert half < 0.6 * whole
    assert half < 0.75 * lanes.cost(problem, halved, lanes.tiles_for(problem, halved)).seconds


HALVED = replace(AVX512, unit_bits=256, threads=1)


@pytest.mark.parametrize("target", [HALVED, AVX2, SSE], ids=lambda t: t.name)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("direct", "conv n2 ic20 h13 w9 oc20 k3x3 s1x1 p1x0:2x1"),
        ("direct", "conv nN ic16 h9 w10 oc4 k1x1 s2x2 p0x0"),
        ("direct", "conv n1 ic16 w37 oc36 k5 s2 p2 d2"),
        ("pointwise", "conv n2 ic24 h13 w5 oc36 k1x1 s1x1 p0x0"),
        ("first_layer", "conv n2 ic3 h17 w19 oc20 k3x3 s1x1 p1x1"),
    ],
)
def test_half_a_block_of_padding_is_not_computed(name: str, text: str, target: Target) -> None:
    problem, algorithm = ConvProblem.parse(text), CONVOLUTIONS[name]
    halves = (tile for tile in algorithm.candidates(problem, target) if tile.half)
    trial = build(
        algorithm, problem, runs(target), min(halves, key=lambda t: algorithm.cost(problem, target, t).seconds)
    )
    check(trial, 2)
    _, tensors = trial.operands(2)
    trial.function(*tensors)
    assert np.isfinite(tensors[-1].numpy()).all()  # the padding, too: what reads blocks may multiply it by zero


def test_half_blocks_where_they_are_faster() -> None:
    """24 channels are three half blocks, as fast as one block and a half only where the units are half as wide."""
    problem = ConvProblem.parse("conv n1 ic144 h56 w56 oc24 k1x1 s1x1 p0x0")
    single = replace(AVX512, threads=1)
    (half, halves), (whole, wholes) = (
        (tile.half, pointwise.ALGORITHM.cost(problem, target, tile).seconds)
        for target in (HALVED, single)
        for tile in [pointwise.ALGORITHM.tiles_for(problem, target)]
    )
    assert (half, whole) == (True, False)
    assert halves < 0.85 * wholes
    for oc in (16, 32, 26, 31):  # no block that is at least half padding
        other = replace(problem, oc=oc)
        assert not pointwise.ALGORITHM.tiles_for(other, HALVED).half
    assert any(tile.half for tile in pointwise.ALGORITHM.candidates(problem, HALVED))


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("conv n1 ic1088 w1024 oc512 k1 s1 p0", True),  # 6 and 14 pixels divide no part of 1024
        ("conv n1 ic320 h64 w128 oc256 k1x1 s1x1 p0x0", True),
        ("conv n1 ic512 h32 w32 oc256 k1x1 s1x1 p0x0", False),  # 2 MB are not far
    ],
)
def test_large_inputs_are_taken_in_groups_that_stay_near(text: str, near: bool) -> None:
    problem = ConvProblem.parse(text)
    algorithm = direct.ALGORITHM if problem.rank == 1 else pointwise.ALGORITHM
    one = replace(AVX512, threads=1)
    group = math.prod(algorithm.tiles_for(problem, one).group)
    assert (4 * problem.ic * group <= one.l2 // 2) == near
    assert near or group == math.prod(problem.out)


def test_small_layers_stay_on_one_thread() -> None:
    problem = ConvProblem.parse("conv n1 ic16 h4 w4 oc16 k1x1 s1x1 p0x0")
    assert not direct.ALGORITHM.tiles_for(problem, AVX512).parallel
    assert direct.ALGORITHM.tiles_for(ConvProblem.parse(NETWORKS["vgg16"][0]), AVX512).parallel


def test_problem_texts_round_trip() -> None:
    for text in [*LAYERS, *DENSE, "matmul b4 mN k3 n5 kn f64"]:
        kind = MatmulProblem if text.startswith("matmul") else ConvProblem
        assert str(kind.parse(text)) == text
