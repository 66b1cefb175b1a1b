"""Grouped convolution of narrow groups, whole ones in a block: every lane multiplies its own group's input.

out[n, o, y, l] = sum_{k, r} s[n, o, r, y*s + k*d, l] * w[o, r, k, l], where s repeats the r-th channel of each group of
the block over the group's lanes. It is made in scratch, padded, once per block; no product is with a zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import Any

from cnncc.targets.algorithm import Algorithm, Cost
from cnncc.targets.cpu import common, tiling
from cnncc.targets.cpu.tiling import (
    FORK_SECONDS,
    FROM_L2,
    LATENCY,
    PER_TASK,
    PER_TILE,
    ConvTile,
    ceil_div,
    covered,
    divisors,
    memory_seconds,
)
from cnncc.targets.cpu.variety import varied
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target

ACCUMULATORS = {16: 8, 32: 12}  # by registers: the pixels that taps share stay in registers too

PER_SPREAD = 1.2  # multiply-adds' time of storing a channel to the lanes of its group


def applies(problem: ConvProblem, target: Target) -> str | None:
    """Why not, or None: float32, several groups, of which a block of output channels holds a whole number above one."""
    b, width = target.block, problem.oc // problem.groups
    if problem.dtype != "f32":
        return f"it is for f32, got {problem.dtype}"
    if min(problem.out) < 1:
        return f"it needs an output of at least one pixel, got {problem.out}"
    if problem.groups == 1 or b % width or width == b:
        return f"a block of {b} output channels must hold several whole groups, got {problem.groups} of {width}"
    if problem.ic == problem.groups and width == 1:
        return "a group for every channel is the depthwise convolution's"
    return tiling.unfit(problem, problem.ic // problem.groups * b)


@lru_cache(maxsize=1024)
def tiles_for(problem: ConvProblem, target: Target) -> ConvTile:
    """The tile with the least modelled time: a row's pixels, one block; the group whose copies stay near."""
    return min(_tiles(problem, target), key=lambda tile: cost(problem, target, tile).seconds)


def candidates(problem: ConvProblem, target: Target) -> Iterator[ConvTile]:
    """Tiles worth measuring."""
    tiles = _tiles(problem, target)
    return varied(tiles, seconds=lambda tile: cost(problem, target, tile).seconds, kind=lambda tile: tile.pixels)


def _tiles(problem: ConvProblem, target: Target) -> list[ConvTile]:
    most = ACCUMULATORS[16 if target.vector_registers < 32 else 32] * target.lanes() // target.block
    axes = [divisors(o) for o in problem.out]
    depth = problem.ic // problem.groups * target.block
    groups = sorted(product(*axes), key=math.prod, reverse=True)
    fitting = [g for g in groups if tiling.copied(problem, g, depth) <= tiling.SCRATCH]
    return [
        ConvTile((1,) * (problem.rank - 1) + (pixels,), 1, group, chunk, target.block, True, parallel)
        for group in fitting or groups[-1:]
        for pixels in range(1, min(most, group[-1]) + 1)
        for chunk in divisors(ceil_div(problem.oc, target.block))
        for parallel in ((False, True) if target.threads > 1 else (False,))
    ]


