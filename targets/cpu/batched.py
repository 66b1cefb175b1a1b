"""Many matrix products, of operands that are both computed: y[b, m, n] = sum_k x[b, m, k] * w[b, k, n] (or w[b, n, k]).

A task is one product, or a part of its rows. It copies a panel of w (some vectors of columns) to scratch, where it
stays in the first cache, and makes all of its rows of the panel in register tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cnncc.ir.layout import PLAIN
from cnncc.targets.algorithm import Algorithm, Cost, Layouts
from cnncc.targets.cpu import common, tiling
from cnncc.targets.cpu.tiling import (
    FORK_SECONDS,
    FROM_L2,
    PER_LOOP,
    PER_TASK,
    PER_TILE,
    ceil_div,
    memory_seconds,
    registers,
    step_time,
)
from cnncc.targets.cpu.variety import varied
from cnncc.targets.problem import MatmulProblem
from cnncc.targets.target import Target

PER_VECTOR = 3.0  # multiply-adds' time of copying a vector of columns
PER_ELEMENT = 1.5  # of copying an element where a column's terms lie side by side
PER_STORE = 1.0  # of storing an element of the last panel, where it is narrower


@dataclass(frozen=True)
class BatchedTile:
    """A register tile is `rows` by `panel` results, `lanes` of them a vector. A product is made in `parts` of its rows,
    each a task. `parallel`: tasks run on the threads."""

    rows: int
    panel: int
    lanes: int
    parts: int
    parallel: bool


def applies(problem: MatmulProblem, target: Target) -> str | None:
    """Why not, or None: float32, batch axes, a known number of rows, a panel that fits the scratch."""
    if problem.dtype != "f32":
        return f"it is for f32, got {problem.dtype}"
    if not problem.stacked:
        return f"its operands must have batch axes, got {problem}"
    if not isinstance(problem.m, int):
        return f"the number of rows must be known, got {problem.m}"
    if min(problem.m, problem.k, problem.n) < 1:
        return f"it needs at least one row, term and column, got {problem}"
    if 4 * problem.k * target.lanes() > tiling.SCRATCH:
        return f"{problem.k} terms of a vector of columns must fit {tiling.SCRATCH} bytes of scratch"
    return None


def layouts(problem: MatmulProblem, target: Target) -> Layouts:
    """All as they are."""
    return Layouts(w=PLAIN)


@lru_cache(maxsize=1024)
def tiles_for(problem: MatmulProblem, target: Target) -> BatchedTile:
    """The tile with the least modelled time; ties go to the first."""
    return min(_tiles(problem, target), key=lambda tile: cost(problem, target, tile).seconds)


def candidates(problem: MatmulProblem, target: Target) -> Iterator[BatchedTile]:
    """Tiles worth measuring."""
    tiles = _tiles(problem, target)
    return varied(tiles, lambda tile: cost(problem, target, tile).seconds, lambda tile: (tile.rows, tile.panel))


def _tiles(problem: MatmulProblem, target: Target) -> list[BatchedTile]:
    lanes = target.lanes()
    vectors = range(1, max(1, min(4, ceil_div(problem.n, lanes))) + 1)
    return [
        BatchedTile(rows, v * lanes, lanes, parts, parallel)
        for v in vectors
        if v == 1 or 4 * problem.k * v * lanes <= tiling.SCRATCH
        for rows in range(1, min(12, problem.rows) + 1)
        if rows == 1 or registers(rows, v, target) <= target.vector_registers
        for parts in {1, min(target.threads, ceil_div(problem.rows, rows))}
        for parallel in ((False, True) if target.threads > 1 else (False,))
    ]


def cost(problem: MatmulProblem, target: Target, tile: BatchedTile) -> Cost:
    """Time of the register tiles and of copying the panels, or memory's."""
    v = tile.panel // tile.lanes
    panels, tiles = ceil_div(problem.n, tile.panel), ceil_div(ceil_div(problem.rows, tile.rows), tile.parts)
    step = step_time(tile.rows, v)
    if scratch(problem, target, tile) > target.l1 // 2:
        step = max(step, 4 * tile.panel / FROM_L2)
    copy = problem.k * (tile.panel * PER_ELEMENT if problem.transposed else v * PER_VECTOR)
    ragged = problem.n % tile.panel * PER_STORE * tile.rows * tiles
    work = panels * (tiles * (problem.k * step + PER_LOOP + PER_TILE * tile.rows * v) + copy) + ragged
    unit = target.lanes() * 2 / (target.gflops_per_core * 1e9)
    tasks = problem.batch * tile.parts
    rounds = ceil_div(tasks, target.threads) if tile.parallel else tasks
    busy = rounds * (work + PER_TASK) * unit + (FORK_SECONDS if tile.parallel else 0.0)
    moved = 4.0 * problem.batch * (problem.rows * (problem.k + problem.n) + problem.k * problem.n)
    return Cost(max(busy, memory_seconds(target, moved, rounds / tasks)), 2.0 * problem.macs, moved)


