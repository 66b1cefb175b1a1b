"""The tile record of convolution by Fourier transforms: lengths, their radices, cost. No TVM here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

from cnncc.ops.fft import FftAttrs
from cnncc.ops.fft_tiles import Axis, axis
from cnncc.targets.algorithm import Algorithm, Cost
from cnncc.targets.cpu.fourier import transform
from cnncc.targets.cpu.tiling import FORK_SECONDS, memory_seconds
from cnncc.targets.cpu.variety import least, tiles_or_error, varied
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target

STACK = 640 << 10  # bytes of scratch a thread may use
ITEMSIZE = 4  # float32
RADICES = (2, 3, 4, 5, 6, 8, 9, 10)
ARITHMETIC = 0.35  # of a multiply-add's time: one operation
MOVED = 0.42  # one vector read or written
MARGIN = 1.1  # what the transforms must win by
PER_TASK = 200.0  # tables of a task, and its start
# In a network some 60 kilobytes of unrolled code come from the third-level cache or from memory in every run, and the
# spectra, frequency by frequency, at half the bandwidth: a depthwise kernel of 2 to 12 blocks takes 30 to 110
# microseconds more there than alone, where direct summation takes 3 to 20 more.
CODE_SECONDS = 30e-6
SPECTRA_BANDWIDTH = 0.5  # of the memory's


class Transforms(Protocol):
    """What tile records of both kinds of convolution have in common."""

    @property
    def block(self) -> int: ...
    @property
    def lanes(self) -> int: ...
    @property
    def high(self) -> tuple[int, int]: ...
    @property
    def wide(self) -> tuple[int, int]: ...


def fft_algorithm(
    name: str,
    applies: Callable[[ConvProblem, Target], str | None],
    best: Callable[[ConvProblem, Target], Any],
    error: float,
    **rest: Any,
) -> Algorithm:
    """What both kinds of convolution declare alike. `error`: in units of the last place of the largest result."""
    return Algorithm(
        name=name,
        op="conv",
        applies=applies,
        tiles_for=tiles_or_error(name, best, applies),
        scratch=scratch,
        error_bound=lambda p, target: error * 2.0**-23,
        exact=False,
        weight_op="fft_weights",
        anchor_op="fft_conv",
        attrs_for=attrs_for,
        **rest,
    )


@dataclass(frozen=True)
class FftTile:
    """Transforms of high[0] * high[1] rows and wide[0] * wide[1] columns, in two steps of these radices; `lanes`
    channels of the block in a vector. `parallel`: tiles run on the threads."""

    block: int
    lanes: int
    high: tuple[int, int]
    wide: tuple[int, int]
    parallel: bool


def attrs_for(p: ConvProblem, tile: Transforms) -> FftAttrs:
    """What the weights are prepared for."""
    lengths = math.prod(tile.high), math.prod(tile.wide)
    return FftAttrs(lengths, p.size, p.kernel, p.pads, p.dilations, p.groups)


def unserved(p: ConvProblem, target: Target) -> str | None:
    """Why no transform serves a problem, or None."""
    if target.kind != "cpu":
        return f"it is for CPUs, and {target.name} is of kind {target.kind}"
    if p.rank != 2:
        return f"it is for two spatial axes, got {p.rank}"
    if any(s != 1 for s in p.strides):
        return f"strides must be 1: others throw away what a transform makes, got {p.strides}"
    if p.dtype != "f32":
        return f"it is for f32, got {p.dtype}"
    if math.prod(p.kernel) == 1:
        return "the kernel must have several taps, got 1"
    if min(p.out) < 1:
        return f"the output must have at least one pixel, got {p.out}"
    if not all(radices_for(p, k) for k in range(p.rank)):
        return f"a transform of at most {max(_lengths())} points must hold the taps, got kernel {p.kernel}"
    return None


def declines(p: ConvProblem, target: Target) -> str | None:
    """Why not, for a filter of every channel, or None."""
    if p.groups == 1 or p.groups != p.ic or p.oc != p.ic:
        return f"every channel must be a group of its own, got {p.ic} channels, {p.oc} outputs, {p.groups} groups"
    reason = unserved(p, target)
    if reason is None and best_tile(p, target) is None:
        reason = f"the spectrum of a tile must fit {STACK >> 10} KB of stack, got kernel {p.kernel}"
    return reason


def scratch(p: ConvProblem, target: Target, tile: Transforms) -> int:
    """Bytes of stack a thread needs: the spectrum of a tile, and lines."""
    ty, tx = math.prod(tile.high), math.prod(tile.wide)
    numbers = 2 * ((tx // 2 + 1) * (ty + ty % 2) + 2 * tx + 1 + ty)
    return ITEMSIZE * (numbers * tile.lanes + 2 * (tx + ty))


class _Counted:
    """A number that counts the operations made with it; a product that is added is one fused operation."""

    count = 0.0

    def __add__(self, other: Any) -> _Counted:
        _Counted.count += 1
        return self

    __sub__ = __mul__ = __add__


@lru_cache
def _codelet(n: int) -> float:
    """Operations of a straight-line transform of n points."""
    _Counted.count = 0.0
    one = _Counted()
    transform([(one, one)] * n, 1, lambda value: value)
    return _Counted.count


@lru_cache
def line_slots(radices: tuple[int, int]) -> float:
    """Slots of a transform in two steps: operations, and vectors read and written."""
    r, s = radices
    return ARITHMETIC * (s * _codelet(r) + r * _codelet(s) + 6 * (r - 1) * s) + MOVED * 8 * r * s


def radices_of(length: int) -> list[tuple[int, int]]:
    """The ways to transform so many points in two steps."""
    known = {(r, length // r) for r in RADICES if length % r == 0 and length // r in RADICES}
    return sorted(known | {_lengths()[length]})


@lru_cache
def _lengths() -> dict[int, tuple[int, int]]:
    """For every length the radices that take least."""
    best: dict[int, tuple[int, int]] = {1: (1, 1), 2: (1, 2), 3: (1, 3)}
    for r in RADICES:
        for s in RADICES:
            if r * s not in best or line_slots((r, s)) < line_slots(best[r * s]):
                best[r * s] = (r, s)
    return best


def rows_slots(axes: tuple[Axis, Axis], wide: tuple[int, int]) -> tuple[float, float]:
    """Slots of a tile's rows, forward and back."""
    half = axes[1].length // 2 + 1
    one = line_slots(wide) + (4 * ARITHMETIC + 8 * MOVED) * half
    return -(-axes[0].filled // 2) * one, -(-axes[0].step // 2) * one


def _slots(p: ConvProblem, tile: FftTile) -> float:
    """Slots of a tile of a block of channels (of `lanes` of them)."""
    high, wide = attrs_for(p, tile).axes
    columns = (wide.length // 2 + 1) * (2 * line_slots(tile.high) + (6 * ARITHMETIC - 2 * MOVED) * high.length)
    return sum(rows_slots((high, wide), tile.wide)) + columns


def cost(p: ConvProblem, target: Target, tile: FftTile) -> Cost:
    """Time of a depthwise convolution: transforms, or bytes where those take longer."""
    axes = attrs_for(p, tile).axes
    blocks = -(-p.ic // tile.block)
    tasks = p.batch * blocks * (tile.block // tile.lanes) * axes[0].count * axes[1].count
    threads = target.threads if tile.parallel else 1
    slot = 2 * target.lanes() / (target.gflops_per_core * 1e9)
    busy = -(-tasks // threads) * (_slots(p, tile) + PER_TASK) * slot
    spectra = 2.0 * ITEMSIZE * blocks * tile.block * (axes[1].length // 2 + 1) * axes[0].length
    pixels = float(ITEMSIZE * p.batch * blocks * tile.block * (math.prod(p.size) + math.prod(p.out)))
    loaded = CODE_SECONDS + spectra / (SPECTRA_BANDWIDTH * target.gbytes_per_second * 1e9)
    memory = loaded + memory_seconds(target, pixels, 1 / threads)
    seconds = MARGIN * busy + memory + (FORK_SECONDS if tile.parallel else 0.0)
    return Cost(seconds, 2.0 * p.macs, spectra + pixels)


@lru_cache(maxsize=4096)
def best_tile(p: ConvProblem, target: Target) -> FftTile | None:
    """The tile of least cost, None where no transform holds the taps."""
    return least(_candidates(p, target), lambda tile: cost(p, target, tile).seconds)


def candidates(p: ConvProblem, target: Target) -> Iterator[FftTile]:
    """Tiles worth measuring: other radices, of the same lengths, since the weights are prepared for those."""
    best = best_tile(p, target)
    if best is None:
        return iter(())
    tiles = [
        replace(best, high=high, wide=wide)
        for high in radices_of(math.prod(best.high))
        for wide in radices_of(math.prod(best.wide))
    ]
    return varied(tiles, lambda tile: cost(p, target, tile).seconds, lambda tile: (tile.high, tile.wide))


def _candidates(p: ConvProblem, target: Target) -> Iterator[FftTile]:
    lanes = min(target.block, target.lanes())
    limit = min(STACK, target.l2 * 3 // 4)
    for high in radices_for(p, 0):
        for wide in radices_for(p, 1):
            tile = FftTile(target.block, lanes, high, wide, target.threads > 1)
            if scratch(p, target, tile) <= limit:
                yield tile


def radices_for(p: ConvProblem, k: int) -> list[tuple[int, int]]:
    """Radices of an axis: of the shortest lengths for so many tiles."""
    best: dict[int, tuple[float, tuple[int, int]]] = {}
    extent = p.dilations[k] * (p.kernel[k] - 1) + 1
    for length, radices in _lengths().items():
        tiles = axis(length, p.size[k], extent, p.pads[k], p.pads[p.rank + k])
        if tiles is not None and (tiles.count not in best or line_slots(radices) < best[tiles.count][0]):
            best[tiles.count] = line_slots(radices), radices
    return [radices for _, radices in best.values()]
