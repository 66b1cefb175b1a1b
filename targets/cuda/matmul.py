"""Matrix products: a tiled GEMM, and for a few rows a GEMV that spreads the depth over the threads of a block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnncc.ir.layout import PLAIN
from cnncc.targets.algorithm import Algorithm, Cost, Layouts
from cnncc.targets.cuda.fuse import inline_prologue
from cnncc.targets.cuda.gemm import (
    GemmTile,
    choose_tile,
    compute_seconds,
    define_product,
    schedule_product,
)
from cnncc.targets.cuda.machine import WARP
from cnncc.targets.problem import MatmulProblem
from cnncc.targets.target import Target

if TYPE_CHECKING:
    from tvm import te
    from tvm.s_tir import Schedule


@dataclass(frozen=True)
class GemvTile:
    """A block computes `columns` results of one row with `lanes` threads each, which share the depth out."""

    columns: int
    lanes: int


def _applies(problem: MatmulProblem, target: Target) -> str | None:
    if target.kind != "cuda":
        return f"this product is for CUDA targets, got {target.name}"
    if problem.dtype != "f32":
        return f"this product is for float32, got {problem.dtype}"
    if problem.stacked:
        return f"its operands must be matrices, got {problem}"
    return None


def _gemv_applies(problem: MatmulProblem, target: Target) -> str | None:
    if problem.rows > 8:
        return f"GEMV is for at most 8 rows, got {problem.rows}"
    return _applies(problem, target)


def _layouts(problem: MatmulProblem, target: Target) -> Layouts:
    return Layouts(x=PLAIN, w=PLAIN, out=PLAIN)


def _bytes(problem: MatmulProblem) -> float:
    m, k, n = problem.rows, problem.k, problem.n
    return 4.0 * problem.batch * (m * k + k * n + m * n)


def _tiles(problem: MatmulProblem, target: Target) -> GemmTile:
    return choose_tile(problem.rows, problem.n, problem.k, problem.batch, target)


def _cost(problem: MatmulProblem, target: Target, tile: GemmTile) -> Cost:
    compute = compute_seconds(problem.rows, problem.n, problem.k, problem.batch, tile, target)
    moved = _bytes(problem)
    return Cost(max(compute, moved / (target.gbytes_per_second * 1e9)), 2.0 * problem.macs, moved)


def _gemv_tiles(problem: MatmulProblem, target: Target) -> GemvTile:
    if problem.transposed:  # a row of w is contiguous: a warp reads it together
        return GemvTile(columns=4, lanes=WARP)
    # A row of w holds one weight of every column: neighbouring threads read neighbouring columns.
    return GemvTile(columns=WARP, lanes=16 if problem.k >= 256 else 4)


def _gemv_cost(problem: MatmulProblem, target: Target, tile: GemvTile) -> Cost:
    moved = _bytes(problem)
    blocks = -(-problem.n // tile.columns) * problem.rows * problem.batch
    busy = min(1.0, blocks * tile.columns * tile.lanes / (target.threads * 512))
    # Each row reads the weights again, from L2: about three times as fast as memory.
    repeated = 4.0 * problem.batch * problem.k * problem.n * (problem.rows - 1) / 3
    seconds = (moved + repeated) / (target.gbytes_per_second * 1e9 * busy)
    return Cost(seconds, 2.0 * problem.macs, moved)


def _operands(problem: MatmulProblem, x: Any, w: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """x and w as functions of (batch, row, k) and (batch, k, column)."""

    def left(b: Any, i: Any, k: Any) -> Any:
        return x(b, i, k) if problem.batch != 1 else x(i, k)

    def right(b: Any, k: Any, j: Any) -> Any:
        index = (j, k) if problem.transposed else (k, j)
        return w(b, *index) if problem.batch != 1 else w(*index)

    return left, right


def _result(problem: MatmulProblem, x: Any, value: Callable[[Any, Any, Any], Any], finish: Callable[..., Any]) -> Any:
    """Stage "out": [m, n], or [batch, m, n]."""
    from tvm import te

    from cnncc.targets.cuda.expr import const, extent

    if problem.batch == 1:
        rows = extent(x.shape[0])
        return te.compute((rows, const(problem.n)), lambda i, j: finish(value(const(0), i, j), (i, j)), name="out")
    shape = (const(problem.batch), extent(x.shape[1]), const(problem.n))
    return te.compute(shape, lambda b, i, j: finish(value(b, i, j), (b, i, j)), name="out")


def _define(problem: MatmulProblem, tile: GemmTile, x: Any, w: Any, finish: Callable[..., Any]) -> te.Tensor:
    from cnncc.targets.cuda.expr import extent

    left, right = _operands(problem, x, w)
    rows = extent(x.shape[0 if problem.batch == 1 else 1])
    product = define_product(
        (problem.batch, rows, problem.k, problem.n),
        tile,
        lambda b, k, i: ([], left(b, i, k)),
        lambda b, _, k, j: ([], right(b, k, j)),
    )
    return _result(problem, x, lambda b, i, j: product[b, i, j], finish)


def _schedule(sch: Schedule, problem: MatmulProblem, tile: GemmTile, target: Target) -> None:
    inline_prologue(sch, ("left", "right", "acc", "total", "flat", "out"))
    *batch, row, column = sch.get_loops(sch.get_sblock("out"))
    outer = batch[0] if batch else sch.add_unit_loop(row)
    schedule_product(sch, (outer, row, column), tile, left_along_k=True, right_along_k=problem.transposed)


def _gemv_define(problem: MatmulProblem, tile: GemvTile, x: Any, w: Any, finish: Callable[..., Any]) -> te.Tensor:
    from tvm import te

    from cnncc.targets.cuda.expr import const, extent

    left, right = _operands(problem, x, w)
    rows = extent(x.shape[0 if problem.batch == 1 else 1])
    k = te.reduce_axis((const(0), const(problem.k)), name="k")
    acc = te.compute(
        (const(problem.batch), rows, const(problem.n)),
        lambda b, i, j: te.sum(left(b, i, k) * right(b, k, j), axis=[k]),
        name="acc",
    )
    return _result(problem, x, lambda b, i, j: acc[b, i, j], finish)


def _gemv_schedule(sch: Schedule, problem: MatmulProblem, tile: GemvTile, target: Target) -> None:
    inline_prologue(sch, ("acc", "out"))
    out, acc = sch.get_sblock("out"), sch.get_sblock("acc")
    # Lanes that share a depth lie along x where the weights' depth is contiguous, else the columns do.
    column_axis, lane_axis = ("threadIdx.y", "threadIdx.x") if problem.transposed else ("threadIdx.x", "threadIdx.y")
    *batch, row, column = sch.get_loops(out)
    block, thread = sch.split(column, [None, tile.columns])
    outer = batch[0] if batch else sch.add_unit_loop(row)
    sch.bind(outer, "blockIdx.z")
    sch.bind(row, "blockIdx.y")
    sch.bind(block, "blockIdx.x")
    sch.bind(thread, column_axis)
    sch.set_scope(acc, 0, "local")
    sch.compute_at(acc, thread, preserve_unit_loops=True)
    depth = sch.get_loops(acc)[-1]
    steps, lane = sch.split(depth, [None, tile.lanes])
    sch.reorder(lane, steps)
    sch.bind(lane, lane_axis)


GEMM = Algorithm(
    name="matmul.gemm",
    op="matmul",
    applies=_applies,
    layouts=_layouts,
    tiles_for=_tiles,
    cost=_cost,
    define=_define,
    schedule=_schedule,
)

GEMV = Algorithm(
    name="matmul.gemv",
    op="matmul",
    applies=_gemv_applies,
    layouts=_layouts,
    tiles_for=_gemv_tiles,
    cost=_gemv_cost,
    define=_gemv_define,
    schedule=_gemv_schedule,
)