def scratch(problem: MatmulProblem, target: Target, tile: BatchedTile) -> int:
    """Bytes of a panel."""
    return 4 * problem.k * tile.panel


def define(problem: MatmulProblem, tile: BatchedTile, x: Any, w: Any, finish: common.Finish) -> Any:
    """Stages "pack", "acc" (whole tiles), "out"."""
    from tvm import te, tirx

    i64, panel = common.i64, tile.panel
    lead, panels = list(x.shape[:-2]), ceil_div(problem.n, panel)
    rank = len(lead)
    rows = tile.parts * ceil_div(ceil_div(problem.rows, tile.rows), tile.parts) * tile.rows
    (k,) = common.reduce_axes("k", [problem.k])

    def column(*index: Any) -> Any:
        batch, (block, term, lane) = index[:rank], index[rank:]
        at = block * i64(panel) + lane
        value = w(*batch, at, term) if problem.transposed else w(*batch, term, at)
        return (
            value
            if problem.n % panel == 0
            else tirx.if_then_else(at < i64(problem.n), value, tirx.const(0.0, "float32"))
        )

    packed = te.compute([*lead, *common.shape(panels, problem.k, panel)], column, name="pack")

    def total(*index: Any) -> Any:
        batch, (row, at) = index[:rank], index[rank:]
        place = row if rows == problem.rows else tirx.min(row, i64(problem.rows - 1))
        return te.sum(x(*batch, place, k) * packed(*batch, at // i64(panel), k, at % i64(panel)), axis=k)

    acc = te.compute([*lead, *common.shape(rows, panels * panel)], total, name="acc")
    return te.compute(
        [*lead, *common.shape(problem.rows, problem.n)], lambda *index: finish(acc(*index), index), name="out"
    )


def schedule(sch: Any, problem: MatmulProblem, tile: BatchedTile, target: Target) -> None:
    """Tasks (products, parts of their rows); in them panels, register tiles, terms."""
    acc, out, pack = sch.get_sblock("acc"), sch.get_sblock("out"), sch.get_sblock("pack")
    *lead, row, column, k = sch.get_loops(acc)
    part, row, row_in = sch.split(row, [tile.parts, None, tile.rows])
    panel, vector, lane = sch.split(column, [None, tile.panel // tile.lanes, tile.lanes])
    sch.reorder(*lead, part, panel, row, k, row_in, vector, lane)
    task = sch.fuse(*lead, part)
    sch.compute_at(pack, panel, preserve_unit_loops=True)
    sch.set_scope(pack, 0, "local")
    sch.reverse_compute_at(out, row, preserve_unit_loops=True)
    sch.set_scope(acc, 0, "local")
    if tile.parallel:
        sch.parallel(task)
    term, to = sch.get_loops(pack)[-2:]
    if problem.transposed:
        sch.reorder(to, term)
    else:
        sch.vectorize(sch.split(to, [None, tile.lanes])[1])
    if problem.n % tile.panel:  # the narrower last panel gets code of its own
        sch.annotate(panel, "pragma_loop_partition_hint", 1)
    sch.vectorize(sch.split(sch.get_loops(out)[-1], [None, tile.lanes])[1])
    for loop in (row_in, vector):
        sch.unroll(loop)
    sch.vectorize(lane)
    init = sch.decompose_reduction(acc, k)
    *_, row_init, vector_init, lane_init = sch.get_loops(init)
    sch.unroll(row_init)
    sch.unroll(vector_init)
    sch.vectorize(lane_init)


ALGORITHM = Algorithm(
    name="batched",
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
