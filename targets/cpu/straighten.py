"""Offsets of split loops made linear again.

Loops over neighbouring axes are fused and split into vectors. Where the vector does not divide an axis, TVM rewrites
the offset's quotients over the new loops one by one, and what was a line through memory becomes gathers and scatters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import tvm_ffi
from tvm import ir, sym, tirx

_CHAIN = 3  # loops that one loop was split into at most


def straighten_offsets(func: Any) -> Any:
    """(i // 49) 784 + (i % 49 16 + j) // 28 28 + (i 16 + j) % 28 --> i 16 + j, for loops i and j < 16, likewise."""
    loops: list[Any] = []

    def on_loop(loop: Any, mutator: Any) -> Any:
        loops.append(loop)
        changed = mutator.default_mutate(loop)
        loops.pop()
        return changed

    def on_load(load: Any, mutator: Any) -> Any:
        load = mutator.default_mutate(load)
        indices = [_straight(i, loops) for i in load.indices]
        same = all(a.same_as(b) for a, b in zip(indices, load.indices, strict=True))
        return load if same else tirx.BufferLoad(load.source, indices)

    def on_store(store: Any, mutator: Any) -> Any:
        store = mutator.default_mutate(store)
        indices = [_straight(i, loops) for i in store.indices]
        same = all(a.same_as(b) for a, b in zip(indices, store.indices, strict=True))
        return store if same else tirx.BufferStore(store.buffer, store.value, indices)

    body = tvm_ffi.structural_mutate(
        func.body, ((tirx.For, on_loop), (ir.TensorLoad, on_load), (tirx.BufferStore, on_store))
    )
    return func.with_body(body)


def _straight(index: Any, loops: Sequence[Any]) -> Any:
    """An offset, linear in the loop that its quotients' loops were split from, where there is such a loop."""
    if not loops or not _divided(index, loops[-1].loop_var):
        return index
    dtype = str(index.ty.dtype)
    for chain in _chains(loops):
        whole = tirx.Var("whole", dtype)
        analyzer = sym.Analyzer()
        for loop in loops:
            if loop not in chain:
                analyzer.bind(loop.loop_var, ir.Range.from_min_extent(loop.min, loop.extent))
        size = 1
        parts: dict[Any, Any] = {}
        joined: Any = tirx.const(0, dtype)
        for loop in reversed(chain):
            extent = int(loop.extent)
            part = tirx.floordiv(whole, tirx.const(size, dtype))
            parts[loop.loop_var] = tirx.floormod(part, tirx.const(extent, dtype)) if loop is not chain[0] else part
            joined = joined + loop.loop_var * tirx.const(size, dtype)
            size *= extent
        analyzer.bind(whole, ir.Range.from_min_extent(tirx.const(0, dtype), tirx.const(size, dtype)))
        found = analyzer.simplify(tvm_ffi.structural_map(index, (ir.Var, lambda v, parts=parts: parts.get(v, v))))
        if not _divided(found, whole):
            return tvm_ffi.structural_map(found, (ir.Var, lambda v, w=whole, j=joined: j if v.same_as(w) else v))
    return index


def _chains(loops: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """The innermost loop with one or two around it, the nearest first; all of known length from 0."""
    known = [
        l for l in loops if isinstance(l.extent, tirx.IntImm) and isinstance(l.min, tirx.IntImm) and not int(l.min)
    ]
    if not known or not known[-1].same_as(loops[-1]):
        return
    outer = known[:-1][::-1]
    for count in range(1, _CHAIN):
        for chosen in combinations(outer, count):
            yield (*reversed(chosen), loops[-1])


def _divided(expr: Any, var: Any) -> bool:
    """Whether a variable occurs within a quotient or a remainder."""
    found = False

    def inside(v: Any) -> None:
        nonlocal found
        found = found or v.same_as(var)

    tvm_ffi.structural_walk(
        expr, ((tirx.FloorDiv, tirx.FloorMod), lambda e: tvm_ffi.structural_walk(e, (ir.Var, inside)))
    )
    return found
