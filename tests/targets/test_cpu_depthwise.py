"""Depthwise convolution: the choice of tiles, and built kernels against the definition."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from cnncc.errors import ScheduleError, UnsupportedError
from cnncc.kernels.trial import Trial, build
from cnncc.targets.cpu.depthwise import DEPTHWISE
from cnncc.targets.cpu.depthwise_tiles import STACK, DepthwiseTile, cuts
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target
from tests.targets.cpu_records import AVX2, AVX512, SSE, WIDEST, needs_x86, runs
from tests.tolerances import tolerance

ONE = replace(WIDEST, threads=1)
TWO = WIDEST

PEEL = [
    "conv n2 ic32 h14 w14 oc32 k3x3 s1x1 p1x1 g32",
    "conv n1 ic20 h13 w22 oc20 k3x3 s2x2 p0x1:1x0 g20",  # ragged channels, asymmetric pads
    "conv n1 ic16 h7 w7 oc16 k5x5 s1x1 p2x2 g16",
    "conv n1 ic16 h11 w30 oc16 k5x5 s2x2 p2x1:1x2 g16",
    "conv n1 ic16 h15 w19 oc16 k3x3 s1x1 p2x2 d2x2 g16",
    "conv n1 ic16 h9 w40 oc16 k3x3 s1x1 p0x0 g16",
    "conv n1 ic16 h3 w3 oc16 k3x3 s3x3 p4x4 g16",  # windows wholly in the padding
    "conv n1 ic24 h1 w1 oc24 k1x1 s1x1 p0x0 g24",
    "conv n1 ic16 w50 oc16 k5 s2 p2:1 g16",
    "conv n1 ic16 w9 oc16 k3 s1 p4:0 d2 g16",
]
PAD = [
    "conv n1 ic32 h13 w13 oc32 k9x9 s1x1 p4x4 g32",
    "conv n2 ic16 d5 h6 w7 oc16 k3x3x3 s1x2x1 p1x1x1 g16",
    "conv n1 ic16 w64 oc16 k129 s1 p64 g16",
]


@needs_x86
@pytest.mark.parametrize("text", PEEL)
def test_peeled_form(text: str) -> None:
    trial = build(DEPTHWISE, ConvProblem.parse(text), ONE)
    assert trial.tile.peel
    _check(trial)


@needs_x86
@pytest.mark.parametrize("text", [*PAD, PEEL[1], PEEL[8]])
def test_padded_form(text: str) -> None:
    problem = ConvProblem.parse(text)
    _check(build(DEPTHWISE, problem, ONE, _padded(problem)))


@pytest.mark.parametrize("text", PAD)
def test_the_padded_form_is_chosen(text: str) -> None:
    assert not DEPTHWISE.tiles_for(ConvProblem.parse(text), ONE).peel


@pytest.mark.parametrize("target", [AVX512, AVX2, SSE], ids=lambda t: t.name)
@pytest.mark.parametrize("text", [PEEL[1], PEEL[5], PAD[0]])
def test_other_targets(target: Target, text: str) -> None:
    trial = build(DEPTHWISE, ConvProblem.parse(text), runs(target))
    _check(trial)
    assert "TVMBackendParallelLaunch" in trial.llvm


@needs_x86
def test_rows_are_tasks_where_channels_are_too_few() -> None:
    problem = ConvProblem.parse("conv n1 ic48 h224 w224 oc48 k3x3 s1x1 p1x1 g48")
    target = replace(AVX512, threads=4, gbytes_per_second=200.0)
    assert DEPTHWISE.tiles_for(problem, target).split_rows
    assert not DEPTHWISE.tiles_for(replace(problem, ic=960, oc=960, groups=960, size=(7, 7)), target).split_rows
    small = replace(problem, size=(12, 12))
    _check(build(DEPTHWISE, small, TWO, replace(DEPTHWISE.tiles_for(small, TWO), split_rows=True)))


@needs_x86
@pytest.mark.parametrize("pad", [False, True])
def test_symbolic_batch(pad: bool) -> None:
    problem = ConvProblem.parse("conv nN ic32 h9 w12 oc32 k3x3 s1x1 p1x1 g32")
    trial = build(DEPTHWISE, problem, TWO, _padded(problem) if pad else None)
    for batch in (1, 3):
        assert trial.error(batch) < tolerance("conv").atol


def test_an_operand_that_is_computed_is_computed_once_per_element() -> None:
    """A prologue (here: twice the input) puts the padded form in place, whatever the tile says."""
    from tvm import te, tirx
    from tvm.s_tir import Schedule

    problem = ConvProblem.parse(PEEL[0])
    tile = DEPTHWISE.tiles_for(problem, ONE)
    assert tile.peel
    x = te.placeholder([tirx.const(e, "int64") for e in (2, 2, 14, 14, 16)], name="x")
    w = te.placeholder([tirx.const(e, "int64") for e in (2, 1, 3, 3, 16)], name="w")
    out = DEPTHWISE.define(problem, tile, lambda *i: x(*i) * 2.0, w, lambda value, index: value)
    sch = Schedule(te.create_prim_func([x, w, out]))
    DEPTHWISE.schedule(sch, problem, tile, ONE)
    assert sch.mod.script().count("T.float32(2.0)") == 1


@needs_x86
@pytest.mark.parametrize(("text", "apart"), [(PEEL[2], True), (PEEL[3], False), (PEEL[0], False)])
def test_a_costly_epilogue_gets_registers_of_its_own(text: str, apart: bool) -> None:
    """SiLU behind 5x5: the padded form, whose epilogue has no weights beside it. Not behind 3x3, nor for cheap ones."""
    from tvm import te, tirx
    from tvm.s_tir import Schedule

    from cnncc.targets.cpu import common, math

    problem = ConvProblem.parse(text)
    tile = replace(DEPTHWISE.tiles_for(problem, ONE), peel=True, pixels=7)
    n, rank = problem.batch, problem.rank
    x = te.placeholder(common.shape(n, -(-problem.ic // 16), *problem.size, 16), name="x")
    w = te.placeholder(common.shape(-(-problem.ic // 16), 1, *problem.kernel, 16), name="w")

    def stages(finish: common.Finish) -> str:
        sch = Schedule(te.create_prim_func([x, w, DEPTHWISE.define(problem, tile, x, w, finish)]))
        DEPTHWISE.schedule(sch, problem, tile, ONE)
        return str(sch.mod.script())

    assert rank == 2
    assert ('sblock("pad")' in stages(lambda value, index: value * math.sigmoid(value))) == apart
    assert 'sblock("pad")' not in stages(lambda value, index: tirx.max(value + 1.0, tirx.const(0.0, "float32")))


@needs_x86
@pytest.mark.parametrize(
    "text", ["conv n1 ic96 h14 w14 oc96 k5x5 s1x1 p2x2 g96", "conv n2 ic20 h7 w7 oc20 k7x7 s1x1 p3x3 g20"]
)
def test_half_vectors(text: str) -> None:
    """Where the units are half as wide as vectors, unrolled rows of large windows take half vectors."""
    problem = ConvProblem.parse(text)
    halved = replace(AVX512, threads=1, unit_bits=256)
    assert DEPTHWISE.tiles_for(problem, halved).lanes == 8
    assert DEPTHWISE.tiles_for(problem, replace(halved, unit_bits=0)).lanes == 16
    _check(build(DEPTHWISE, problem, runs(halved)))


@needs_x86
@pytest.mark.parametrize("text", PAD)
def test_scratch_is_what_the_stack_holds(text: str) -> None:
    problem = ConvProblem.parse(text)
    trial = build(DEPTHWISE, problem, ONE)
    lines = re.findall(r"alloca \[(\d+) x <16 x float>\]", trial.llvm)
    claimed = DEPTHWISE.scratch(problem, ONE, trial.tile)
    assert claimed * 0.6 < 64 * sum(map(int, lines)) <= claimed <= STACK


@needs_x86
def test_inner_loops_have_no_conditions() -> None:
    """The pieces' conditions are decided when the kernel is built: as many branches as loops, and those of entry."""
    trial = build(DEPTHWISE, ConvProblem.parse("conv n1 ic32 h56 w56 oc32 k3x3 s1x1 p1x1 g32"), ONE)
    body = trial.assembly.split("compute_:")[1].split(".Lfunc_end")[0]
    assert len(re.findall(r"^\s+j[a-z]+\s", body, re.M)) <= 12
    assert "cmov" not in body


