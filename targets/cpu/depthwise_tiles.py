"""The tile record of depthwise convolution: candidates, cost and choice. No TVM here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from cnncc.targets.algorithm import Cost
from cnncc.targets.cpu.tiling import FORK_SECONDS
from cnncc.targets.cpu.variety import least, varied
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target

STACK = 512 << 10  # bytes of scratch a thread may use
UNROLLED = 2500  # multiplications that unrolled pieces may hold: beyond, the code leaves the first-level cache
ITEMSIZE = 4  # float32


@dataclass(frozen=True)
class DepthwiseTile:
    """`pixels` outputs of a row at a time, `lanes` channels of the block in a vector. `peel`: which form (see
    depthwise.py). `chunk`: outputs of a task per spatial axis, where it pads. `split_rows`: rows are tasks (peel)."""

    block: int
    lanes: int
    pixels: int
    peel: bool
    chunk: tuple[int, ...]
    split_rows: bool = False


def cuts(p: ConvProblem, pixels: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Rows, and tiles of so many columns, of the pieces: begin and end, which are unrolled, and the middle, a loop."""
    begin, end = _overhang(p, p.rank - 1)
    tiles = -(-p.out[-1] // pixels)
    left, right = -(-begin // pixels), tiles - (p.out[-1] - end) // pixels
    columns = (left, tiles - left - right, right) if left + right < tiles else (tiles, 0, 0)
    if p.rank == 1:
        return (0, 1, 0), columns
    top, bottom = _overhang(p, p.rank - 2)
    height = p.out[-2]
    return ((top, height - top - bottom, bottom) if top + bottom < height else (height, 0, 0)), columns


def scratch(p: ConvProblem, target: Target, tile: DepthwiseTile) -> int:
    """Bytes of stack a thread needs: the padded copy of a task's input, and the accumulators."""
    if tile.peel:
        return 0
    return (_copied(p, tile.chunk) + tile.pixels) * tile.block * ITEMSIZE


def cost(p: ConvProblem, target: Target, tile: DepthwiseTile) -> Cost:
    """Time from vector operations (one per tap, and those around it) and from bytes."""
    blocks = -(-p.ic // tile.block)
    vectors = tile.block // tile.lanes * max(1, tile.lanes // target.lanes())
    if tile.peel:
        done = slots(p, target, tile)
        tasks = p.batch * blocks * (p.out[0] if tile.split_rows else 1)
    else:
        parts = math.prod(-(-o // c) for o, c in zip(p.out, tile.chunk, strict=True))
        copying = 2.5 if target.vector_bits >= 512 else 3.5
        done = parts * math.prod(tile.chunk) * (math.prod(p.kernel) * 1.05 + 2) + copying * parts * _copied(
            p, tile.chunk
        )
        tasks = p.batch * blocks * parts
    balance = -(-tasks // target.threads) * target.threads / tasks
    total = done * vectors * p.batch * blocks
    lanes = min(tile.lanes, target.lanes())
    compute = total * balance * 2 * lanes / (target.rate(lanes) * 1e9 * target.threads)
    moved = float(p.batch * blocks * tile.block * ITEMSIZE * (math.prod(p.size) + math.prod(p.out)))
    bandwidth = target.gbytes_per_second * 1e9 * (1 if moved > target.l3 // 2 else 3)
    launches = (3 if tile.split_rows else 1) if target.threads > 1 else 0
    memory = moved / bandwidth
    seconds = max(compute, memory) + 0.1 * min(compute, memory) + FORK_SECONDS * launches
    return Cost(seconds, flops=2.0 * p.macs, bytes=moved)


def slots(p: ConvProblem, target: Target, tile: DepthwiseTile) -> float:
    """Multiply-adds that one plane of the peeled form takes the time of."""
    inside = math.prod(_inside(p, axis) for axis in range(p.rank))  # taps in the padding cost nothing here
    return inside * _inefficiency(p, target, tile) + 2 * math.prod(p.out)


@lru_cache(maxsize=4096)
def peeled(p: ConvProblem, target: Target) -> DepthwiseTile | None:
    """The tile of the peeled form that is the least work, None where it would be too much code. Of those that leave
    registers for what follows (see `crowded`)."""
    found = [t for t in _candidates(p, target) if t.peel and not t.split_rows and not crowded(p, t)]
    return min(found, key=lambda t: slots(p, target, t) / target.rate(t.lanes), default=None)


def crowded(p: ConvProblem, tile: DepthwiseTile) -> bool:
    """Whether the peeled form keeps the sums of many pixels in registers beside the weights of a large window."""
    return tile.pixels >= 4 and math.prod(p.kernel) > 12 and p.strides[-1] == 1


@lru_cache(maxsize=4096)
def best_tile(p: ConvProblem, target: Target) -> DepthwiseTile | None:
    """The tile of least cost, None where no copy of an input fits the stack."""
    return least(_candidates(p, target), lambda tile: cost(p, target, tile).seconds)


def candidates(p: ConvProblem, target: Target) -> Iterator[DepthwiseTile]:
    """Tiles worth measuring: forms and widths of a row first, then what a task holds."""
    return varied(
        _candidates(p, target),
        seconds=lambda tile: cost(p, target, tile).seconds,
        kind=lambda tile: (tile.pixels, tile.peel, tile.split_rows),
    )


def _candidates(p: ConvProblem, target: Target) -> Iterator[DepthwiseTile]:
    b, lanes = target.block, min(target.block, target.lanes())
    limit = min(STACK, target.l2 // 2)
    widths = [w for w in (8, 7, 6, 5, 4, 2, 1) if w <= p.out[-1]]
    for pixels in sorted(widths, key=lambda w: p.out[-1] % w != 0):
        padded = [DepthwiseTile(b, lanes, pixels, False, chunk) for chunk in _chunks(p, pixels)]
        padded = [tile for tile in padded if scratch(p, target, tile) <= limit]
        yield from padded
        if p.rank <= 2 and padded:
            for split in (False, True) if p.rank == 2 and target.threads > 1 else (False,):
                tile = replace(padded[0], peel=True, split_rows=split)  # with a chunk for computed operands
                if _unrolled(p, tile) <= UNROLLED:
                    yield tile
                    if 0 < 32 * lanes // 2 == target.unit_bits and cuts(p, tile.pixels)[1][1] <= 1:
                        yield replace(tile, lanes=lanes // 2)


def _chunks(p: ConvProblem, pixels: int) -> list[tuple[int, ...]]:
    """Outputs of a task: whole rows and planes first, then parts; one at a time of a third axis."""
    across = _parts(p.out[-1], pixels)
    if p.rank == 1:
        return [(x,) for x in across]
    return [(*(1,) * (p.rank - 2), y, x) for x in across for y in _parts(p.out[-2], 1)]


def _parts(total: int, unit: int) -> list[int]:
    """Sizes of up to 32 equal parts of `total`, and a single unit, largest first; the last part may overhang."""
    units = -(-total // unit)
    return sorted({-(-units // k) * unit for k in (*range(1, 33), units)}, reverse=True)


def _overhang(p: ConvProblem, axis: int) -> tuple[int, int]:
    """Outputs at the begin and at the end of an axis whose windows leave the input."""
    reach = (p.kernel[axis] - 1) * p.dilations[axis]
    begin = min(p.out[axis], -(-p.pads[axis] // p.strides[axis]))
    whole = (p.size[axis] + p.pads[axis] - reach - 1) // p.strides[axis] + 1
    return begin, p.out[axis] - max(begin, min(p.out[axis], whole))


@lru_cache(maxsize=256)
def _inside(p: ConvProblem, axis: int) -> int:
    """Pairs of an output and a tap along an axis that meet the input and not its padding."""
    k, s, d, begin, size = (v[axis] for v in (p.kernel, p.strides, p.dilations, p.pads, p.size))
    return sum(0 <= o * s + tap * d - begin < size for o in range(p.out[axis]) for tap in range(k))


def _unrolled(p: ConvProblem, tile: DepthwiseTile) -> int:
    """Multiplications in the code of the peeled form."""
    rows, columns = cuts(p, tile.pixels)
    written = rows[0] + rows[2] + (1 if rows[1] else 0)
    return written * (columns[0] + columns[2] + (1 if columns[1] else 0)) * tile.pixels * math.prod(p.kernel)


def _inefficiency(p: ConvProblem, target: Target, tile: DepthwiseTile) -> float:
    """Slots per tap of the peeled form: worst where a loop keeps more weights and sums than there are registers."""
    held = math.prod(p.kernel) * max(1, tile.lanes // target.lanes())
    loads = 1.0 if target.vector_bits >= 512 else 1.35  # a load for each multiplication; narrow ports are shared
    if held + 2 * tile.pixels + p.kernel[-1] + 1 <= target.vector_registers:
        return loads * (1.0 + 0.1 / tile.pixels)
    if cuts(p, tile.pixels)[1][1] <= 1:
        if target.vector_bits < 512:
            return loads * (1.1 + 0.1 / tile.pixels)
        if tile.lanes == target.lanes():
            return 1.9  # LLVM holds as many weights as it can, and the sums move to the stack
        return 1.1 if p.strides[-1] == 1 else 1.45
    if held > 12 and (tile.pixels > 1 or held > target.vector_registers):
        return loads * 2.0
    return loads * (1.4 if target.vector_bits >= 512 else 1.3)


def _copied(p: ConvProblem, chunk: tuple[int, ...]) -> int:
    """Pixels of the padded input that a task of this size reads."""
    return math.prod(
        (c - 1) * s + d * (k - 1) + 1 for c, s, d, k in zip(chunk, p.strides, p.dilations, p.kernel, strict=True)
    )
