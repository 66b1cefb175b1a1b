"""A max pool behind a tiled convolution, in one kernel: what lies between them never reaches memory.

A task makes a few rows of the pool. The rows of the convolution under them are computed into scratch, tile by register
tile, and pooled from there. Where windows overlap, neighbouring tasks both compute the rows between them: the cost of
that decides how many rows a task makes, or against the fusion. Columns are rounded up to whole register tiles; rows and
columns that do not exist are computed from padding, and not read or -inf.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from cnncc.targets.algorithm import Cost
from cnncc.targets.cpu import common, tiling
from cnncc.targets.cpu.tiling import ConvTile, Reduction, ceil_div, covered, divisors
from cnncc.targets.cpu.variety import varied
from cnncc.targets.problem import ConvProblem, PoolBehind
from cnncc.targets.target import Target

TAPS_PER_SECOND = 3e9  # vectors that a core reads from scratch and compares


def applies(problem: ConvProblem, target: Target, reduction: Reduction) -> str | None:
    """Why not, or None: more than one spatial axis, windows that follow one another or overlap, rows that fit."""
    pool = problem.behind
    assert pool is not None
    if problem.rank == 1:
        return "the convolution has one spatial axis"
    if any(s > k or p >= k for s, k, p in zip(pool.strides, pool.kernel, pool.begin, strict=True)):
        return f"the pool's windows must follow one another or overlap, and not lie in the padding, got {pool}"
    if next(tiles(problem, target, reduction), None) is None:
        return f"the rows under one row of the pool must fit {target.l2 // 2} bytes of scratch, got {problem}"
    return None


def kept(group: tuple[int, ...], vectors: int, block: int) -> int:
    """Bytes of the rows of a task."""
    return 4 * vectors * block * math.prod(group)


def under(pool: PoolBehind, rows: int) -> int:
    """Rows of the convolution under so many rows of the pool."""
    return (rows - 1) * pool.strides[0] + pool.kernel[0]


def tiles(problem: ConvProblem, target: Target, reduction: Reduction) -> Iterator[ConvTile]:
    """The ways to cut a problem."""
    pool = problem.behind
    assert pool is not None
    limit = target.l2 // 2
    for rows in divisors(pool.out[0]):
        for pixels, vectors in tiling.register_tiles(problem, target, reduction):
            if any(p > 1 for p in pixels[:-1]):
                continue
            columns = ceil_div(problem.out[-1], pixels[-1]) * pixels[-1]
            group = (under(pool, rows), *problem.out[1:-1], columns)
            if (
                kept(group, vectors, target.block) > limit
                or tiling.copied(problem, group, reduction.depth) > tiling.SCRATCH
            ):
                continue
            copy = any(problem.pads) or any(pool.begin) or _beyond(problem, rows, columns)
            for chunk in (vectors * d for d in divisors(reduction.blocks // vectors)):
                for parallel in (False, True) if target.threads > 1 else (False,):
                    yield ConvTile(pixels, vectors, group, chunk, target.block, copy, parallel, rows)


def _beyond(problem: ConvProblem, rows: int, columns: int) -> bool:
    """Whether a task computes results that do not exist, and may read behind the input for them."""
    assert problem.behind is not None
    last = problem.behind.out[0] // rows
    reached = (last - 1) * rows * problem.behind.strides[0] + under(problem.behind, rows)
    return reached > problem.out[0] or columns > problem.out[-1]


def cost(problem: ConvProblem, target: Target, reduction: Reduction, tile: ConvTile) -> Cost:
    """Time of the convolution of all tasks, with the rows that two of them compute, and of the pool in the cache."""
    pool = problem.behind
    assert pool is not None
    zeros = (0,) * (2 * problem.rank)
    tasks = problem.batch * (pool.out[0] // tile.rows)
    size = covered(problem, tile.group)
    block = replace(problem, n=tasks, size=size, pads=zeros, behind=None)
    results = problem.batch * problem.oc * math.prod(pool.out)
    base = tiling.conv_cost(block, target, reduction, tile, written=4.0 * results)
    busy = target.threads if tile.parallel else 1
    taps = results * math.prod(pool.kernel) / (busy * TAPS_PER_SECOND * target.lanes())
    return Cost(base.seconds + taps, base.flops, base.bytes)


@lru_cache(maxsize=256)
def choose(problem: ConvProblem, target: Target, reduction: Reduction) -> ConvTile:
    """The tile with the least modelled time."""
    return min(tiles(problem, target, reduction), key=lambda tile: cost(problem, target, reduction, tile).seconds)


def candidates(problem: ConvProblem, target: Target, reduction: Reduction) -> Iterator[ConvTile]:
    """Tiles worth measuring."""
    return varied(
        tiles(problem, target, reduction),
        seconds=lambda tile: cost(problem, target, reduction, tile).seconds,
        kind=lambda tile: (tile.pixels, tile.vectors),
    )


def pixels(problem: ConvProblem, tile: ConvTile) -> tuple[tuple[int, ...], Callable[[Sequence[Any]], list[Any]]]:
    """Extents of the sums: task, row in it, columns; and where the convolution's virtual output has such a pixel."""
    pool = problem.behind
    assert pool is not None
    step = common.i64(tile.rows * pool.strides[0])
    return (pool.out[0] // tile.rows, *tile.group), lambda at: [at[0] * step + at[1], *at[2:]]


def padded(problem: ConvProblem, tile: ConvTile, x: Any, lead: int, tail: int) -> Any:
    """The stage "pad" for all rows and columns that tasks compute."""
    pool = problem.behind
    assert pool is not None
    first = problem.pads[0] + pool.begin[0] * problem.strides[0]
    rows = (pool.out[0] - tile.rows) * pool.strides[0] + tile.group[0]
    return common.padded(problem, x, lead, tail, (rows, *tile.group[1:]), (first, *problem.pads[1 : problem.rank]))


def result(problem: ConvProblem, tile: ConvTile, acc: Any, finish: common.Finish) -> Any:
    """Stages "rows" (the sums, -inf where there are none) and "out"."""
    from itertools import product

    from tvm import te, tirx

    from cnncc.targets.cpu.pool import maximum

    pool = problem.behind
    assert pool is not None
    i64, b, r = common.i64, tile.block, problem.rank
    step, above = tile.rows * pool.strides[0], pool.begin[0]
    lowest = tirx.const(float("-inf"), "float32")
    highest = (pool.out[0] - tile.rows) * pool.strides[0] + tile.group[0]  # virtual rows

    def stored(n: Any, o: Any, t: Any, row: Any, *rest: Any) -> Any:
        y = t * i64(step) + row
        tests = [y >= i64(above)] * (above > 0) + [y < i64(above + problem.out[0])] * (highest - above > problem.out[0])
        value = acc(n, o, t, row, *rest)
        return tirx.Select(tirx.all(*tests), value, lowest) if tests else value

    rows = te.compute(acc.shape, stored, name="rows")

    def pooled(n: Any, o: Any, y: Any, *rest: Any) -> Any:
        *at, lane = rest
        value: Any = None
        for taps in product(*(range(k) for k in pool.kernel)):
            places = [y % i64(tile.rows) * i64(pool.strides[0]) + i64(taps[0])]
            for axis, (x, tap) in enumerate(zip(at, taps[1:], strict=True), 1):
                place = x * i64(pool.strides[axis]) + i64(tap - pool.begin[axis])
                if pool.begin[axis] > tap:
                    place = tirx.max(place, i64(0))
                if (pool.out[axis] - 1) * pool.strides[axis] + tap - pool.begin[axis] >= problem.out[axis]:
                    place = tirx.min(place, i64(problem.out[axis] - 1))
                places.append(place)
            read = rows(n, o, y // i64(tile.rows), *places, lane)
            value = read if value is None else maximum(value, read, "f32")
        return finish(value, (n, o * i64(b) + lane, y, *at))

    assert len(acc.shape) == r + 4
    return te.compute(common.shape(acc.shape[0], acc.shape[1], *pool.out, b), pooled, name="out")


def schedule(sch: Any, problem: ConvProblem, tile: ConvTile) -> None:
    """Tasks (batch, rows of the pool, chunks of output channels); in them rows of register tiles, then the pool."""
    from cnncc.targets.cpu.blocks import reduces

    r = problem.rank
    out, rows, acc = (sch.get_sblock(name) for name in ("out", "rows", "acc"))
    n, oc, y, *columns, lanes = sch.get_loops(out)
    task, y_in = sch.split(y, [None, tile.rows])
    oc_task, oc_tile, oc_in = sch.split(oc, [None, tile.chunk // tile.vectors, tile.vectors])
    sch.reorder(n, task, oc_task, oc_tile, oc_in, y_in, *columns, lanes)
    task = sch.fuse(n, task, oc_task)

    sch.compute_at(rows, oc_tile, preserve_unit_loops=True)
    sch.set_scope(rows, 0, "local")
    o, _, *outer, column, lane = sch.get_loops(rows)[-r - 4 + 1 :]
    several, one = sch.split(column, [None, tile.pixels[-1]])
    sch.reorder(*outer, several, one, o, lane)
    sch.compute_at(acc, several, preserve_unit_loops=True)
    sch.set_scope(acc, 0, "local")
    if common.has_block(sch, "pad"):
        pad = sch.get_sblock("pad")
        sch.compute_at(pad, task, preserve_unit_loops=True)
        sch.set_scope(pad, 0, "local")
    if tile.parallel:
        sch.parallel(task)

    inner = sch.get_loops(acc)[len(sch.get_loops(rows)) - 3 :]
    steps = [loop for loop in inner if reduces(sch, acc, loop)]
    *unit, inner_lane = inner[: len(inner) - len(steps)]
    sch.reorder(*steps, *unit, inner_lane)
    for loop in (*unit, one, o):
        sch.unroll(loop)
    for loop in (inner_lane, lane, lanes):
        sch.vectorize(loop)
    init = sch.decompose_reduction(acc, steps[0])
    *init_inner, init_lanes = sch.get_loops(init)[-len(unit) - 1 :]
    for loop in init_inner:
        sch.unroll(loop)
    sch.vectorize(init_lanes)
