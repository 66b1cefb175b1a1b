"""Which reductions are taken apart, and how: lanes for neighbouring terms, parts for the threads."""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import IRModule, s_tir

from cnncc.targets.cpu import elementwise, factor
from cnncc.targets.cpu.blocks import (
    Accesses,
    as_number,
    get,
    is_contraction,
    is_plain,
    is_reduction,
    name_of,
    reduces,
    root_blocks,
    written,
)
from cnncc.targets.cpu.operands import store_operands
from cnncc.targets.target import Target

_LONG = 256  # terms of a sum from which it is made of sums


def take_apart(sch: Any, target: Target) -> tuple[Any, list[str], set[str]]:
    """Lanes and parts for the reductions that gain from them; gives the function, the blocks of parts (each deserves a
    parallel nest of its own), and the reductions that have lanes."""
    func = sch.mod["main"]
    apart: list[str] = []
    split: set[str] = set()
    reductions = [b for b in root_blocks(sch) if is_plain(sch, b) and is_reduction(sch, b)]
    contractions = [name_of(sch, b) for b in reductions if len(written(sch, b)) == 1 and is_contraction(sch, b)]
    names = [name_of(sch, b) for b in reductions]
    for name in contractions:
        func = store_operands(func, name)
    for name in names:
        func, parts = _in_parts(func, name, target)
        if not parts:
            func = _in_sums_of_sums(func, name, target)
        for piece in (name, *parts):
            changed = _in_lanes(func, piece, target)
            if changed is not func:
                split.add(piece)
            func = changed
        apart += parts
    return func, apart, split


def _in_parts(func: Any, name: str, target: Target) -> tuple[Any, list[str]]:
    """A reduction with fewer results than threads, over its outermost axis first in parts, which run in parallel."""
    sch = _schedule(func)
    block = sch.get_sblock(name)
    step = factor.find_step(get(sch, block))
    elementwise.split_factors(sch, block)
    accesses = Accesses(sch, block)
    along_results = vertical(sch, block, target)
    results = [e for l, e in zip(accesses.loops, accesses.extents, strict=True) if not reduces(sch, block, l)]
    axes = [e for l, e in zip(accesses.loops, accesses.extents, strict=True) if reduces(sch, block, l)]
    rows = prod(as_number(e) for e in results) / (target.lanes(accesses.itemsize()) if along_results else 1)
    if (
        step is None
        or not axes
        or target.threads == 1
        or rows >= target.threads
        or elementwise.work(accesses) < 2 * elementwise.WORTH
    ):
        return func, []
    position = max(range(len(axes)), key=lambda k: (as_number(axes[k]) >= target.threads, -k))
    size = axes[position]
    if not isinstance(size, int):
        return factor.split_axis(func, name, position, 0), [f"{name}_parts"]
    parts = next((d for d in range(min(size, 8 * target.threads), 1, -1) if size % d == 0), 1)
    if parts < target.threads:
        return func, []
    return factor.split_axis(func, name, position, parts), [f"{name}_parts"]


def _in_sums_of_sums(func: Any, name: str, target: Target) -> Any:
    """A long reduction whose lanes are results, as a sum of sums: one chain of additions for a lane would lose as many
    digits as it is long."""
    sch = _schedule(func)
    block = sch.get_sblock(name)
    if factor.find_step(get(sch, block)) is None or is_contraction(sch, block) or not vertical(sch, block, target):
        return func
    accesses = Accesses(sch, block)
    axes = [e for l, e in zip(accesses.loops, accesses.extents, strict=True) if reduces(sch, block, l)]
    total = prod(as_number(e) for e in axes)
    if total < _LONG:
        return func
    choices = [k for k, e in enumerate(axes) if isinstance(e, int) and 1 < e <= _LONG]
    if not choices:
        return func
    best = min(choices, key=lambda k: abs(as_number(axes[k]) ** 2 - total))
    return factor.split_axis(func, name, best, 0)


