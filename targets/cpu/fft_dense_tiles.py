"""The tile record of dense convolution by Fourier transforms: candidates, cost and choice. No TVM here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from cnncc.targets.algorithm import Cost
from cnncc.targets.cpu.fft_tiles import (
    ITEMSIZE,
    MARGIN,
    PER_TASK,
    STACK,
    attrs_for,
    line_slots,
    radices_for,
    radices_of,
    rows_slots,
    scratch,
    unserved,
)
from cnncc.targets.cpu.tiling import FORK_SECONDS, IN_CACHE, STREAMED, divisors, step_time
from cnncc.targets.cpu.variety import least, varied
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target

GROWTH = 12  # times the weights that their spectra may be
HIDDEN = 0.2  # of the products' time, in which spectra arrive
CODE = 20e-6  # seconds in which the straight-line code of the transforms arrives


@dataclass(frozen=True)
class FftDenseTile:
    """Transforms as in FftTile. `tiles`: of the input at a time; the accumulators of a product are `rows` tiles x
    `vectors` of `lanes` output channels x 2."""

    block: int
    lanes: int
    high: tuple[int, int]
    wide: tuple[int, int]
    tiles: int
    rows: int
    vectors: int
    parallel: bool


def declines(p: ConvProblem, target: Target) -> str | None:
    """Why not, or None."""
    if p.groups != 1:
        return f"groups must be 1, got {p.groups}"
    reason = unserved(p, target)
    if reason is None and best_tile(p, target) is None:
        reason = f"spectra must take at most {GROWTH} times the memory of the weights, got kernel {p.kernel}"
    return reason


def cost(p: ConvProblem, target: Target, tile: FftDenseTile) -> Cost:
    """Time of the three steps, each behind the other, and of the spectra on their way from memory."""
    high, wide = axes = attrs_for(p, tile).axes
    ib, ob, parts = -(-p.ic // tile.block), -(-p.oc // tile.block), tile.block // tile.lanes
    threads = target.threads if tile.parallel else 1
    total = p.batch * axes[0].count * axes[1].count
    half = axes[1].length // 2 + 1
    points = half * axes[0].length
    forward, back = (rows + half * line_slots(tile.high) + PER_TASK for rows in rows_slots((high, wide), tile.wide))
    transforms = -(-total * ib * parts // threads) * forward + -(-total * ob * parts // threads) * back
    size = tile.vectors * tile.rows
    steps = ib * tile.block * -(-total // tile.rows) * (ob * parts // tile.vectors)
    per_step = 4 * size + 1.0 if 2 * size >= 8 else 2 * step_time(2 * tile.rows, tile.vectors)
    products = -(-points // threads) * (steps * per_step + ob * parts * total * 2)
    slot = 2 * target.lanes() / (target.gflops_per_core * 1e9)

    memory = target.gbytes_per_second * 1e9
    chunks = -(-total // tile.tiles)
    spectra = 2.0 * ITEMSIZE * points * ib * ob * tile.block**2
    between = 4.0 * ITEMSIZE * points * total * tile.block * (ib + ob)
    held = between * min(1.0, tile.tiles / total)
    again = (chunks - 1) * spectra / (memory if spectra > target.l3 // 2 else IN_CACHE * memory)
    pixels = float(ITEMSIZE * p.batch * tile.block * (ib * math.prod(p.size) + ob * math.prod(p.out)))
    spectral = max(spectra / memory - HIDDEN * products * slot, spectra / (STREAMED * memory))
    moved = spectral + again + between / (memory if held > target.l3 else IN_CACHE * memory)
    seconds = (MARGIN * transforms + products) * slot + moved + pixels / (IN_CACHE * memory)
    return Cost(CODE + seconds + 3 * chunks * FORK_SECONDS * tile.parallel, 2.0 * p.macs, spectra + between + pixels)


@lru_cache(maxsize=4096)
def best_tile(p: ConvProblem, target: Target) -> FftDenseTile | None:
    """The tile of least cost, None where spectra would take too much memory."""
    return least(_candidates(p, target), lambda tile: cost(p, target, tile).seconds)


def candidates(p: ConvProblem, target: Target) -> Iterator[FftDenseTile]:
    """Tiles worth measuring: of the lengths that the weights are prepared for, other radices and register tiles."""
    best = best_tile(p, target)
    if best is None:
        return iter(())
    lengths = math.prod(best.high), math.prod(best.wide)
    tiles = [
        replace(tile, high=high, wide=wide)
        for tile in _sized(p, target, best.high, best.wide)
        for high in radices_of(lengths[0])
        for wide in radices_of(lengths[1])
    ]
    return varied(tiles, lambda tile: cost(p, target, tile).seconds, lambda tile: (tile.rows, tile.vectors))


def _candidates(p: ConvProblem, target: Target) -> Iterator[FftDenseTile]:
    limit = min(STACK, target.l2 * 3 // 4)
    for high in radices_for(p, 0):
        for wide in radices_for(p, 1):
            points = (math.prod(wide) // 2 + 1) * math.prod(high)
            if 2 * points <= GROWTH * math.prod(p.kernel):
                for tile in _sized(p, target, high, wide):
                    if scratch(p, target, tile) <= limit:
                        yield tile


def _sized(p: ConvProblem, target: Target, high: tuple[int, int], wide: tuple[int, int]) -> Iterator[FftDenseTile]:
    """Register tiles for transforms, and as many tiles at a time as half of the third-level cache holds."""
    lanes = min(target.block, target.lanes())
    one = FftDenseTile(target.block, lanes, high, wide, 1, 1, 1, target.threads > 1)
    axes = attrs_for(p, one).axes
    total = p.batch * axes[0].count * axes[1].count
    ib, ob = -(-p.ic // target.block), -(-p.oc // target.block)
    bytes_each = 2 * ITEMSIZE * (axes[1].length // 2 + 1) * axes[0].length * target.block * (ib + ob)
    most = max(1, target.l3 // 2 // bytes_each)
    for vectors in (v for v in divisors(ob * target.block // lanes) if v <= 4):
        products = 0 if target.fma else 4 if target.vector_bits > 128 else 6  # in flight: see `registers` in tiling.py
        free = target.vector_registers - 2 * vectors - 2 - products
        rows = free // (2 * vectors)
        if rows < 1:
            continue
        turns = -(-total // rows)
        rows = -(-total // turns)  # as even as possible
        tiles = min(-(-total // rows), max(1, most // rows)) * rows
        yield replace(one, tiles=tiles, rows=rows, vectors=vectors)
