"""Matrix product with packed weights: y[m, n] = sum_k x[m, k] * w[n, k] (or w[k, n]).

Weights stand in panels of a few vectors of outputs, so that one row of x reads them once, in order, at the speed of
memory. More rows make register tiles of some rows times a panel: a task packs its rows, some columns at a time, so that
what a step broadcasts lies together, and sums into scratch that stays in cache (Goto and van de Geijn, TOMS 2008).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cnncc.ir.layout import PLAIN, Layout
from cnncc.targets.algorithm import Algorithm, Cost, Layouts
from cnncc.targets.cpu import common
from cnncc.targets.cpu.tiling import (
    BROADCAST,
    FORK_SECONDS,
    FROM_L2,
    FROM_L3,
    LATENCY,
    PER_LOOP,
    PER_STEP,
    PER_TASK,
    ceil_div,
    divisors,
    registers,
)
from cnncc.targets.problem import MatmulProblem
from cnncc.targets.target import Target

SUMS = 64 << 10  # bytes of sums that a task keeps
PACKED = 128 << 10  # bytes of rows that a task packs at a time
SLOWDOWN = {1: 1.3, 2: 1.05, 3: 1.02, 4: 1.0}  # of panels of so few vectors, which wait for the multiply-add
STRIP = 8  # terms at a time for one row where weights stand as w[k, n], so that they are read in order


@dataclass(frozen=True)
class DenseTile:
    """A register tile is `rows` by `panel` outputs, `lanes` of them a vector. A task makes `group` rows (a multiple of
    `rows`) of `chunk` panels, `depth` terms at a time. `pack`: it copies its rows first. `parallel`: tasks run on the
    threads."""

    rows: int
    panel: int
    lanes: int
    group: int
    chunk: int
    depth: int
    pack: bool
    parallel: bool


def applies(problem: MatmulProblem, target: Target) -> str | None:
    """Why not, or None: float32, one product, at least one term."""
    if problem.dtype != "f32":
        return f"it is for f32, got {problem.dtype}"
    if problem.batch != 1:
        return f"it is for a single product, got {problem.batch}"
    if min(problem.k, problem.n) < 1 or problem.m == 0:
        return f"it needs at least one row, term and output, got {problem}"
    return None


def panel_of(problem: MatmulProblem, target: Target) -> int:
    """Outputs of a panel: enough vectors to hide the latency of a multiply-add, and little padding."""
    lanes = target.lanes()
    most = 4 if target.vector_registers > 16 or problem.m == 1 else 2
    return lanes * min(range(1, most + 1), key=lambda v: (ceil_div(problem.n, v * lanes) * v * SLOWDOWN[v], -v))


def layouts(problem: MatmulProblem, target: Target) -> Layouts:
    """x and y as they are; the weights' outputs in panels."""
    return Layouts(PLAIN, Layout(((0 if problem.transposed else 1, panel_of(problem, target)),)), PLAIN)


def tiles_for(problem: MatmulProblem, target: Target) -> DenseTile:
    """The tile with the least modelled time; ties go to the first."""
    return _tiles_for(problem, target)