def cost(problem: ConvProblem, target: Target, tile: ConvTile) -> Cost:
    """Time of the register tiles and of spreading the input, or memory's."""
    v = tile.block // target.lanes()
    taps, stride = problem.kernel[-1], problem.strides[-1]
    narrow = problem.ic // problem.groups
    near = scratch(problem, target, tile) <= target.l1 * 3 // 4
    load = 1.0 if near else 4 * target.lanes() / FROM_L2

    def row(pixels: int) -> float:
        """Time of a register tile."""
        shared = (pixels - 1) * stride + taps if stride < taps and problem.dilations[-1] == 1 else pixels * taps
        step = max(pixels * taps * v, (shared * load + taps) * v, LATENCY) + 1.0
        return narrow * math.prod(problem.kernel[:-1]) * step + PER_TILE * pixels * v

    whole, rest = divmod(tile.group[-1], tile.pixels[-1])
    rows = math.prod(tile.group[:-1])
    tiles = rows * (whole * row(tile.pixels[-1]) + (row(rest) if rest else 0.0))
    spread = math.prod(covered(problem, tile.group)) * narrow * tile.block * problem.groups / problem.oc * PER_SPREAD
    work = tile.chunk * (tiles + spread)
    groups = math.prod(o // g for o, g in zip(problem.out, tile.group, strict=True))
    tasks = problem.batch * groups * ceil_div(problem.oc, tile.block) // tile.chunk
    rounds = ceil_div(tasks, target.threads) if tile.parallel else tasks
    unit = target.lanes() * 2 / (target.gflops_per_core * 1e9)
    busy = rounds * (work + PER_TASK) * unit + (FORK_SECONDS if tile.parallel else 0.0)
    moved = 4.0 * problem.batch * (problem.ic * math.prod(problem.size) + problem.oc * math.prod(problem.out))
    return Cost(max(busy, memory_seconds(target, moved, rounds / tasks)), 2.0 * problem.macs, moved)


def scratch(problem: ConvProblem, target: Target, tile: ConvTile) -> int:
    """Bytes of a task's spread input of one block."""
    return tiling.copied(problem, tile.group, problem.ic // problem.groups * tile.block)


def define(problem: ConvProblem, tile: ConvTile, x: Any, w: Any, finish: common.Finish) -> Any:
    """Stages "spread", "acc", "out"."""
    from tvm import te, tirx

    r, b = problem.rank, tile.block
    i64, shape = common.i64, common.shape
    n, oc = common.batch_of(problem, x), ceil_div(problem.oc, b)
    narrow, width = problem.ic // problem.groups, problem.oc // problem.groups
    extent, begin = covered(problem, problem.out), problem.pads[:r]

    def spread(n: Any, o: Any, k: Any, *rest: Any) -> Any:
        group = o * i64(b // width) + rest[r] // i64(width)
        where = common.inside(rest[:r], problem.size, extent, begin)
        if problem.groups % (b // width):  # the last block has lanes beyond the last group
            where.append(group < i64(problem.groups))
        channel = group * i64(narrow) + k
        at = (i - i64(p) for i, p in zip(rest[:r], begin, strict=True))
        value = x(n, channel // i64(b), *at, channel % i64(b))
        return tirx.if_then_else(tirx.all(*where), value, tirx.const(0.0, "float32")) if where else value

    made = te.compute(shape(n, oc, narrow, *extent, b), spread, name="spread")
    (k,), taps = common.reduce_axes("c", [narrow]), common.reduce_axes("k", problem.kernel)

    def total(n: Any, o: Any, *rest: Any) -> Any:
        pixel = made(n, o, k, *common.window(problem, rest[:r], taps), rest[r])
        return te.sum(pixel * w(o, k, *taps, rest[r]), axis=[*taps[:-1], k, taps[-1]])

    acc = te.compute(shape(n, oc, *problem.out, b), total, name="acc")
    return common.finished(acc, b, finish)


def schedule(sch: Any, problem: ConvProblem, tile: ConvTile, target: Target) -> None:
    """`common.schedule_tile`; a channel is stored to all lanes of its group at once."""
    common.schedule_tile(sch, problem, tile)
    width = problem.oc // problem.groups
    group, lanes = sch.split(sch.get_loops("spread")[-1], [None, width])
    sch.unroll(group)
    if width > 1:
        sch.vectorize(lanes)


ALGORITHM = Algorithm(
    name="lanes",
    op="conv",
    applies=applies,
    layouts=common.by_output,
    tiles_for=tiles_for,
    cost=cost,
    define=define,
    schedule=schedule,
    scratch=scratch,
    candidates=candidates,
)
