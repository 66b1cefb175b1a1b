"""Any te function: correct always, at a reasonable speed.

Injective stages are inlined; each stage that is left becomes a loop nest of its own, in parallel over its outer loops,
with vectors over its innermost result axis and reductions in local accumulators where TVM's primitives allow.
"""

from __future__ import annotations

from typing import Any

from tvm.s_tir.schedule import ScheduleError

from cnncc.targets.cpu.blocks import Accesses, extent, is_plain, is_reduction, root_blocks
from cnncc.targets.cpu.elementwise import inline_injective, schedule_injective, share, work
from cnncc.targets.target import Target

_ACCUMULATORS = 8  # vectors of partial results that a reduction keeps in registers


def schedule_fallback(sch: Any, target: Target) -> None:
    """Schedule any function that te.create_prim_func makes. Opaque blocks (extern operations) stay as they are."""
    inline_injective(sch)
    for block in root_blocks(sch):
        if not is_plain(sch, block):
            continue
        if is_reduction(sch, block):
            schedule_stage(sch, block, target)
        else:
            schedule_injective(sch, block, target)


def schedule_stage(sch: Any, block: Any, target: Target) -> None:
    """A reduction at the root: results in tiles of vectors, accumulated locally, reduction loops around them."""
    loops = sch.get_loops(block)
    reduced = [l for l in loops if _reduces(sch, block, l)]
    results = [l for l in loops if l not in reduced]
    seconds = work(Accesses(sch, block))
    if not results:
        return
    if len(sch.get(block).writes) == 1:
        copy = sch.cache_write(block, 0, "local")
        *outer, inner = sch.get_loops(copy)
        lanes = target.lanes(Accesses(sch, block).itemsize())
        size = extent(sch, inner)
        if isinstance(size, int) and size > lanes:
            tile = next((lanes * k for k in range(_ACCUMULATORS, 0, -1) if size % (lanes * k) == 0), lanes)
            head, inner = sch.split(inner, [None, tile])
            outer.append(head)
        vector = isinstance(size, int) and size > 1
        share(sch, outer, seconds, target)
        outer = sch.get_loops(copy)[:-1]
        if outer:
            sch.compute_at(block, outer[-1], preserve_unit_loops=True)
            inside = sch.get_loops(block)[len(outer) :]
        else:
            inside = sch.get_loops(block)
        _order(sch, block, inside, vector)
        if vector:
            sch.vectorize(sch.get_loops(copy)[-1])
        return
    share(sch, results[:1], seconds, target)


def _order(sch: Any, block: Any, inside: list[Any], vector: bool) -> None:
    """Reduction loops outside, result lanes inside, as vectors."""
    reduced = [l for l in inside if _reduces(sch, block, l)]
    lanes = [l for l in inside if l not in reduced]
    sch.reorder(*reduced, *lanes)
    if vector and lanes:
        _try_vectorize(sch, lanes[-1])
    init = sch.decompose_reduction(block, reduced[0])
    if vector and lanes:
        _try_vectorize(sch, sch.get_loops(init)[-1])


def _try_vectorize(sch: Any, loop: Any) -> None:
    try:
        sch.vectorize(loop)
    except ScheduleError:
        return  # a predicate or an opaque binding: it stays a loop


def _reduces(sch: Any, block: Any, loop: Any) -> bool:
    """Whether a loop drives a reduction axis of the block."""
    import tvm_ffi
    from tvm import ir

    from cnncc.targets.cpu.blocks import _realize

    node = sch.get(block)
    var = sch.get(loop).loop_var
    for axis, value in zip(node.iter_vars, _realize(sch, block).iter_values, strict=True):
        if int(axis.iter_type) == 2:
            found: list[Any] = []
            tvm_ffi.structural_walk(value, (ir.Var, found.append))
            if any(var.same_as(f) for f in found):
                return True
    return False
