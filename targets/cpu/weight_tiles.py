"""Tiles of weight gradients, and their cost. Pure: imports no TVM.

dw[m, c, k] = sum_{n, o} dy[n, m, o] * x[n, c, o*s + k*d - p]. Output channels are the lanes of a vector, a register
tile keeps `rows` such vectors while it walks over output pixels: input channels of a tap, where both operands lie in
blocks; pairs of a channel and a column of the kernel, where x is plain (first layers); taps, where every channel has
a filter of its own. A task makes all taps of some blocks of channels, which it sums up in scratch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from cnncc.targets.algorithm import Cost
from cnncc.targets.cpu.tiling import (
    BROADCAST,
    FORK_SECONDS,
    FROM_L3,
    LATENCY,
    PER_COPY,
    PER_LOOP,
    PER_TASK,
    ceil_div,
    covered,
    divisors,
    memory_seconds,
    registers,
    step_time,
)
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target

Kind = Literal["blocked", "plain", "depthwise"]
SUMS = 128 << 10  # bytes of stack for a task's sums
NEAR = 24 << 10  # bytes of both operands that a register tile walks over at a time: they stay in the first cache
PIXELS = 64  # a register tile should walk over, so that loading and storing it is little
IMAGES = 16  # it walks over at most


@dataclass(frozen=True)
class DwTile:
    """A register tile is `rows` sums for each of `vectors` vectors of `lanes` output channels. It walks over `images`
    images (the last ones may be fewer) times `lines` lines. A task makes `outs` blocks of output channels for `ins`
    blocks of input channels. `parallel`: tasks run on the threads."""

    block: int
    lanes: int
    vectors: int
    rows: int
    images: int
    lines: int
    outs: int
    ins: int
    parallel: bool


def planes(p: ConvProblem) -> ConvProblem:
    """The problem with two spatial axes at least, the first of extent 1 where there is one."""
    if p.rank > 1:
        return p
    return replace(
        p, size=(1, *p.size), kernel=(1, *p.kernel), strides=(1, *p.strides), dilations=(1, *p.dilations),
        pads=(0, p.pads[0], 0, p.pads[1]),
    )  # fmt: skip


def terms(p: ConvProblem, kind: Kind, block: int) -> tuple[int, int]:
    """The sums of an output channel and a block of input channels: (outer, inner), register tiles dividing the inner.
    `p` has two axes at least."""
    if kind == "blocked":
        return math.prod(p.kernel), block
    if kind == "plain":
        return math.prod(p.kernel[:-1]), p.ic * p.kernel[-1]
    return math.prod(p.kernel[:-2]), p.kernel[-2] * p.kernel[-1]


def copies(p: ConvProblem) -> bool:
    """Whether the input is padded into scratch: pads along the last two of two axes at least."""
    r = p.rank
    return any(p.pads[r - 2 : r] + p.pads[2 * r - 2 :])


def patch(p: ConvProblem, lines: int) -> tuple[int, int]:
    """Lines and columns of the padded input that some lines of the output read."""
    high, wide = covered(p, (*p.out[:-2], lines, p.out[-1]))[-2:]
    return high, wide


def applies(kind: Kind, p: ConvProblem, target: Target) -> str | None:
    """Why a kind does not apply, or None."""
    b = target.block
    if p.dtype != "f32":
        return f"weight gradients are for f32, got {p.dtype}"
    if min(p.out) < 1:
        return f"it needs an output of at least one pixel, got {p.out}"
    if kind == "depthwise" and not p.groups == p.ic == p.oc:
        return f"it is for one filter for each channel, got {p.groups} groups of {p.ic} -> {p.oc} channels"
    if kind == "plain" and (p.groups != 1 or p.ic > b):
        return f"it is for at most {b} input channels in one group, got {p.ic} in {p.groups}"
    if kind == "blocked" and p.groups != 1 and (p.ic // p.groups % b or p.oc // p.groups % b):
        return f"groups must be whole blocks of {b} channels, got {p.ic // p.groups} -> {p.oc // p.groups}"
    if _best(kind, p, target) is None:
        return f"the sums of a block of channels must fit {SUMS} bytes of scratch, and its input {4 * SUMS}"
    return None


def tiles_for(kind: Kind, p: ConvProblem, target: Target) -> DwTile:
    """The tile with the least modelled time."""
    tile = _best(kind, p, target)
    assert tile is not None, p
    return tile


@lru_cache(maxsize=2048)
def _best(kind: Kind, p: ConvProblem, target: Target) -> DwTile | None:
    p = planes(p)
    b = target.block
    lanes = min(b, target.lanes())
    outer, inner = terms(p, kind, b)
    vectors, rows = _register_tile(kind, inner, b // lanes, target)
    images, lines = _walk(p, kind, b)
    outs, ins = _blocks(p, kind, b)
    tiles = [
        DwTile(b, lanes, vectors, rows, images, lines, m, c, parallel)
        for m in divisors(outs)
        for c in divisors(ins)
        if 4 * m * c * outer * inner * b <= SUMS and scratch_of(p, kind, images, lines, b) <= 4 * SUMS
        for parallel in ((False, True) if target.threads > 1 else (False,))
    ]
    return min(tiles, key=lambda tile: cost(kind, p, target, tile).seconds, default=None)


def _blocks(p: ConvProblem, kind: Kind, b: int) -> tuple[int, int]:
    """Blocks of output channels, and of input channels, that go together with each other."""
    ins = ceil_div(p.ic // p.groups, b) if kind == "blocked" else 1
    return ceil_div(p.oc // p.groups if kind == "blocked" else p.oc, b), ins


def _register_tile(kind: Kind, inner: int, most: int, target: Target) -> tuple[int, int]:
    """Vectors and rows with the least time for each sum; narrower last rows where they do not divide the sums."""
    sizes = [
        (v, r)
        for v in divisors(most)
        for r in (divisors(inner) if kind == "blocked" else range(1, inner + 1))
        if (v == 1 and r == 1) or registers(r, v, target) + (kind == "depthwise") <= target.vector_registers
    ]

    def seconds(size: tuple[int, int]) -> float:
        v, r = size
        return ceil_div(inner, r) * (_step(kind, r, v) + PER_LOOP / 16) / (inner * v)

    return min(sizes, key=seconds)


def _step(kind: Kind, rows: int, vectors: int) -> float:
    if kind == "depthwise":  # every product loads a vector of the input
        return max(2.0 * rows * vectors, LATENCY / 2)
    return step_time(rows, vectors) + BROADCAST / 16


def _walk(p: ConvProblem, kind: Kind, b: int) -> tuple[int, int]:
    """Images and lines that a register tile walks over."""

    def near(lines: int) -> int:
        high, wide = patch(p, lines)
        return 4 * (high * wide * (p.ic if kind == "plain" else b) + lines * p.out[-1] * b)

    fits = [d for d in divisors(p.out[-2]) if near(d) <= NEAR]
    lines = max(fits, default=1)
    pixels = lines * p.out[-1]
    if lines < p.out[-2]:
        return 1, lines
    return max(1, min(IMAGES, ceil_div(PIXELS, pixels), NEAR // near(lines))), lines


def scratch_of(p: ConvProblem, kind: Kind, images: int, lines: int, b: int) -> int:
    """Bytes of the padded input."""
    high, wide = patch(p, lines)
    return 4 * images * high * wide * (p.ic if kind == "plain" else b) if copies(p) else 0


def scratch(kind: Kind, p: ConvProblem, target: Target, tile: DwTile) -> int:
    """Bytes of stack: sums, padded input, rows of results."""
    p = planes(p)
    outer, inner = terms(p, kind, tile.block)
    sums = 4 * tile.outs * tile.ins * outer * inner * tile.block
    return sums + scratch_of(p, kind, tile.images, tile.lines, tile.block) + 4 * outer * inner * tile.block


def cost(kind: Kind, p: ConvProblem, target: Target, tile: DwTile) -> Cost:
    """Time of the register tiles, of copying, and of the operands from the third-level cache; or memory's."""
    p = planes(p)
    b = tile.block
    outer, inner = terms(p, kind, b)
    outs, ins = _blocks(p, kind, b)
    tasks = (outs // tile.outs) * (ins // tile.ins) * (p.groups if kind == "blocked" else 1)
    walks = ceil_div(p.batch, tile.images) * math.prod(p.out[:-1]) // tile.lines
    pixels = min(tile.images, p.batch) * tile.lines * p.out[-1]
    parts = b // (tile.lanes * tile.vectors) * outer * ceil_div(inner, tile.rows)
    lines = min(tile.images, p.batch) * tile.lines
    tile_work = pixels * _step(kind, tile.rows, tile.vectors) + lines * PER_LOOP + 2 * tile.rows * tile.vectors
    work = walks * tile.outs * tile.ins * parts * tile_work
    high, wide = patch(p, tile.lines)
    if copies(p):
        vectors = b // tile.lanes if kind != "plain" else p.ic
        work += walks * tile.ins * min(tile.images, p.batch) * high * wide * vectors * PER_COPY
    pixel = 4.0 * b * math.prod(p.out) * p.batch
    read = pixel * tile.outs + (4.0 * p.batch * p.ic * math.prod(p.size) if kind == "plain" else pixel * tile.ins)
    work = max(work, read / FROM_L3)
    work += tile.outs * b * tile.ins * outer * inner * 2.0 / tile.lanes * 4  # rows of results, transposed
    unit = tile.lanes * 2 / (target.rate(tile.lanes) * 1e9)
    rounds = ceil_div(tasks, target.threads) if tile.parallel else tasks
    busy = rounds * (work + PER_TASK) * unit + (FORK_SECONDS if tile.parallel else 0.0)
    moved = 4.0 * p.batch * (p.ic * math.prod(p.size) + p.oc * math.prod(p.out))
    moved += 4.0 * p.oc * (p.ic // p.groups) * math.prod(p.kernel)
    return Cost(max(busy, memory_seconds(target, moved, rounds / tasks)), 2.0 * p.macs, moved)
