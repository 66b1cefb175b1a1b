"""Max and average pooling in plain NCHW: a thread a result, or a warp a result where windows are large."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from cnncc.ir.layout import PLAIN
from cnncc.targets.algorithm import Algorithm, Cost, Layouts
from cnncc.targets.cuda.fuse import inline_prologue
from cnncc.targets.cuda.machine import WARP
from cnncc.targets.cuda.reducers import maximum, register_reducers
from cnncc.targets.problem import PoolProblem
from cnncc.targets.target import Target

if TYPE_CHECKING:
    from tvm import te
    from tvm.s_tir import Schedule


@dataclass(frozen=True)
class PoolTile:
    """`results` of a block, each computed by `lanes` threads. `unroll`: the taps are written out."""

    results: int
    lanes: int
    unroll: bool


def _applies(problem: PoolProblem, target: Target) -> str | None:
    if target.kind != "cuda":
        return f"this pooling is for CUDA targets, got {target.name}"
    return None if problem.dtype == "f32" else f"this pooling is for float32, got {problem.dtype}"


def _tiles(problem: PoolProblem, target: Target) -> PoolTile:
    taps = prod(problem.kernel)
    if taps >= WARP and prod(problem.out) <= 64:  # few large windows: share each out
        return PoolTile(results=8, lanes=WARP, unroll=False)
    return PoolTile(results=128, lanes=1, unroll=taps <= 32)


def _cost(problem: PoolProblem, target: Target, tile: PoolTile) -> Cost:
    planes = (problem.n if isinstance(problem.n, int) else problem.hint) * problem.c
    moved = 4.0 * planes * (prod(problem.size) + prod(problem.out))
    work = float(planes * prod(problem.out) * prod(problem.kernel))
    per_second = target.threads * target.gflops_per_core * 1e9 / 16  # loads from L1 and index arithmetic
    return Cost(max(moved / (target.gbytes_per_second * 1e9), work / per_second), work, moved)


def _window(problem: PoolProblem, pixel: list[Any], tap: list[Any]) -> tuple[list[Any], list[Any]]:
    """Output and tap --> conditions for the input to exist (those not implied by the geometry), and its indices."""
    from cnncc.targets.cuda.expr import const, inside

    conditions, indices = [], []
    for axis, size in enumerate(problem.size):
        begin, stride, dilation = problem.pads[axis], problem.strides[axis], problem.dilations[axis]
        index = pixel[axis] * const(stride) + tap[axis] * const(dilation) - const(begin)
        last = (problem.out[axis] - 1) * stride + (problem.kernel[axis] - 1) * dilation - begin
        conditions += inside(index, low=begin > 0, high=last >= size, size=size)
        indices.append(index)
    return conditions, indices


def _count(problem: PoolProblem, pixel: list[Any]) -> Any:
    """How many taps of a window count: those inside the input, or inside the padded input with include_pad."""
    from tvm import tirx

    from cnncc.targets.cuda.expr import const

    rank = len(problem.size)
    total = const(1)
    for axis, size in enumerate(problem.size):
        kernel, dilation = problem.kernel[axis], problem.dilations[axis]
        begin, end = problem.pads[axis], problem.pads[rank + axis]
        limit = size + end if problem.include_pad else size
        last = (problem.out[axis] - 1) * problem.strides[axis] + (kernel - 1) * dilation - begin
        start = pixel[axis] * const(problem.strides[axis]) - const(begin)
        high = const(kernel)
        if last >= limit:
            high = tirx.min(high, (const(limit + dilation - 1) - start) // const(dilation))
        if not problem.include_pad and begin > 0:
            high = high - tirx.max(const(0), (const(dilation - 1) - start) // const(dilation))
        total = total * high
    return total


def _define(problem: PoolProblem, tile: PoolTile, x: Any, w: Any, finish: Callable[..., Any]) -> te.Tensor:
    from tvm import te, tirx

    from cnncc.targets.cuda.expr import const, extent

    shape = (extent(x.shape[0]), const(problem.c), *(const(size) for size in problem.out))
    taps = [te.reduce_axis((const(0), const(size)), name=f"k{i}") for i, size in enumerate(problem.kernel)]
    neutral = tirx.const(float("-inf") if problem.op == "max" else 0.0, "float32")

    def window(n: Any, c: Any, *pixel: Any) -> Any:
        conditions, indices = _window(problem, list(pixel), [tap.var for tap in taps])
        value = x(n, c, *indices)
        if conditions:
            value = tirx.if_then_else(tirx.all(*conditions), value, neutral)
        return maximum(value, taps) if problem.op == "max" else te.sum(value, axis=taps)

    def out(*index: Any) -> Any:
        value = acc(*index)
        if problem.op == "average":
            value = value / tirx.Cast("float32", _count(problem, list(index[2:])))
        return finish(value, index)

    acc = te.compute(shape, window, name="acc")
    return te.compute(shape, out, name="out")


def _schedule(sch: Schedule, problem: PoolProblem, tile: PoolTile, target: Target) -> None:
    inline_prologue(sch, ("acc", "out"))
    acc = sch.get_sblock("acc")
    loops = sch.get_loops(acc)
    taps = loops[-len(problem.size) :]
    # The accumulation carries the loops and the result follows: the other way round, TVM loses track of the tail.
    block, thread = sch.split(sch.fuse(*loops[: -len(taps)]), [None, tile.results])
    sch.bind(block, "blockIdx.x")
    sch.bind(thread, "threadIdx.x" if tile.lanes == 1 else "threadIdx.y")
    sch.set_scope(acc, 0, "local")
    sch.reverse_compute_at("out", thread, preserve_unit_loops=True)
    if tile.lanes > 1:
        register_reducers()
        steps, lane = sch.split(sch.fuse(*taps), [None, tile.lanes])
        sch.reorder(lane, steps)
        sch.bind(lane, "threadIdx.x")
        return
    if tile.unroll:
        for tap in taps:
            sch.unroll(tap)
    sch.decompose_reduction(acc, taps[0])


POOL = Algorithm(
    name="pool.window",
    op="pool",
    applies=_applies,
    layouts=lambda problem, target: Layouts(x=PLAIN, w=None, out=PLAIN),
    tiles_for=_tiles,
    cost=_cost,
    define=_define,
    schedule=_schedule,
)
