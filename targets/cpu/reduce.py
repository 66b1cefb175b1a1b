"""Reductions and what is computed from them: sums, means, softmax, normalisations, global pooling.

A kernel is a nest for each output: the loops over rows (positions that a reduction tells apart), in them every stage of
the row, in local buffers. Where a row's elements lie side by side, lanes keep partial results (factor.py) that are then
combined in a tree; where neighbouring rows lie side by side, lanes are rows.
"""

from __future__ import annotations

import logging
from math import prod
from typing import Any

from tvm import IRModule, s_tir
from tvm.s_tir.schedule import ScheduleError

from cnncc.targets.cpu import elementwise
from cnncc.targets.cpu.blocks import (
    Accesses,
    as_number,
    extent,
    get,
    get_loops,
    is_contraction,
    is_output,
    is_plain,
    is_reduction,
    itemsize_of,
    name_of,
    outputs,
    reduces,
    root_blocks,
    written,
)
from cnncc.targets.cpu.elementwise import (
    inline_injective,
    merge_loops,
    schedule_injective,
    split_factors,
    vectorise,
    work,
)
from cnncc.targets.cpu.partials import smooth, take_apart, vertical
from cnncc.targets.target import Target

_log = logging.getLogger("cnncc")
_LOCAL = 64 << 10  # bytes of an intermediate that a row may keep on the stack
_HEAVY = 12  # operations from which a stage that several others read is kept rather than computed again
_LIGHT = 2  # operations up to which a contraction may compute an operand's element at every use
_VECTORS = 4  # registers that an accumulator over neighbouring rows takes at most
_ROWS = 8  # rows whose accumulators a contraction keeps at a time at most


def schedule_reduction(func: Any, target: Target) -> Any:
    """PrimFunc of te stages --> its Schedule. Blocks that are not of te.compute's form stay as they are."""
    sch = _schedule(func)
    inline_injective(sch, keep=lambda block: _worth_keeping(sch, block))
    func, apart, split = take_apart(sch, target)
    sch = _schedule(func)
    inline_injective(sch, keep=lambda block: _worth_keeping(sch, block))
    left = [name_of(sch, b) for b in root_blocks(sch)]
    while left:
        before = sch.copy()
        blocks = [sch.get_sblock(name) for name in left]
        try:
            handled = _nest(sch, blocks, apart, split, target)
        except ScheduleError as error:
            _log.debug("%s stays unscheduled: %s", left[-1], error)
            sch, handled = before, [left[-1]]
        left = [name for name in left if name not in handled]
    return sch


def _schedule(func: Any) -> Any:
    return s_tir.Schedule(IRModule({"main": func}))


def _worth_keeping(sch: Any, block: Any) -> bool:
    """Not to be computed again for every reader: what several stages read, or a contraction reads many times."""
    consumers = sch.get_consumers(block)
    operations = Accesses(sch, block).operations
    if any(is_plain(sch, c) and is_reduction(sch, c) and is_contraction(sch, c) for c in consumers):
        return operations > _LIGHT
    return len(consumers) > 1 and operations >= _HEAVY


def _nest(sch: Any, left: list[Any], apart: list[str], split: set[str], target: Target) -> list[str]:
    """Schedule the last of the blocks that are left, with the stages that only it reads; gives their names."""
    out = left[-1]
    if not is_plain(sch, out):
        return [name_of(sch, out)]
    seconds = work(Accesses(sch, out))
    producers: list[Any] = []
    handled = [name_of(sch, out)]
    if is_reduction(sch, out):
        results = [k for k, b in enumerate(written(sch, out)) if any(b.same_as(p) for p in outputs(sch))] or [0]
        if len(results) > 1:
            _rows_only(sch, out, seconds, target)
            return handled
        producers, out = [out], sch.cache_write(out, results[0], "local")
    for block in reversed(left[:-1]):
        consumers = {name_of(sch, c) for c in sch.get_consumers(block)}
        own = {name_of(sch, b) for b in (out, *producers)}
        if consumers <= own and is_plain(sch, block) and not is_output(sch, block) and name_of(sch, block) not in apart:
            producers.append(block)
    if not producers:
        schedule_injective(sch, out, target)
        return handled
    seconds += sum(work(Accesses(sch, p)) for p in producers)
    reductions = [p for p in producers if is_reduction(sch, p)]
    _split_as(sch, out, reductions)
    for p in reductions:
        split_factors(sch, p)
    horizontal = any(name_of(sch, p) in split or not vertical(sch, p, target) for p in reductions)

    split_factors(sch, out)
    tiled = _tiled_row(sch, out, reductions, split, target)
    place, vector = _rows(sch, out, producers, horizontal, tiled, target)
    if place is not None and target.threads > 1 and seconds >= elementwise.WORTH:
        sch.parallel(place)
    fused = [p for p in producers if place is None or _computed_at(sch, p, place)]
    handled += [name_of(sch, p) for p in fused]
    if place is None:
        depth = 0
    else:
        depth = [get(sch, l).loop_var.same_as(get(sch, place).loop_var) for l in get_loops(sch, out)].index(True) + 1
    for p in fused:
        _inside(sch, p, depth, target)
    merge_loops(sch, out, depth)
    if vector:
        sch.vectorize(get_loops(sch, out)[-1])
    elif len(get_loops(sch, out)) > depth:
        accesses = Accesses(sch, out)
        vectorise(sch, accesses, accesses.loops[-1], target)
    return handled