def _in_lanes(func: Any, name: str, target: Target) -> Any:
    """A reduction along contiguous elements in lanes, and those in a tree."""
    sch = _schedule(func)
    block = sch.get_sblock(name)
    if factor.find_step(get(sch, block)) is None:
        return func
    accesses = Accesses(sch, block)
    group = [] if vertical(sch, block, target) else _contiguous(sch, block, accesses)
    if not group:
        return func
    first = sum(not reduces(sch, block, l) for l in accesses.loops)
    total = prod(accesses.extents[k] for k in group)
    width = target.lanes(accesses.itemsize())
    others = prod(as_number(e) for k, e in enumerate(accesses.extents) if k >= first and k not in group)
    lanes = _lanes(total, width, others)
    if lanes == 0:
        return func
    func = factor.split_lanes(func, name, [k - first for k in group], lanes)
    if total % lanes >= width:
        func = _in_lanes(func, f"{name}_rest", target)
    while lanes > 4:
        lanes = width if lanes > width else 4
        func = factor.split_lanes(func, name, [0], lanes)
    return func


def _lanes(total: int, width: int, repeats: int) -> int:
    """How many partial results to keep for a row of `total` elements, `repeats` of which make a result; 0 where the row
    is short. Each group of lanes costs a dependent addition of four cycles, each left-over element too."""
    choices = [k * width for k in (1, 2, 4) if k * width <= total]
    if repeats > 1:
        choices += [d for d in range(4, width) if total % d == 0]

    def cycles(lanes: int) -> int:
        vectors = -(-lanes // width)
        return repeats * (total // lanes * max(4, vectors) + total % lanes % width * 4) + vectors * 4

    return min(choices, key=cycles, default=0)


def smooth(accesses: Accesses, position: int) -> bool:
    """Whether vectors along a loop need contiguous elements and repeated ones only, and no conditions."""
    if accesses.vars[position] in accesses.guarding:
        return False
    return all(accesses.stride(a, position) in (0, 1) for a in accesses.accesses)


def vertical(sch: Any, block: Any, target: Target) -> bool:
    """Whether lanes of a reduction are better neighbouring results than partial ones: their operands lie side by side,
    and they are many, or more than there are neighbouring terms."""
    accesses = Accesses(sch, block)
    results = [k for k, l in enumerate(accesses.loops) if not reduces(sch, block, l) and accesses.extents[k] != 1]
    if not results or not smooth(accesses, results[-1]):
        return False
    if not any(not a.write and accesses.stride(a, results[-1]) == 1 and a.buffer.shape for a in accesses.accesses):
        return False
    neighbours = as_number(accesses.extents[results[-1]])
    if neighbours >= target.lanes(accesses.itemsize()) // 2:
        return True
    return bool(neighbours >= prod(accesses.extents[k] for k in _contiguous(sch, block, accesses)))


def _contiguous(sch: Any, block: Any, accesses: Accesses) -> list[int]:
    """Positions of the reduction loops that walk the largest operand element by element, outermost first."""
    reads = [a for a in accesses.accesses if not a.write and not any(a.buffer.same_as(w) for w in written(sch, block))]
    if not reads:
        return []
    main = max(reads, key=lambda a: prod(as_number(d) for d in a.buffer.shape))
    positions = [k for k, l in enumerate(accesses.loops) if reduces(sch, block, l)]
    last = next((k for k in positions if accesses.stride(main, k) == 1 and accesses.extents[k] != 1), None)
    if last is None or not isinstance(accesses.extents[last], int) or not smooth(accesses, last):
        return []
    group = [last]
    for k in reversed([p for p in positions if p < last]):
        if not isinstance(accesses.extents[k], int) or not accesses.mergeable(k, group[0]):
            break
        group.insert(0, k)
    return group


def _schedule(func: Any) -> Any:
    return s_tir.Schedule(IRModule({"main": func}))
