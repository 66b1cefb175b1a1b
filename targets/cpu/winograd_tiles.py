"""Winograd's tile record: which tiles there are for a problem, what each costs, and the choice. No TVM here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

from cnncc.ops.winograd_matrices import axes, side
from cnncc.targets.algorithm import Cost
from cnncc.targets.cpu.tiling import FORK_SECONDS, IN_CACHE, STREAMED, divisors, registers
from cnncc.targets.cpu.variety import least, varied
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target

STACK = 640 << 10  # bytes of scratch a thread may use
ITEMSIZE = 4  # float32
FRESH = 2.0  # slots in which a vector of transformed weights is made in registers
NEARLY, ENOUGH = 1.4, 5.5  # times the least growth of errors, up to this one, that sums apart are given up for


@dataclass(frozen=True)
class WinogradTile:
    """A task transforms th x tw tiles (each of m outputs along an axis of several taps, of one along one of a single
    tap; in 1-D, th is 1) of all input channels (in 3-D: of all planes that an output plane needs, as if each had
    channels of its own), and makes `share` blocks of output channels from them, `panel` blocks at a time; the
    accumulators are rh x rw tiles x panel blocks. So many blocks of input channels as `part` are summed apart.
    `fresh`: weights are transformed in the kernel, a row of the transform at a time, and the accumulators are those of
    such a row."""

    m: int
    block: int
    th: int
    tw: int
    rh: int
    rw: int
    panel: int
    share: int
    part: int
    fresh: bool = False


@dataclass(frozen=True)
class Axis:
    """A tile along an axis: outputs, taps, how many tiles make the result."""

    m: int
    taps: int
    tiles: int

    @cached_property
    def alpha(self) -> int:
        """Inputs of a tile."""
        return self.m + self.taps - 1

    @cached_property
    def plain(self) -> bool:
        """Whether nothing is transformed."""
        return self.taps == 1

    def inputs(self, tiles: int) -> int:
        """Inputs of so many neighbouring tiles."""
        return tiles * self.m + self.taps - 1


@lru_cache(maxsize=4096)
def tile_axes(p: ConvProblem, m: int) -> tuple[Axis, Axis]:
    """The last two axes; a 1-D convolution has one row."""
    last = [
        Axis(side(m, taps), taps, -(-out // side(m, taps)))
        for taps, out in zip(p.kernel[-axes(p.rank) :], p.out[-axes(p.rank) :], strict=True)
    ]
    y, x = last if len(last) == 2 else (Axis(1, 1, 1), *last)
    return y, x


def channel_blocks(p: ConvProblem, block: int) -> int:
    """Blocks of input channels that an output plane sums over: in 3-D those of every tap in depth."""
    return prod(p.kernel[: -axes(p.rank)]) * -(-p.ic // block)


def partial_blocks(p: ConvProblem, target: Target) -> int:
    """Blocks of input channels that are summed apart, of the divisors of them all: the most with which errors are
    nearly as small as they can be, since each sum costs additions and stores; as small as they can be where the
    transforms of 5 taps and more along both axes amplify them.

    LLVM unrolls a sum of 8 products beyond the registers, on NEON one of 16."""
    total, block = channel_blocks(p, target.block), target.block
    channels = 24 if target.fma and target.vector_bits == 128 else 16
    least = min(total, -(-channels // block))
    grown = {d: _growth(d * block, total * block) for d in divisors(total) if d >= least}
    best = min(grown.values())
    sensitive = p.rank > 1 and min(p.kernel[-2:]) > 3
    return max(
        d for d, growth in grown.items() if growth == best or (growth <= min(NEARLY * best, ENOUGH) and not sensitive)
    )


def growth(p: ConvProblem, target: Target) -> float:
    """How rounding errors grow with the number of input channels, summed in two levels."""
    return _growth(partial_blocks(p, target) * target.block, channel_blocks(p, target.block) * target.block)


def _growth(part: int, total: int) -> float:
    """Of equal terms: errors of a sum of n grow with n^1.5, those of independent sums add up as squares; the result, an
    odd number of such terms, grows with the root of n at least."""
    apart = total / math.sqrt(part) if part < total else 0.0
    return (part + apart) / math.sqrt(total)


def scratch(p: ConvProblem, target: Target, tile: WinogradTile) -> int:
    """Bytes of stack a thread needs: padded input, its row transform, the transforms of a task, products, outputs."""
    return _scratch(*tile_axes(p, tile.m), channel_blocks(p, tile.block), tile)


def _scratch(y: Axis, x: Axis, ib: int, tile: WinogradTile) -> int:
    tiles = tile.th * tile.tw
    pad = y.inputs(tile.th) * x.inputs(tile.tw)
    rows = 0 if y.plain or x.plain else y.alpha * x.inputs(tile.tw)
    columns = y.alpha * x.alpha * tiles * ib
    apart = 0 if tile.part == ib else tile.rh * tile.rw
    product = (y.alpha * x.alpha * tiles + apart) * tile.panel
    back = (0 if y.plain or x.plain else y.m * x.alpha) + y.m * x.m
    weights = x.alpha + x.taps if tile.fresh else 0
    return (pad + rows + columns + product + back + weights) * tile.block * ITEMSIZE


def cost(p: ConvProblem, target: Target, tile: WinogradTile) -> Cost:
    """Time from slots (one vector FMA each) and bytes; the weights come from memory once, then from a cache."""
    y, x = tile_axes(p, tile.m)
    alpha = y.alpha * x.alpha
    ib, ob = channel_blocks(p, tile.block), -(-p.oc // tile.block)
    vectors = max(1, tile.block // target.lanes())
    tiles = tile.th * tile.tw
    blocks = p.batch * prod(p.out[: -axes(p.rank)]) * -(-y.tiles // tile.th) * -(-x.tiles // tile.tw)
    tasks = blocks * (ob // tile.share)

    step = _step(ib, target, tile)
    steps = alpha * ib * tile.block * (tiles // (tile.rh * tile.rw)) * (tile.share // tile.panel)
    transforms = tiles * vectors * (ib * _forward_slots(y, x) + tile.share * _back_slots(y, x))
    slot = 2 * target.lanes() / (target.gflops_per_core * 1e9)
    turns = -(-tasks // target.threads)
    compute = turns * (steps * step + transforms) * slot

    memory = target.gbytes_per_second * 1e9
    weights = (y.taps * x.taps if tile.fresh else alpha) * ib * ob * tile.block**2 * ITEMSIZE
    written = p.out if p.behind is None else p.behind.out
    activations = p.batch * ITEMSIZE * tile.block * (-(-p.ic // tile.block) * prod(p.size) + ob * prod(written))
    mine = weights * tile.share // ob
    resident = mine + _scratch(y, x, ib, tile) <= target.l2
    far = memory * (STREAMED if mine * target.threads > target.l3 // 2 else IN_CACHE)
    again = 0.0 if resident else max(0.0, turns * mine - weights / target.threads) / far
    near = activations / (memory if activations > target.l3 // 2 else IN_CACHE * memory)
    moved = weights / (STREAMED * memory) + again + near
    seconds = max(compute, moved) + 0.2 * min(compute, moved) + (FORK_SECONDS if target.threads > 1 else 0.0)
    return Cost(seconds, flops=2.0 * steps * step * tasks * target.lanes(), bytes=float(weights + activations))


@lru_cache(maxsize=4096)
def best_tile(p: ConvProblem, target: Target, m: int, fresh: bool = False) -> WinogradTile | None:
    """The tile of least cost, None where even a single tile's transforms exceed the stack."""
    return least(_candidates(p, target, m, fresh), lambda tile: cost(p, target, tile).seconds)