@lru_cache(maxsize=1024)
def _tiles_for(problem: MatmulProblem, target: Target) -> DenseTile:
    panel, lanes = panel_of(problem, target), target.lanes()
    panels = ceil_div(problem.n, panel)
    symbolic = not isinstance(problem.m, int)
    threads = (False, True) if target.threads > 1 else (False,)
    rows = [4] if symbolic else [r for r in range(1, 15) if r <= problem.rows]
    candidates = [
        DenseTile(r, panel, lanes, r * several, chunk, depth, r > 1, parallel)
        for r in rows
        if r == 1 or registers(r, panel // lanes, target) <= target.vector_registers
        for several in ((1, 2, 4, 8) if symbolic or problem.rows > r else (1,))
        for chunk in divisors(panels)
        if 4 * r * several * chunk * panel <= SUMS or (chunk == 1 and several == 1)
        for depth in _depths(problem, r, several)
        for parallel in threads
    ]
    return min(candidates, key=lambda tile: cost(problem, target, tile).seconds)


def _depths(problem: MatmulProblem, rows: int, several: int) -> list[int]:
    """Terms at a time: all for one row, in order of the weights; else what packs into PACKED, in equal parts if any."""
    k = problem.k
    if rows == 1 and several == 1:
        return [k if problem.transposed or k <= STRIP else STRIP]
    limit = max(1, PACKED // (4 * rows * several))
    if k <= limit:
        return [k]
    best = max(d for d in divisors(k) if d <= limit)
    return [best if 2 * best > limit or best >= 128 else limit]


def cost(problem: MatmulProblem, target: Target, tile: DenseTile) -> Cost:
    """Time of the register tiles and of bringing the weights, whichever is longer in a task; memory for all of them."""
    v = tile.panel // tile.lanes
    panels, chunks = ceil_div(problem.n, tile.panel), ceil_div(problem.k, tile.depth)
    rows = ceil_div(problem.rows, tile.rows) * tile.rows
    groups = ceil_div(rows, tile.group)
    several = ceil_div(min(rows, tile.group), tile.rows)
    step = max(tile.rows * v, BROADCAST * tile.rows + v, LATENCY / 2) + PER_STEP
    once = several * (tile.depth * step + PER_LOOP + 2.0 * tile.rows * v)
    weights = 4.0 * panels * tile.panel * problem.k
    loaded = 4.0 * tile.panel * tile.depth / (FROM_L3 if weights > target.l2 // 2 else FROM_L2)
    work = tile.chunk * chunks * max(once, loaded)
    if tile.pack:
        work += several * tile.rows * problem.k * 1.5
    unit = target.lanes() * 2 / (target.gflops_per_core * 1e9)
    tasks = groups * (panels // tile.chunk)
    rounds = ceil_div(tasks, target.threads) if tile.parallel else tasks
    busy = rounds * (work + PER_TASK) * unit + (FORK_SECONDS if tile.parallel else 0.0)
    total = weights + 4.0 * problem.rows * (problem.k + problem.n)
    bandwidth = target.gbytes_per_second * 1e9 * (1.0 if total > target.l3 // 2 else 3.0)
    return Cost(max(busy, total / bandwidth), 2.0 * problem.macs, total)


def scratch(problem: MatmulProblem, target: Target, tile: DenseTile) -> int:
    """Bytes of a task's sums and packed rows."""
    packed = tile.group * tile.depth if tile.pack else 0
    return 4 * (tile.group * tile.chunk * tile.panel + packed)


def define(problem: MatmulProblem, tile: DenseTile, x: Any, w: Any, finish: common.Finish) -> Any:
    """Stages "pad" (rows of a tile side by side, those beyond the last are zeros), "acc" (whole tiles), "out"."""
    from tvm import te, tirx

    i64, shape = common.i64, common.shape
    r, panel = tile.rows, tile.panel
    m = i64(problem.m) if isinstance(problem.m, int) else x.shape[0]
    tiles = (m + i64(r - 1)) // i64(r)
    (k,) = common.reduce_axes("k", [problem.k])

    def packed(t: Any, k: Any, i: Any) -> Any:
        row = t * i64(r) + i
        if isinstance(problem.m, int) and problem.m % r == 0:
            return x(row, k)
        return tirx.if_then_else(row < m, x(row, k), tirx.const(0.0, "float32"))

    pad = te.compute(shape(tiles, problem.k, r), packed, name="pad") if tile.pack else None

    def total(row: Any, column: Any) -> Any:
        term = pad(row // i64(r), k, row % i64(r)) if pad is not None else x(row, k)
        block, lane = column // i64(panel), column % i64(panel)
        weight = w(block, k, lane) if problem.transposed else w(k, block, lane)
        return te.sum(term * weight, axis=k)

    acc = te.compute(shape(tiles * i64(r), ceil_div(problem.n, panel) * panel), total, name="acc")
    return te.compute(shape(m, problem.n), lambda row, column: finish(acc(row, column), (row, column)), name="out")


def schedule(sch: Any, problem: MatmulProblem, tile: DenseTile, target: Target) -> None:
    """Tasks (rows, panels); in them terms, panels, register tiles, terms."""
    acc, out = sch.get_sblock("acc"), sch.get_sblock("out")
    row, column, k = sch.get_loops(acc)
    row, row_in = sch.split(row, [None, tile.rows])
    row_task, row_tile = sch.split(row, [None, tile.group // tile.rows])
    column_task, column_tile, vector, lane = sch.split(column, [None, tile.chunk, tile.panel // tile.lanes, tile.lanes])
    k_part, k_in = sch.split(k, [None, tile.depth])
    sch.reorder(row_task, column_task, k_part, column_tile, row_tile, k_in, row_in, vector, lane)
    task = sch.fuse(row_task, column_task)
    if tile.pack:
        pad = sch.get_sblock("pad")
        sch.compute_at(pad, k_part, preserve_unit_loops=True)
        sch.set_scope(pad, 0, "local")
        *_, terms, rows = sch.get_loops(pad)
        sch.reorder(rows, terms)
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
    init = sch.decompose_reduction(acc, k_part)
    sch.vectorize(sch.get_loops(init)[-1])


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
)
