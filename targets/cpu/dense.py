"""Matrix product with packed weights: y[m, n] = sum_k x[m, k] * w[n, k] (or w[k, n]).

Weights stand in panels of a few vectors of outputs, so that one row of x reads them once, in order, at the speed of
memory. More rows make register tiles of some rows times a panel; they come one after the other to the same panel, which
stays in cache meanwhile. A tile that overhangs the rows repeats the last one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cnncc.ir.layout import PLAIN, Layout
from cnncc.targets.algorithm import Algorithm, Cost, Layouts
from cnncc.targets.cpu import common
from cnncc.targets.cpu.tiling import (
    EXPOSED,
    FORK_SECONDS,
    FROM_L2,
    FROM_L3,
    PER_LOOP,
    PER_TASK,
    PER_TILE,
    STREAMED,
    ceil_div,
    divisors,
    memory_seconds,
    registers,
    step_time,
)
from cnncc.targets.cpu.variety import varied
from cnncc.targets.problem import MatmulProblem
from cnncc.targets.target import Target

SUMS = 32 << 10  # bytes of sums that a task keeps
SLOWDOWN = {1: 1.3, 2: 1.05, 3: 1.02, 4: 1.0}  # of panels of so few vectors, which wait for the multiply-add
STRIP = 8  # terms at a time for one row where weights stand as w[k, n], so that they are read in order
SYMBOLIC_ROWS = 4  # as many as cost no more than one while weights come from memory


@dataclass(frozen=True)
class DenseTile:
    """A register tile is `rows` by `panel` outputs, `lanes` of them a vector. A task makes the rows of one tile, in
    `chunk` panels, `depth` terms at a time. `parallel`: tasks run on the threads."""

    rows: int
    panel: int
    lanes: int
    chunk: int
    depth: int
    parallel: bool


def applies(problem: MatmulProblem, target: Target) -> str | None:
    """Why not, or None: float32, one product, at least one term."""
    if problem.dtype != "f32":
        return f"it is for f32, got {problem.dtype}"
    if problem.batch != 1 or problem.stacked:
        return f"it is for a single product of matrices, got {problem}"
    if min(problem.k, problem.n) < 1 or problem.m == 0:
        return f"it needs at least one row, term and output, got {problem}"
    return None


def panel_of(problem: MatmulProblem, target: Target) -> int:
    """Outputs of a panel: enough vectors to hide the latency of a multiply-add, and little padding."""
    lanes = target.lanes()
    most = 4 if target.vector_registers > 16 or problem.m == 1 else 2
    while problem.m != 1 and most > 1 and 4 * problem.k * most * lanes > target.l2 // 2:
        most -= 1  # every tile of rows reads the panel again
    return lanes * min(range(1, most + 1), key=lambda v: (ceil_div(problem.n, v * lanes) * v * SLOWDOWN[v], -v))


def layouts(problem: MatmulProblem, target: Target) -> Layouts:
    """x and y as they are; the weights' outputs in panels."""
    return Layouts(PLAIN, Layout(((0 if problem.transposed else 1, panel_of(problem, target)),)), PLAIN)


@lru_cache(maxsize=1024)
def tiles_for(problem: MatmulProblem, target: Target) -> DenseTile:
    """The tile with the least modelled time; ties go to the first."""
    return min(_tiles(problem, target), key=lambda tile: cost(problem, target, tile).seconds)


def candidates(problem: MatmulProblem, target: Target) -> Iterator[DenseTile]:
    """Tiles worth measuring."""
    tiles = _tiles(problem, target)
    return varied(tiles, seconds=lambda tile: cost(problem, target, tile).seconds, kind=lambda tile: tile.rows)