def candidates(p: ConvProblem, target: Target, m: int, fresh: bool = False) -> Iterator[WinogradTile]:
    """Tiles worth measuring: register tiles and shares first, then the tiles of a task."""
    return varied(
        _candidates(p, target, m, fresh),
        seconds=lambda tile: cost(p, target, tile).seconds,
        kind=lambda tile: (tile.rh * tile.rw, tile.panel, tile.share),
    )


def _candidates(p: ConvProblem, target: Target, m: int, fresh: bool = False) -> Iterator[WinogradTile]:
    block = target.block
    ob = -(-p.oc // block)
    vectors = max(1, block // target.lanes())
    y, x = tile_axes(p, m)
    many = 64 if not (y.plain or x.plain) else 256  # tiles of a task
    limit = min(STACK, target.l2 * 3 // 4)
    part, ib = partial_blocks(p, target), channel_blocks(p, block)
    for th in _parts(y.tiles, 8 if not y.plain else 32):
        for tw in _parts(x.tiles, 32):
            if th * tw > many:
                continue
            for panel in (d for d in divisors(ob) if d <= 4):
                held = [
                    (rh * rw, rh, rw)
                    for rh in divisors(th)
                    for rw in divisors(tw)
                    if _held_registers(x, target, rh * rw, panel * vectors, fresh) <= target.vector_registers
                ]
                if not held:
                    continue
                _, rh, rw = max(held)
                for share in (d for d in divisors(ob) if d % panel == 0 and ob // d <= 16):
                    tile = WinogradTile(m, block, th, tw, rh, rw, panel, share, part, fresh)
                    if _scratch(y, x, ib, tile) <= limit:
                        yield tile


def _held_registers(x: Axis, target: Target, tiles: int, vectors: int, fresh: bool) -> int:
    """Registers of a register tile: one point of the transform, or a row of them with what makes its weights."""
    if fresh:
        pixels = 0 if target.vector_bits >= 512 else x.alpha * tiles  # read by the multiply-add, or held
        return x.alpha * tiles * vectors + pixels + x.taps + 3 * vectors
    return max((tiles + 1) * vectors + 2, registers(tiles, vectors, target))


def _step(ib: int, target: Target, tile: WinogradTile) -> float:
    """Slots of an input channel in a register tile: its FMAs, or what takes longer: loads, latency, bytes from L2."""
    lanes = target.lanes()
    held = tile.rh * tile.rw
    loads = tile.panel * max(1, tile.block // lanes)
    scalar = 0.5 if target.vector_bits >= 512 else 1.0  # a full-width load takes the ports of two narrow ones
    slab = ib * tile.block**2 * tile.panel * ITEMSIZE
    reused = tile.th * tile.tw // held if slab <= target.l1 // 2 else 1
    streamed = loads * lanes * ITEMSIZE / reused + held * ITEMSIZE
    if tile.fresh:
        return (held + FRESH) * loads
    half_register = target.vector_bits / 16  # bytes a slot
    alone = 1.15 if loads == 1 else 1.0  # every FMA reads its scalar from memory, where two could share a loaded one
    return max(alone * held * loads, loads + scalar * held, 8.0, streamed / half_register)


def _forward_slots(y: Axis, x: Axis) -> float:
    """Vector operations, loads and stores of one tile's input transform and of its share of the padded copy."""
    rows = 0.0 if y.plain else x.m * _forward(y) + 2 * y.alpha * x.m
    columns = 0.0 if x.plain else y.alpha * _forward(x) + 2 * y.alpha * x.alpha
    return rows + columns + 4 * y.m * x.m


def _back_slots(y: Axis, x: Axis) -> float:
    """The same of its output transform; half of it hides behind the products."""
    up = 0.0 if y.plain else x.alpha * _back(y) + 2 * x.alpha * y.m
    along = 0.0 if x.plain else y.m * _back(x) + 2 * y.m * x.m
    return 0.5 * (up + along + 2 * y.alpha * x.alpha + 2 * y.m * x.m)


def _forward(axis: Axis) -> float:
    """Operations that transform a row of alpha inputs, whatever the taps."""
    return (axis.alpha - 2) * axis.alpha / 2


def _back(axis: Axis) -> float:
    """Operations that make m outputs from a row of alpha sums."""
    return axis.m * axis.alpha / 2


def _parts(total: int, most: int) -> list[int]:
    """Sizes that cut `total` into equal parts (the last one smaller), up to `most`."""
    return sorted({-(-total // k) for k in range(1, total + 1) if -(-total // k) <= most})
