"""Tiles of the dense convolutions, chosen by a model of what bounds the innermost loop. Pure: imports no TVM.

A register tile of P pixels and V vectors of output channels does P * V multiply-adds a step, for P broadcasts and V
loads. Its time is that of the slower, plus what a tile costs once (clearing, epilogue, stores); tiles that overhang the
output waste their share. Times are in units of a vector multiply-add until `Cost`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from cnncc.targets.algorithm import Cost
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target

SCRATCH = 256 << 10  # bytes of stack a thread may use for its copy of the input
LATENCY = 8  # multiply-adds that must be independent to keep the pipelines full
PER_TILE = 2.0  # multiply-adds that clearing, finishing and storing one accumulator take the time of
PER_LOOP = 3.0  # of one run of the innermost loop: its counter, its mispredicted exit
TASK_SECONDS = 2e-6  # starting a task
FORK_SECONDS = 8e-6  # starting the threads and waiting for the last


@dataclass(frozen=True)
class ConvTile:
    """How a convolution is cut. `pixels`: output pixels of the register tile per spatial axis; `vectors`: its blocks of
    output channels. `group`: output pixels of a task per spatial axis, multiples of `pixels`; `chunk`: its blocks of
    output channels, a multiple of `vectors`. `block`: channels in a block. `copy`: a task copies its input into
    scratch, padded. `parallel`: tasks run on the threads."""

    pixels: tuple[int, ...]
    vectors: int
    group: tuple[int, ...]
    chunk: int
    block: int
    copy: bool
    parallel: bool


@dataclass(frozen=True)
class Reduction:
    """What the tile search knows of the loops inside a register tile: the steps of the innermost loop, how often it is
    run, the input channels that a pixel holds in memory, and the blocks of output channels that share an input."""

    inner: int
    outer: int
    depth: int
    blocks: int


def divisors(n: int) -> list[int]:
    """The divisors of n, ascending."""
    return [d for d in range(1, n + 1) if n % d == 0]


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def covered(problem: ConvProblem, out: tuple[int, ...]) -> tuple[int, ...]:
    """Input extents that output extents read, per spatial axis."""
    return tuple(
        (o - 1) * s + d * (k - 1) + 1
        for o, s, d, k in zip(out, problem.strides, problem.dilations, problem.kernel, strict=True)
    )


def registers(pixels: int, vectors: int) -> int:
    """Vector registers of a tile: accumulators, the weights of a step, a broadcast pixel. A tile of one vector takes
    the pixel as the memory operand of the multiply-add."""
    return pixels * vectors + vectors + (vectors > 1)


def overhangs(problem: ConvProblem, group: tuple[int, ...]) -> bool:
    """Whether groups of this size reach beyond the output."""
    return any(o % g for o, g in zip(problem.out, group, strict=True))


def scratch(problem: ConvProblem, tile: ConvTile, depth: int) -> int:
    """Bytes of a task's copy of its input."""
    return 4 * depth * math.prod(covered(problem, tile.group)) if tile.copy else 0


def register_tiles(problem: ConvProblem, target: Target, reduction: Reduction) -> Iterator[tuple[tuple[int, ...], int]]:
    """Register tiles (pixels, vectors) that need no more registers than the target has."""
    per_block = target.block // target.lanes()
    leading = (1,) * (problem.rank - 2)
    rows = range(1, min(4, problem.out[-2]) + 1) if problem.rank > 1 else (0,)
    for vectors in divisors(reduction.blocks):
        for row, column in product(rows, range(1, min(32, problem.out[-1]) + 1)):
            if registers(max(row, 1) * column, vectors * per_block) <= target.vector_registers:
                yield (*leading, row, column) if row else (column,), vectors


def tile_time(
    problem: ConvProblem, target: Target, reduction: Reduction, pixels: tuple[int, ...], vectors: int
) -> float:
    """Multiply-adds' time of one register tile's whole reduction and epilogue."""
    p, v = math.prod(pixels), vectors * target.block // target.lanes()
    step = max(p * v, p + v, LATENCY) + 0.02 * (p + v)
    weights = 4 * target.block * vectors * reduction.inner * reduction.outer
    line = target.lanes() * 4
    if weights > target.l2 // 2:
        step = max(step, v * line / 8)
    elif weights > target.l1 // 2:
        step = max(step, v * line / 24)
    return reduction.outer * (reduction.inner * step + PER_LOOP) + PER_TILE * p * v


