"""Kernels compiled for every kind of CPU, and their assembly read: the innermost loops of the products use the widest
registers, multiply and add in one instruction where the target can, and keep everything in registers.

Nothing is executed here, so that the targets which this machine lacks are tested as well.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from cnncc.kernels.trial import build
from cnncc.targets.cpu import narrow
from cnncc.targets.machine import AARCH64, AVX, AVX2, AVX512, GENERIC
from cnncc.targets.problem import ConvProblem, MatmulProblem
from cnncc.targets.table import algorithms
from cnncc.targets.target import Target
from tests.targets.assembly import Loop, inner_loops

REGISTERS = {"avx512": "zmm", "avx2": "ymm", "avx": "ymm", "generic": "xmm", "aarch64": ".4s"}
TARGETS = [AVX512, AVX2, AVX, GENERIC, AARCH64]
WIDER = {"avx512": (), "avx2": ("zmm",), "avx": ("zmm", "vfmadd"), "generic": ("ymm", "zmm", "vfmadd"), "aarch64": ()}

STORE = re.compile(r"mov[au]ps\s+%[xyz]mm\d+, [-\d]*\(|\bst[rp]\s+q")

# Layers of ResNet, VGG, Inception, MobileNet, EfficientNet, AlexNet, ResNeXt, RegNet, M5 and C3D.
CASES = [
    ("direct", "conv n1 ic64 h56 w56 oc64 k3x3 s1x1 p1x1"),
    ("direct", "conv n1 ic256 h28 w28 oc256 k3x3 s2x2 p1x1"),
    ("direct", "conv n1 ic128 h17 w17 oc128 k1x7 s1x1 p0x3"),
    ("direct", "conv n1 ic96 h27 w27 oc256 k5x5 s1x1 p2x2 g2"),
    ("direct", "conv n1 ic128 w497 oc128 k3 s1 p1"),
    ("direct", "conv n1 ic64 d8 h28 w28 oc128 k3x3x3 s1x1x1 p1x1x1"),
    ("first_layer", "conv n1 ic3 h224 w224 oc64 k7x7 s2x2 p3x3"),
    ("first_layer", "conv n1 ic3 h224 w224 oc32 k3x3 s2x2 p1x1"),
    ("first_layer", "conv n1 ic3 h224 w224 oc64 k11x11 s4x4 p2x2"),
    ("pointwise", "conv n1 ic64 h56 w56 oc256 k1x1 s1x1 p0x0"),
    ("pointwise", "conv n1 ic960 h7 w7 oc160 k1x1 s1x1 p0x0"),
    ("winograd_f2", "conv n1 ic256 h14 w14 oc256 k3x3 s1x1 p1x1"),
    ("winograd_f4", "conv n1 ic64 h56 w56 oc64 k3x3 s1x1 p1x1"),
    ("winograd_f6", "conv n1 ic64 h56 w56 oc64 k3x3 s1x1 p1x1"),
    ("winograd_f4", "conv n1 ic192 h17 w17 oc192 k7x1 s1x1 p3x0"),
    ("winograd_f2", "conv n1 ic48 h35 w35 oc64 k5x5 s1x1 p2x2"),
    ("winograd_f6", "conv n1 ic128 w493 oc128 k3 s1 p0"),
    ("fft", "conv n1 ic64 h56 w56 oc64 k7x7 s1x1 p3x3"),
    ("depthwise", "conv n1 ic144 h56 w56 oc144 k3x3 s1x1 p1x1 g144"),
    ("depthwise", "conv n1 ic96 h112 w112 oc96 k3x3 s2x2 p1x1 g96"),
    ("grouped", "conv n1 ic48 h28 w28 oc48 k3x3 s1x1 p1x1 g2"),
    ("narrow", "conv n1 ic208 h14 w14 oc208 k3x3 s1x1 p1x1 g26"),
    ("narrow", "conv n1 ic72 h56 w56 oc72 k3x3 s1x1 p1x1 g3"),
    ("lanes", "conv n1 ic128 h56 w56 oc128 k3x3 s1x1 p1x1 g32"),
    ("dense", "matmul m1 k2048 n1000 nk"),
    ("dense", "matmul m64 k768 n768 kn"),
]


def step(name: str, problem: Any, tile: Any, target: Target) -> int:
    """Vector multiplications of one step of a register tile."""
    block = narrow.vector(problem, target.block) if name == "narrow" else target.block
    vectors = max(1, block // target.lanes())
    if name == "dense":
        return int(tile.rows * tile.panel // tile.lanes)
    if name.startswith("winograd"):
        return int(tile.rh * tile.rw * tile.panel * vectors)
    if name == "fft":
        return int(4 * tile.rows * tile.vectors)
    if name == "depthwise":
        return int(tile.pixels * problem.kernel[0] * problem.kernel[1])
    pixels = 1
    for extent in tile.pixels:
        pixels *= extent
    return int(pixels * tile.vectors * vectors)


def products(name: str, loops: list[Loop], size: int) -> list[Loop]:
    """The loops of whole register tiles: their multiplications are whole steps, at most those of a block of 16, of
    elements from memory."""
    whole = [loop for loop in loops if loop.total in range(size, 16 * size + 1, size)]
    if name == "fft":  # steps of transforms, which store what they make, may have as many
        whole = [loop for loop in whole if not any(STORE.search(line) for line in loop.lines)]
    return whole if name in ("depthwise", "lanes") else [loop for loop in whole if 16 * loop.broadcasts >= loop.total]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(("name", "text"), CASES)
def test_innermost_loops(name: str, text: str, target: Target) -> None:
    problem: Any = MatmulProblem.parse(text) if name == "dense" else ConvProblem.parse(text)
    algorithm = next(a for a in algorithms(target) if a.name == name)
    reason = algorithm.applies(problem, target)
    if reason is not None:  # a block of channels is narrower where vectors are
        other = {"lanes": "grouped", "grouped": "direct", "narrow": "direct"}[name]
        pytest.skip(f"{reason}; {other} serves it")
    trial = build(algorithm, problem, target)
    assembly = trial.assembly
    for word in WIDER[target.name]:
        assert word not in assembly
    size = step(name, problem, trial.tile, target)
    loops = products(name, inner_loops(assembly), size)
    assert loops, (trial.tile, [(loop.total, loop.broadcasts) for loop in inner_loops(assembly)])
    for loop in loops:
        shown = "\n".join(loop.lines)
        half = name == "narrow" and target.vector_bits > 256  # vectors of a group, which may be half a register
        assert set(loop.multiplies) == {"ymm" if half else REGISTERS[target.name]}, shown
        assert loop.scalar == 0, shown
        if name != "depthwise":
            assert loop.fused == (loop.total if target.fma else 0), shown
        elif target.fma:  # the first product of a sum has nothing to add
            assert loop.fused >= loop.total - trial.tile.pixels, shown
        # Four pixels of `lanes` without FMA exceed 16 registers a little, and are faster than three.
        few = loop.total // (3 if name == "lanes" and not target.fma else 64)
        assert loop.spills <= few, shown


def test_a_tile_beyond_the_registers_is_seen_to_spill() -> None:
    """What the tests above look for is there where it should be: 28 sums in 16 registers."""
    problem = ConvProblem.parse(CASES[0][1])
    direct = next(a for a in algorithms(AVX2) if a.name == "direct")
    tile = replace(direct.tiles_for(problem, AVX2), pixels=(1, 14))
    loops = products("direct", inner_loops(build(direct, problem, AVX2, tile).assembly), 28)
    assert loops
    assert all(loop.spills for loop in loops)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_large_depthwise_kernels_reload_few_weights(target: Target) -> None:
    """25 weights and 7 sums exceed 16 registers: some weights come from the stack, as they else would from memory."""
    problem = ConvProblem.parse("conv n1 ic240 h28 w28 oc240 k5x5 s1x1 p2x2 g240")
    depthwise = next(a for a in algorithms(target) if a.name == "depthwise")
    loops = [loop for loop in inner_loops(build(depthwise, problem, target).assembly) if loop.total >= 25]
    assert loops
    for loop in loops:
        assert set(loop.multiplies) == {REGISTERS[target.name]}
        assert loop.spills <= loop.total // 6