def _tiles(problem: MatmulProblem, target: Target) -> list[DenseTile]:
    panel, lanes = panel_of(problem, target), target.lanes()
    known = isinstance(problem.m, int) or problem.rows > SYMBOLIC_ROWS
    rows = range(1, min(12, problem.rows) + 1) if known else [SYMBOLIC_ROWS]
    strip = problem.m == 1 and not problem.transposed and problem.k > STRIP
    return [
        DenseTile(r, panel, lanes, chunk, STRIP if strip else problem.k, parallel)
        for r in rows
        if r == 1 or registers(r, panel // lanes, target) <= target.vector_registers
        for chunk in reversed(divisors(ceil_div(problem.n, panel)))
        if chunk == 1 or 4 * r * chunk * panel <= SUMS
        for parallel in ((False, True) if target.threads > 1 else (False,))
    ]


def cost(problem: MatmulProblem, target: Target, tile: DenseTile) -> Cost:
    """Time of the register tiles, or of bringing the weights to each of them, or memory, whichever is longest."""
    v = tile.panel // tile.lanes
    panels, tiles = ceil_div(problem.n, tile.panel), ceil_div(problem.rows, tile.rows)
    weights = 4.0 * panels * tile.panel * problem.k
    read = 4.0 * tile.chunk * tile.panel * problem.k
    parts = ceil_div(problem.k, tile.depth)
    work = tile.chunk * (problem.k * step_time(tile.rows, v) + parts * (PER_LOOP + PER_TILE * tile.rows * v))
    unit = target.lanes() * 2 / (target.gflops_per_core * 1e9)
    if tiles > 1:  # each of them reads the chunk again, from where it stays meanwhile
        near = FROM_L2 if read <= target.l2 // 2 else FROM_L3
        far = STREAMED * read * unit / memory_seconds(target, read)
        rate = near if read <= target.l3 // 2 else min(near, far)
        work = max(work, read / rate) + (EXPOSED * read if near == FROM_L3 else 0.0)
    tasks = tiles * panels // tile.chunk
    rounds = ceil_div(tasks, target.threads) if tile.parallel else tasks
    busy = rounds * (work + PER_TASK) * unit + (FORK_SECONDS if tile.parallel else 0.0)
    total = weights + 4.0 * problem.rows * (problem.k + problem.n)
    return Cost(max(busy, memory_seconds(target, total, rounds / tasks)), 2.0 * problem.macs, total)


def scratch(problem: MatmulProblem, target: Target, tile: DenseTile) -> int:
    """Bytes of a task's sums."""
    return 4 * tile.rows * tile.chunk * tile.panel


def define(problem: MatmulProblem, tile: DenseTile, x: Any, w: Any, finish: common.Finish) -> Any:
    """Stages "acc" (whole tiles), "out"."""
    from tvm import te, tirx

    i64, shape = common.i64, common.shape
    r, panel = tile.rows, tile.panel
    m = i64(problem.m) if isinstance(problem.m, int) else x.shape[0]
    whole = isinstance(problem.m, int) and problem.m % r == 0
    (k,) = common.reduce_axes("k", [problem.k])

    def total(row: Any, column: Any) -> Any:
        term = x(row if whole else tirx.min(row, m - i64(1)), k)
        block, lane = column // i64(panel), column % i64(panel)
        weight = w(block, k, lane) if problem.transposed else w(k, block, lane)
        return te.sum(term * weight, axis=k)

    tiles = (m + i64(r - 1)) // i64(r)
    acc = te.compute(shape(tiles * i64(r), ceil_div(problem.n, panel) * panel), total, name="acc")
    return te.compute(shape(m, problem.n), lambda row, column: finish(acc(row, column), (row, column)), name="out")


def schedule(sch: Any, problem: MatmulProblem, tile: DenseTile, target: Target) -> None:
    """Tasks (panels, then rows); in them terms, panels, the register tile."""
    acc, out = sch.get_sblock("acc"), sch.get_sblock("out")
    row, column, k = sch.get_loops(acc)
    row, row_in = sch.split(row, [None, tile.rows])
    column, panel, vector, lane = sch.split(column, [None, tile.chunk, tile.panel // tile.lanes, tile.lanes])
    part, k = sch.split(k, [None, tile.depth])
    sch.reorder(column, row, part, panel, k, row_in, vector, lane)
    task = sch.fuse(column, row)
    sch.reverse_compute_at(out, task, preserve_unit_loops=True)
    sch.set_scope(acc, 0, "local")
    if tile.parallel:
        sch.parallel(task)
    width = math.gcd(problem.n, tile.lanes)
    if width > 1:
        _, lanes = sch.split(sch.get_loops(out)[-1], [None, width])
        sch.vectorize(lanes)
    for loop in (row_in, vector):
        sch.unroll(loop)
    sch.vectorize(lane)
    init = sch.decompose_reduction(acc, part)
    *_, vector_init, lane_init = sch.get_loops(init)
    sch.unroll(vector_init)
    sch.vectorize(lane_init)


ALGORITHM = Algorithm(
    name="dense",
    op="matmul",
    applies=applies,
    layouts=layouts,
    tiles_for=tiles_for,
    cost=cost,
    define=define,
    schedule=schedule,
    scratch=scratch,
    candidates=candidates,
)