def _padded(problem: ConvProblem) -> DepthwiseTile:
    chosen = DEPTHWISE.tiles_for(problem, ONE)
    pixels = min(4, problem.out[-1])
    chunk = (*(-(-o // 2) for o in problem.out[:-1]), -(-problem.out[-1] // pixels) * pixels)
    return replace(chosen, peel=False, pixels=pixels, chunk=chunk) if chosen.peel else chosen


def _check(trial: Trial) -> None:
    assert trial.error() < tolerance("conv").atol
    assert "Workspace" not in trial.llvm
    assert ("ParallelLaunch" in trial.llvm) == ("num_task" in trial.llvm)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("conv n1 ic16 h8 w8 oc16 k3x3 s1x1 p1x1", "16 channels in 1 groups"),
        ("conv n1 ic16 h8 w8 oc16 k3x3 s1x1 p1x1 g4", "16 channels in 4 groups"),
        ("conv n1 ic16 h8 w8 oc32 k3x3 s1x1 p1x1 g16", "got 32 outputs of 16 channels"),
        ("conv n1 ic16 h8 w8 oc16 k3x3 s1x1 p1x1 g16 f64", "got f64"),
        ("conv n1 ic16 h2 w8 oc16 k3x3 s1x1 p0x0 g16", "at least one pixel"),
        ("conv n1 ic16 h300 w300 oc16 k200x200 s1x1 p0x0 g16", "fit the stack"),
    ],
)
def test_declines_with_a_reason(text: str, reason: str) -> None:
    problem = ConvProblem.parse(text)
    assert reason in (DEPTHWISE.applies(problem, ONE) or "")
    with pytest.raises(ScheduleError, match=r"conv n1"):
        build(DEPTHWISE, problem, ONE)
    if "stack" in reason:
        with pytest.raises(UnsupportedError, match="fit the stack"):
            DEPTHWISE.tiles_for(problem, ONE)


def _layer(channels: int, size: int, kernel: int, stride: int) -> ConvProblem:
    pads = (kernel // 2,) * 4
    return ConvProblem(1, channels, channels, (size,) * 2, (kernel,) * 2, (stride,) * 2, pads, (1, 1), channels)


LAYERS = [
    _layer(32, 112, 3, 1), _layer(96, 112, 3, 2), _layer(144, 56, 3, 1), _layer(192, 28, 3, 2), _layer(384, 14, 3, 1),
    _layer(960, 7, 3, 1), _layer(144, 56, 5, 2), _layer(240, 28, 5, 1), _layer(1152, 7, 5, 1), _layer(96, 56, 7, 1),
]  # fmt: skip


@pytest.mark.parametrize(
    "target", [replace(AVX512, threads=1), AVX512, AVX2, SSE], ids=lambda t: f"{t.name}-{t.threads}"
)
@pytest.mark.parametrize("problem", LAYERS, ids=str)
def test_tiles_of_real_layers(problem: ConvProblem, target: Target) -> None:
    tile = DEPTHWISE.tiles_for(problem, target)
    assert DEPTHWISE.scratch(problem, target, tile) <= STACK
    rows, columns = cuts(problem, tile.pixels)
    assert sum(rows) == problem.out[0]
    assert sum(columns) == -(-problem.out[1] // tile.pixels)
    assert DEPTHWISE.cost(problem, target, tile).bytes >= 4 * problem.ic * math.prod(problem.size)


def test_pieces_are_where_windows_overhang() -> None:
    tile = DepthwiseTile(16, 16, 1, True, (14, 14))
    assert cuts(_layer(32, 14, 3, 1), tile.pixels) == ((1, 12, 1), (1, 12, 1))
    assert cuts(_layer(32, 14, 3, 2), tile.pixels) == ((1, 6, 0), (1, 6, 0))
    assert cuts(_layer(32, 7, 5, 1), tile.pixels) == ((2, 3, 2), (2, 3, 2))
    assert cuts(_layer(32, 3, 5, 1), tile.pixels) == ((3, 0, 0), (3, 0, 0))
    inside = [y for y in range(14) if 2 * y >= 1 and 2 * y + 1 < 28]
    assert cuts(_layer(32, 28, 3, 2), tile.pixels)[0] == (1, len(inside), 0)