def choose(problem: ConvProblem, target: Target, reduction: Reduction) -> ConvTile:
    """The tile with the least modelled time. Deterministic: ties go to the first in order of enumeration."""
    return _choose(problem, target, reduction)


@lru_cache(maxsize=4096)
def _choose(problem: ConvProblem, target: Target, reduction: Reduction) -> ConvTile:
    def whole(candidate: tuple[tuple[int, ...], int]) -> float:
        pixels, vectors = candidate
        tiles = math.prod(ceil_div(o, q) for o, q in zip(problem.out, pixels, strict=True)) * (
            reduction.blocks // vectors
        )
        return tiles * tile_time(problem, target, reduction, pixels, vectors)

    pixels, vectors = min(register_tiles(problem, target, reduction), key=whole)
    candidates = [
        ConvTile(pixels, vectors, group, chunk, target.block, copy, parallel)
        for group in _groups(problem, target, reduction, pixels)
        for copy in (any(problem.pads) or overhangs(problem, group),)
        for chunk in _chunks(reduction.blocks, vectors)
        for parallel in ((False, True) if target.threads > 1 else (False,))
    ]
    return min(candidates, key=lambda tile: conv_cost(problem, target, reduction, tile).seconds)


def _chunks(blocks: int, vectors: int) -> list[int]:
    return [vectors * d for d in divisors(blocks // vectors)]


def _groups(
    problem: ConvProblem, target: Target, reduction: Reduction, pixels: tuple[int, ...]
) -> list[tuple[int, ...]]:
    """Sizes of a task's group of pixels, in whole register tiles, whose input fits the scratch (at least one tile)."""
    axes = [_multiples(ceil_div(o, q), q) for o, q in zip(problem.out, pixels, strict=True)]
    limit = min(SCRATCH, target.l2 // 2)
    fitting = [g for g in product(*axes) if 4 * reduction.depth * math.prod(covered(problem, g)) <= limit]
    return fitting or [pixels]


def _multiples(tiles: int, pixels: int) -> list[int]:
    """Group extents along an axis: those that cut it evenly, and a few that overhang little."""
    counts = {ceil_div(tiles, parts) for parts in range(1, tiles + 1)}
    return sorted((c * pixels for c in counts), reverse=True)[:8] + [pixels]


def conv_cost(problem: ConvProblem, target: Target, reduction: Reduction, tile: ConvTile) -> Cost:
    """Time of a tiled convolution: the threads' register tiles and copies, or memory where that is slower."""
    v = tile.block // target.lanes()
    groups = math.prod(ceil_div(o, g) for o, g in zip(problem.out, tile.group, strict=True))
    shares = problem.groups * reduction.blocks // tile.chunk
    tasks = problem.batch * groups * shares
    tiles = math.prod(g // q for g, q in zip(tile.group, tile.pixels, strict=True)) * (tile.chunk // tile.vectors)
    work = tiles * tile_time(problem, target, reduction, tile.pixels, tile.vectors)
    streamed = 4.0 * tile.block * tile.chunk * reduction.inner * reduction.outer
    far = streamed > target.l2 // 2
    if far:  # the weights come from the third-level cache again for every task
        work = max(work, streamed / 8)
    if tile.copy:
        work += math.prod(covered(problem, tile.group)) * reduction.depth / target.lanes() * 1.5
    second = target.lanes() * 2 / (target.gflops_per_core * 1e9)
    rounds = ceil_div(tasks, target.threads) if tile.parallel else tasks
    busy = rounds * (work * second + TASK_SECONDS * 0.1) + (FORK_SECONDS if tile.parallel else 0.0)
    x = 4.0 * problem.batch * problem.ic * math.prod(problem.size)
    w = 4.0 * problem.oc * (problem.ic // problem.groups) * math.prod(problem.kernel)
    y = 4.0 * problem.batch * problem.oc * math.prod(problem.out)
    total = x + w + y
    bandwidth = target.gbytes_per_second * 1e9 * (1.0 if total > target.l3 // 2 else 3.0)
    return Cost(max(busy, total / bandwidth), 2.0 * problem.macs, total)