def _split_as(sch: Any, out: Any, reductions: list[Any]) -> None:
    """Split the innermost loop of a result where its reduction reads blocks along it: lanes then end with a block."""
    last = get_loops(sch, out)[-1] if get_loops(sch, out) else None
    size = extent(sch, last) if last is not None else 1
    for block in reductions:
        accesses = Accesses(sch, block)
        rows = [k for k, l in enumerate(accesses.loops) if not reduces(sch, block, l)]
        if not rows or accesses.extents[rows[-1]] != size:
            continue
        for factor in accesses.factors(rows[-1]):
            if isinstance(size, int) and size > factor > 1 and size % factor == 0:
                sch.split(last, [None, factor])
                return


def _tiled_row(sch: Any, out: Any, reductions: list[Any], split: set[str], target: Target) -> tuple[int, int]:
    """A loop of the result along which a contraction's vectors repeat, and how many of its rows to take at a time, so
    that each vector is loaded once for all of them; (0, 1) where there is none."""
    for block in reductions:
        accesses = Accesses(sch, block)
        results = [k for k, l in enumerate(accesses.loops) if not reduces(sch, block, l)]
        lanes_apart = len(results) == len(get_loops(sch, out)) + 1  # the stage with lanes of its own
        if (
            not is_contraction(sch, block)
            or not results
            or not (lanes_apart or len(results) == len(get_loops(sch, out)))
        ):
            continue
        lanes = results[-1]
        vectors = [a for a in accesses.accesses if not a.write and accesses.stride(a, lanes) == 1]
        width = target.lanes(accesses.itemsize())
        length = -(-min(as_number(accesses.extents[lanes]), _VECTORS * width) // width)
        room = target.vector_registers // 2 // length
        best = (0, 1)
        for k in results if lanes_apart else results[:-1]:
            size = accesses.extents[k]
            repeats = any(accesses.stride(a, k) == 0 for a in vectors if len(a.buffer.shape) > 1)
            if k == lanes or not isinstance(size, int) or not repeats:
                continue
            rows = max((d for d in range(1, min(room, _ROWS) + 1) if size % d == 0), default=1)
            if rows > best[1]:
                best = (k, rows)
        if best[1] > 1:
            return best
    return 0, 1


def _rows(
    sch: Any, out: Any, producers: list[Any], horizontal: bool, tiled: tuple[int, int], target: Target
) -> tuple[Any, bool]:
    """Bring the loops over rows outside; gives the loop at which to compute a row's stages (None: there is one row),
    and whether the innermost loop runs over neighbouring rows as a vector."""
    accesses = Accesses(sch, out)
    reduced = [b for p in producers if is_reduction(sch, p) for b in written(sch, p)]
    reads = [a for a in accesses.accesses if not a.write and any(a.buffer.same_as(b) for b in reduced)]
    rows = [k for k in range(len(accesses.loops)) if any(accesses.stride(a, k) != 0 for a in reads)]
    outer = [accesses.loops[k] for k in rows]
    inner = [accesses.loops[k] for k in range(len(accesses.loops)) if k not in rows]
    vector: list[Any] = []
    if rows and rows[-1] == len(accesses.loops) - 1 and not horizontal:
        size, width = accesses.extents[-1], target.lanes(accesses.itemsize())
        chunk = _chunk(size, width) if isinstance(size, int) else 1
        if chunk > 1:
            last = outer.pop()
            if chunk < size:
                head, last = sch.split(last, [None, chunk])
                outer.append(head)
            vector = [last]
    position, count = tiled
    if count > 1 and accesses.loops[position] in outer:
        at = outer.index(accesses.loops[position])
        outer[at], rows_inside = sch.split(outer[at], [None, count])
        inner.insert(0, rows_inside)
        if vector:  # tiles next to each other share the long operand, which then stays in the cache
            outer.append(outer.pop(at))
    if len(outer) + len(inner) + len(vector) > 1:
        sch.reorder(*outer, *inner, *vector)
    if not outer:
        return None, bool(vector)
    return (sch.fuse(*outer) if len(outer) > 1 else outer[0]), bool(vector)


def _chunk(size: int, width: int) -> int:
    """Neighbouring rows to take at a time: whole registers, or part of one; LLVM keeps odd longer vectors in memory."""
    if size <= width:
        return size
    for k in range(_VECTORS, 0, -1):
        if size % (k * width) == 0:
            return k * width
    best = max(d for d in range(1, width + 1) if size % d == 0)
    if best >= width // 2:
        return best
    return size if size <= _VECTORS * width else 1


def _computed_at(sch: Any, block: Any, place: Any) -> bool:
    """Compute a stage at a loop, unless that would compute elements again and again."""
    before = _domain(sch, block)
    trial = sch.copy()
    try:
        trial.compute_at(block, place, preserve_unit_loops=True)
    except ScheduleError:
        return False
    if _domain(trial, block) > 1.25 * before:
        return False
    sch.compute_at(block, place, preserve_unit_loops=True)
    return True


def _domain(sch: Any, block: Any) -> float:
    return float(prod(as_number(extent(sch, l)) for l in get_loops(sch, block)))


def _inside(sch: Any, block: Any, depth: int, target: Target) -> None:
    """Schedule a stage within a row: its buffer, the order of its loops, vectors."""
    loops = [l for l in get_loops(sch, block)[depth:] if extent(sch, l) != 1]
    size = prod(extent(sch, l) for l in loops if not reduces(sch, block, l)) if _static(sch, block, loops) else None
    for k, buffer in enumerate(written(sch, block)):
        if size is not None and size * itemsize_of(buffer) <= _LOCAL:
            sch.set_scope(block, k, "local")
    if not is_reduction(sch, block):
        merge_loops(sch, block, depth)
        accesses = Accesses(sch, block)
        if len(accesses.loops) > depth:
            vectorise(sch, accesses, accesses.loops[-1], target)
        return
    axes = [l for l in get_loops(sch, block)[depth:] if reduces(sch, block, l)]
    results = [l for l in loops if not reduces(sch, block, l)]
    lanes = results[-1] if results else None
    if lanes is not None:
        rows = results[:-1]
        if prod(as_number(extent(sch, l)) for l in rows) <= _ROWS:
            sch.reorder(*axes, *rows, lanes)
            for l in rows:
                sch.unroll(l)
        else:
            sch.reorder(*rows, *axes, lanes)
    vector = lanes is not None and _vector(sch, block, lanes, target)
    if not axes:
        return
    init = sch.decompose_reduction(block, axes[0])
    if vector:
        loop = get_loops(sch, init)[-1]
        if extent(sch, loop) != 1:
            sch.vectorize(loop)


def _static(sch: Any, block: Any, loops: list[Any]) -> bool:
    return all(isinstance(extent(sch, l), int) for l in loops if not reduces(sch, block, l))


def _vector(sch: Any, block: Any, loop: Any, target: Target) -> bool:
    """Make the lanes of a reduction a vector, where all operands are contiguous or fixed along them."""
    size = extent(sch, loop)
    accesses = Accesses(sch, block)
    position = next(k for k, l in enumerate(accesses.vars) if l.same_as(get(sch, loop).loop_var))
    width = target.lanes(accesses.itemsize())
    if not isinstance(size, int) or size > 4 * _VECTORS * width or not smooth(accesses, position):
        return False
    sch.vectorize(loop)
    return True


def _rows_only(sch: Any, block: Any, seconds: float, target: Target) -> None:
    """A reduction of pairs that are both results: in parallel."""
    rows = [l for l in get_loops(sch, block) if not reduces(sch, block, l)]
    if rows and target.threads > 1 and seconds >= elementwise.WORTH:
        sch.parallel(sch.fuse(*rows) if len(rows) > 1 else rows[0])
