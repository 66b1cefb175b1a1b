"""Schedules for any te function: elementwise chains, layout changes, reductions, softmax, and a fallback that takes
everything else.

First every stage that maps one element to one is inlined. What is left decides the recipe, tried in this order:

elementwise       one stage: a thread an element, or four as a float4 where memory is contiguous.
row-per-block     reductions along contiguous axes, and what reads them: a block a row, partial results combined
                  across threads, intermediates in shared memory.
row-per-thread    other reductions: a thread a row, neighbours on neighbouring rows.
stages            anything: each stage a kernel of its own, intermediates in global memory.

A recipe that does not suit declines, or TVM's schedule refuses it; the next one starts from the original function. The
caller learns the name of the one that was taken.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from cnncc.errors import ScheduleError
from cnncc.targets.cuda.blocks import Stage, inline_injective
from cnncc.targets.cuda.machine import FLOAT4, WARP
from cnncc.targets.cuda.reducers import register_reducers
from cnncc.targets.target import Target

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

    from cnncc.targets.cpu.workspace import Workspace

_THREADS = 256
_LONG_ROW = 64  # from here on several threads share a row even in a stage of its own


class _DeclinedError(Exception):
    """A recipe does not suit the stages at hand; says why."""


def schedule_generic(func: Any, target: Target) -> tuple[Any, list[Workspace], str]:
    """te PrimFunc --> scheduled PrimFunc, shape and dtype of its workspaces, and the recipe's name.

    Workspaces are intermediates in global memory; they are parameters, after the others. Raises ScheduleError where not
    even the fallback can be lowered.
    """
    from tvm import s_tir
    from tvm.error import InternalError
    from tvm.s_tir.schedule import ScheduleError as TvmScheduleError

    from cnncc.targets.cpu.workspace import hoist_workspaces

    recipes: tuple[tuple[str, Callable[[Schedule, list[Stage]], None]], ...] = (
        ("elementwise", _elementwise),
        ("row-per-block", _row_per_block),
        ("row-per-thread", _row_per_thread),
        ("stages", _stages),
        ("stages, a thread a row", partial(_stages, share=False)),
    )
    register_reducers()
    reasons = []
    for name, recipe in recipes:
        sch = s_tir.Schedule(func)
        stages = inline_injective(sch)
        try:
            recipe(sch, stages)
            if name != "elementwise":
                _check_lowering(sch.mod["main"], target)
        except (_DeclinedError, TvmScheduleError, InternalError) as reason:
            reasons.append(f"{name}: {str(reason).strip().splitlines()[-1]}")
            continue
        scheduled, workspaces = hoist_workspaces(sch.mod["main"])
        return scheduled, workspaces, name
    raise ScheduleError(f"generic CUDA schedule: one recipe must apply, got {'; '.join(reasons)}")


def _check_lowering(scheduled: Any, target: Target) -> None:
    """Declines where TVM cannot lower what it let be scheduled: a reduction shared by threads whose combiner it does
    not know (it knows sums, products, minima, maxima and arg max, with reducers.py those that keep NaN), a barrier
    that would stand inside a condition."""
    import tvm
    from tvm.s_tir.pipeline import default_s_tir_pipeline

    from cnncc.targets.cuda.build import LOWERING, tvm_target

    mod = tvm.IRModule({"main": scheduled.with_attr("global_symbol", "main")})
    try:
        with tvm.transform.PassContext(config=LOWERING):
            default_s_tir_pipeline()[0](tvm.tirx.transform.BindTarget(tvm_target(target))(mod))
    except (ValueError, tvm.error.InternalError) as error:
        raise _DeclinedError(str(error).strip().splitlines()[-1]) from None


# The recipes. Each schedules all stages that are left, or declines.


def _elementwise(sch: Schedule, stages: list[Stage]) -> None:
    if len(stages) != 1 or not stages[0].injective:
        raise _DeclinedError("there are reductions or several results")
    _bind_elementwise(sch, stages[0])


def _row_per_block(sch: Schedule, stages: list[Stage]) -> None:
    reductions, result = _rows(stages)
    if not all(stage.shares_rows for stage in reductions):
        raise _DeclinedError("rows are not contiguous, or many and short")
    threads = _threads_for(reductions)
    if result is None:
        (stage,) = reductions
        _share_row(sch, stage, threads)
        return
    rows, rest = _split_rows(sch, result, reductions)
    row = sch.fuse(*rows)
    sch.bind(row, "blockIdx.x")
    _, thread = sch.split(sch.fuse(*rest), [None, threads])
    sch.bind(thread, "threadIdx.x")
    for stage in reversed(reductions):
        for index in range(stage.writes):
            sch.set_scope(stage.block, index, "shared")
        sch.compute_at(stage.block, row, preserve_unit_loops=True)
        steps, lane = sch.split(sch.fuse(*sch.get_loops(stage.block)[-len(stage.reduced) :]), [None, threads])
        sch.reorder(lane, steps)
        sch.bind(lane, "threadIdx.x")


def _row_per_thread(sch: Schedule, stages: list[Stage]) -> None:
    reductions, result = _rows(stages)
    if result is None:
        (stage,) = reductions
        _reduce_in_thread(sch, stage)
        return
    rows, rest = _split_rows(sch, result, reductions)
    sch.reorder(*rows, *rest)
    thread = _bind_rows(sch, rows)
    for stage in reversed(reductions):
        for index in range(stage.writes):
            sch.set_scope(stage.block, index, "local")
        sch.compute_at(stage.block, thread, preserve_unit_loops=True)
        sch.decompose_reduction(stage.block, sch.get_loops(stage.block)[-len(stage.reduced)])


def _stages(sch: Schedule, stages: list[Stage], share: bool = True) -> None:
    for stage in stages:
        if stage.opaque:  # a function of its own, run by one thread
            thread = sch.add_unit_loop(stage.block)
            sch.bind(sch.add_unit_loop(thread), "blockIdx.x")
            sch.bind(thread, "threadIdx.x")
        elif stage.injective:
            _bind_elementwise(sch, stage)
        elif share and stage.shares_rows and (stage.depth is None or stage.depth >= _LONG_ROW):
            _share_row(sch, stage, _threads_for([stage]))
        else:
            _reduce_in_thread(sch, stage)


# Parts of recipes.


def _rows(stages: list[Stage]) -> tuple[list[Stage], Stage | None]:
    """Stages --> the reductions (over rows of the same extents), and the elementwise result that reads them, None
    where the one reduction is the result."""
    if any(stage.opaque for stage in stages):
        raise _DeclinedError("a stage is opaque")
    reductions = [stage for stage in stages if not stage.injective]
    others = [stage for stage in stages if stage.injective]
    if not reductions or len(others) > 1 or (others and stages[-1].injective is False):
        raise _DeclinedError("rows need reductions and at most one elementwise result, at the end")
    if not others and len(reductions) > 1:
        raise _DeclinedError("several reductions are results")
    return reductions, others[0] if others else None


def _split_rows(sch: Schedule, result: Stage, reductions: list[Stage]) -> tuple[list[Any], list[Any]]:
    """Loops of the result --> those along which it reads the reductions (rows), in that order, and the others."""
    names = {name for stage in reductions for name in stage.buffers}
    used = result.axes_indexing(names)
    if used is None:
        raise _DeclinedError("the result does not read each reduction at its own row")
    loops = sch.get_loops(result.block)
    rows = [loop for axis, loop in enumerate(loops) if axis in used]
    rest = [loop for axis, loop in enumerate(loops) if axis not in used]
    if not rest:
        rest = [sch.add_unit_loop(result.block)]
    if not rows:
        rows = [sch.add_unit_loop(rest[0])]
    sch.reorder(*rows, *rest)
    return rows, rest


def _bind_elementwise(sch: Schedule, stage: Stage) -> None:
    """A thread an element, or four consecutive ones."""
    loops = sch.get_loops(stage.block) or [sch.add_unit_loop(stage.block)]
    fused = sch.fuse(*loops)
    if stage.vectorizable:
        block, thread, lanes = sch.split(fused, [None, _THREADS, FLOAT4])
        sch.vectorize(lanes)
    else:
        block, thread = sch.split(fused, [None, _THREADS])
    sch.bind(block, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")


def _bind_rows(sch: Schedule, rows: list[Any]) -> Any:
    """Row loops --> the loop of one thread. A symbolic extent keeps a grid axis to itself, so that what is fused and
    split has constant extents."""
    from cnncc.targets.cuda.expr import as_int

    symbolic = [loop for loop in rows if as_int(sch.get(loop).extent) is None]
    constant = [loop for loop in rows if as_int(sch.get(loop).extent) is not None]
    if symbolic and constant:
        threads = min(_THREADS, prod(int(sch.get(loop).extent) for loop in constant))
        sch.reorder(*symbolic, *constant)
        sch.bind(sch.fuse(*symbolic), "blockIdx.x")
        block, thread = sch.split(sch.fuse(*constant), [None, threads])
        sch.bind(block, "blockIdx.y")
    else:
        block, thread = sch.split(sch.fuse(*rows), [None, _THREADS])
        sch.bind(block, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    return thread


def _share_row(sch: Schedule, stage: Stage, threads: int) -> None:
    """A reduction by itself: a block a row."""
    loops = sch.get_loops(stage.block)
    count = len(stage.reduced)
    spatial, reduced = loops[:-count], loops[-count:]
    row = sch.fuse(*spatial) if spatial else sch.add_unit_loop(reduced[0])
    steps, lane = sch.split(sch.fuse(*reduced), [None, threads])
    sch.reorder(row, lane, steps)
    sch.bind(row, "blockIdx.x")
    sch.bind(lane, "threadIdx.x")


def _reduce_in_thread(sch: Schedule, stage: Stage) -> None:
    """A reduction by itself: a thread a row, accumulated in registers."""
    write_back = sch.cache_write(stage.block, 0, "local") if stage.writes == 1 else None
    loops = sch.get_loops(stage.block)
    count = len(stage.reduced)
    spatial, reduced = loops[:-count], loops[-count:]
    if spatial:
        thread = _bind_rows(sch, spatial)
    else:  # one thread: TVM would drop the condition that stops the others from writing
        thread = sch.add_unit_loop(reduced[0])
        sch.bind(sch.add_unit_loop(thread), "blockIdx.x")
        sch.bind(thread, "threadIdx.x")
    if write_back is not None:
        sch.reverse_compute_at(write_back, thread, preserve_unit_loops=True)
    sch.decompose_reduction(stage.block, sch.get_loops(stage.block)[-count])


def _threads_for(reductions: list[Stage]) -> int:
    """Threads that share a row: a power of two from a warp to 256."""
    depths = [stage.depth for stage in reductions if stage.depth is not None]
    if len(depths) < len(reductions):
        return _THREADS
    threads = WARP
    while threads < _THREADS and threads * 2 <= max(depths):
        threads *= 2
    return threads
