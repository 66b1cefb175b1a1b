"""Elementwise kernels: chains, broadcasts, transposes, layout transforms, concat, slice, pad, gather.

Stages are inlined into the outputs. Neighbouring loops that no operand tells apart become one; outer loops are shared
among the threads; the innermost becomes vectors. Where an operand runs along another loop than the result, square tiles
keep both within a few cache lines.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import ir
from tvm.s_tir.schedule import ScheduleError

from cnncc.targets.cpu.blocks import (
    Accesses,
    as_number,
    extent,
    get_loops,
    is_output,
    is_plain,
    is_reduction,
    root_blocks,
)
from cnncc.targets.target import Target

WORTH = 6e-6  # seconds of work on one core from which the threads share it
_CHUNK = 2048  # elements that a task should at least hold
_PIECE = 1024  # elements of each of several outputs that are made in turn
_WHOLE = 4  # a row of up to so many registers becomes one vector, whatever its length


def schedule_elementwise(sch: Any, target: Target) -> None:
    """Schedule a function of injective te stages; several outputs become loops one after the other."""
    inline_injective(sch)
    blocks = root_blocks(sch)
    if len(blocks) > 1 and _together(sch, blocks, target):
        return
    for block in blocks:
        schedule_injective(sch, block, target)


def inline_injective(sch: Any, keep: Any = lambda block: False) -> None:
    """Inline every injective stage that is not an output, as far as TVM can; `keep(block)` exempts some."""
    for block in root_blocks(sch):
        if is_output(sch, block) or not is_plain(sch, block) or is_reduction(sch, block) or keep(block):
            continue
        try:
            sch.compute_inline(block)
        except ScheduleError:
            continue  # read by an opaque block, or through something that cannot be substituted: it stays a stage


def schedule_injective(sch: Any, block: Any, target: Target) -> None:
    """Schedule one injective block at the root."""
    if not is_plain(sch, block) or not get_loops(sch, block):
        return
    if 0 in Accesses(sch, block).extents:
        return  # nothing to do, and TVM divides by the extents of loops that it fuses
    split_factors(sch, block)
    merge_loops(sch, block)
    accesses = Accesses(sch, block)
    seconds = work(accesses)
    partner = _partner(accesses)
    *outer, inner = accesses.loops
    if partner is not None:
        outer, inner = _tile(sch, accesses, partner, target)
    else:
        vectorise(sch, accesses, inner, target)
        outer = get_loops(sch, block)[: len(outer)] if outer else _chunks(sch, block, accesses, target)
    share(sch, outer, seconds, target)


def _together(sch: Any, blocks: list[Any], target: Target) -> bool:
    """Outputs of one shape, none of which reads another but at its own position, in pieces that stay in the cache: one
    loop over pieces, in it a loop for each output. False where they are not of that kind."""
    if not all(is_plain(sch, b) and get_loops(sch, b) for b in blocks):
        return False
    for block in blocks:
        merge_loops(sch, block)
    every = [Accesses(sch, b) for b in blocks]
    first = every[0]
    if any(len(a.loops) != len(first.loops) for a in every) or not all(_alike(a, every) for a in every):
        return False
    seconds = sum(work(a) for a in every)
    size = first.extents[-1]
    piece = _divisor(size, _PIECE, 1) if isinstance(size, int) else 1
    tasks = []
    for block, accesses in zip(blocks, every, strict=True):
        *outer, inner = accesses.loops
        if isinstance(size, int) and size > _PIECE and piece >= _PIECE // 8:
            head, inner = sch.split(inner, [None, piece])
            outer.append(head)
        if not outer:
            return False
        tasks.append(sch.fuse(*outer) if len(outer) > 1 else outer[0])
        rest = Accesses(sch, block)
        vectorise(sch, rest, rest.loops[-1], target)
    share(sch, [sch.merge(*tasks)], seconds, target)
    return True


def _alike(accesses: Accesses, every: list[Accesses]) -> bool:
    """Whether a block has the loops of all others, and touches what they write at the place that they write only."""
    for other in every:
        if [as_number(e) for e in other.extents] != [as_number(e) for e in accesses.extents]:
            return False
        if any(isinstance(a, int) != isinstance(b, int) for a, b in zip(other.extents, accesses.extents, strict=True)):
            return False
        place = dict(zip(other.vars, accesses.vars, strict=True))
        for store in (a for a in other.accesses if a.write):
            at = tvm_ffi.structural_map(store.offset, (ir.Var, lambda v, place=place: place.get(v, v)))
            touched = [a.offset for a in accesses.accesses if a.buffer.same_as(store.buffer)]
            if not all(tvm_ffi.structural_equal(t, at) for t in touched):
                return False
    return True


def work(accesses: Accesses) -> float:
    """Estimated seconds of a block on one core: memory traffic, or operations in vectors."""
    elements = 1.0
    for e in accesses.extents:
        elements *= as_number(e)
    traffic = sum(_bytes(accesses, a) for a in accesses.accesses)
    return elements * (traffic / 20e9 + accesses.operations * accesses.itemsize() / 200e9)


def _bytes(accesses: Accesses, access: Any) -> float:
    from cnncc.targets.cpu.blocks import itemsize_of

    stride = accesses.stride(access, len(accesses.vars) - 1) if accesses.vars else 0
    return 0.0 if stride == 0 else float(itemsize_of(access.buffer))


def share(sch: Any, loops: list[Any], seconds: float, target: Target) -> None:
    """Fuse the outer loops and run them in parallel, where the target has threads and the work is worth it."""
    if not loops or target.threads == 1 or seconds < WORTH:
        return
    sch.parallel(sch.fuse(*loops) if len(loops) > 1 else loops[0])


def split_factors(sch: Any, block: Any) -> None:
    """Split loops whose variable is divided by a constant in an offset (blocked layouts): then offsets are linear."""
    accesses = Accesses(sch, block)
    for k, loop in enumerate(accesses.loops):
        size = accesses.extents[k]
        for factor in accesses.factors(k):
            if isinstance(size, int) and size > factor > 1 and size % factor == 0:
                sch.split(loop, [None, factor])
                break


def merge_loops(sch: Any, block: Any, depth: int = 0) -> None:
    """Fuse neighbouring loops, `depth` and inside it, that all operands walk as one; symbolic ones stay."""
    accesses = Accesses(sch, block)
    groups: list[list[int]] = []
    for k in range(depth, len(accesses.loops)):
        static = isinstance(accesses.extents[k], int)
        if groups and static and isinstance(accesses.extents[groups[-1][-1]], int) and accesses.mergeable(k - 1, k):
            groups[-1].append(k)
        else:
            groups.append([k])
    for group in groups:
        if len(group) > 1:
            sch.fuse(*(accesses.loops[k] for k in group))


def _partner(accesses: Accesses) -> int | None:
    """The loop along which some operand is contiguous while it jumps along the innermost loop."""
    last = len(accesses.loops) - 1
    for access in accesses.accesses:
        if access.write or accesses.stride(access, last) in (0, 1):
            continue
        for k in range(last - 1, -1, -1):
            if accesses.stride(access, k) == 1 and accesses.extents[k] != 1:
                return k
    return None


def _tile(sch: Any, accesses: Accesses, partner: int, target: Target) -> tuple[list[Any], Any]:
    """Tiles of the innermost loop and its partner; gives the loops outside the tile, and the innermost."""
    side = target.lanes(accesses.itemsize())
    *loops, inner = accesses.loops
    other = loops.pop(partner)
    tiles = []
    sizes = (accesses.extents[partner], accesses.extents[-1])
    for loop, size in zip((other, inner), sizes, strict=True):
        if isinstance(size, int) and size > side and size % side == 0:
            tiles.append(sch.split(loop, [None, side]))
        else:
            tiles.append([loop])
    heads = [t[0] for t in tiles if len(t) == 2]
    sch.reorder(*loops, *heads, *(t[-1] for t in tiles))
    if isinstance(sizes[1], int) and (sizes[1] % side == 0 or sizes[1] <= side):
        sch.vectorize(tiles[1][-1])
    return [*loops, *heads], tiles[1][-1]


def vectorise(sch: Any, accesses: Accesses, loop: Any, target: Target) -> None:
    """Vectors of the innermost loop. What this leaves a plain loop (symbolic or odd lengths, conditions on the
    position) LLVM's vectoriser takes, with masks or a scalar rest."""
    size = accesses.extents[-1]
    lanes = target.lanes(max(1, _output_size(accesses)))
    if not isinstance(size, int) or accesses.vars[-1] in accesses.guarding:
        return
    if any(accesses.stride(a, len(accesses.vars) - 1) not in (0, 1) for a in accesses.accesses):
        return
    if size > lanes and size % lanes == 0:
        sch.vectorize(sch.split(loop, [None, lanes])[1])
    elif 1 < size <= _WHOLE * lanes:
        sch.vectorize(loop)


def _output_size(accesses: Accesses) -> int:
    from cnncc.targets.cpu.blocks import itemsize_of

    return next((itemsize_of(a.buffer) for a in accesses.accesses if a.write), 4)


def _chunks(sch: Any, block: Any, accesses: Accesses, target: Target) -> list[Any]:
    """A single loop cut into tasks for the threads; gives the loop over tasks."""
    loops = get_loops(sch, block)
    size = extent(sch, loops[0])
    if not isinstance(size, int) or target.threads == 1 or work(accesses) < WORTH:
        return []
    total = accesses.extents[-1]
    tasks = _divisor(size, max(target.threads, min(16 * target.threads, total // _CHUNK)), target.threads)
    if tasks > 1:
        return [sch.split(loops[0], [tasks, None])[0]]
    return [sch.split(loops[0], [target.threads, None])[0]]


def _divisor(size: int, most: int, least: int) -> int:
    """The largest divisor of `size` in [least, most], 1 where there is none."""
    return next((d for d in range(most, least - 1, -1) if size % d == 0), 1)
