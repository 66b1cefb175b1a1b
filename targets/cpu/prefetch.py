"""Weights that come from a far cache or from memory, asked for ahead of time.

The innermost loop of a matrix product reads its weights as a stream. Processors fetch streams ahead by themselves, but
stop at the end of every page; where a product is about as fast as the cache, the waiting that follows shows.
"""

from __future__ import annotations

import itertools
from math import prod
from typing import Any

import tvm_ffi
from tvm import ir, sym, tirx

from cnncc.targets.cpu.blocks import itemsize_of

LARGE = 1 << 16  # bytes of an operand that is in no near cache any more when a run comes back to it
AHEAD = 4096  # bytes: the next page
USES = 6  # multiply-adds for every line of the stream; where there are fewer, memory is what takes the time
LINE = 64  # bytes that arrive together
L1, L2 = 3, 2  # LLVM's names for the caches that a line is brought to
TURNS, PART = "cnncc.turns", "cnncc.part"  # of loops that pass over a part of a stream in turn: how many, its bytes


def fetch_ahead(func: Any) -> Any:
    """for i: acc += x[i] * w[i] --> for i: prefetch(w[i + AHEAD]); acc += x[i] * w[i], for large w in innermost loops.

    Loops marked with TURNS and PART pass over one part of a stream in turn, and fetch the next part meanwhile, each
    some of its lines, into the second-level cache: memory is then busy all the time, and not in the first of them only.

    Takes a function with flat buffers whose loops are vectorised and unrolled.
    """
    large = _large_operands(func)
    if not large:
        return func

    marked = itertools.count()

    def on_loop(loop: Any, mutator: Any) -> Any:
        inner: list[Any] = []
        tvm_ffi.structural_walk(loop.body, (tirx.For, inner.append))
        if inner:
            return mutator.default_mutate(loop)
        if TURNS in loop.annotations:
            turns, step, near = int(loop.annotations[TURNS]), int(loop.annotations[PART]), L2
            loads = _distinct(loop, large)[next(marked) % turns :: turns]
        else:
            step, near, loads = AHEAD, L1, _streams(loop, large)
        if not loads:
            return loop
        body = tirx.SeqStmt([*(tirx.Evaluate(_prefetch(load, step, near)) for load in loads), loop.body])
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, None, loop.annotations)

    return func.with_body(tvm_ffi.structural_mutate(func.body, ((tirx.For, on_loop),)))


def _large_operands(func: Any) -> list[Any]:
    """The flat forms of the operands of LARGE size; those of symbolic size are activations."""
    names = set()
    for param in func.params:
        extents = getattr(param, "shape", ())
        if extents and all(isinstance(extent, tirx.IntImm) for extent in extents):
            nbytes = prod(int(extent) for extent in extents) * itemsize_of(param)
            if nbytes >= LARGE:
                names.add(f"{param.name}.data")
    found: list[Any] = []
    if names:
        tvm_ffi.structural_walk(
            func.body, (tirx.DeclBuffer, lambda d: found.append(d.buffer) if str(d.data) in names else None)
        )
    return found


def _streams(loop: Any, large: list[Any]) -> list[Any]:
    """The vector loads of large operands in a loop that runs along them, each line once, if used often enough."""
    loads = _loads(loop, large)
    distinct = _distinct(loop, large)
    lines = sum(int(load.indices[-1].lanes) * itemsize_of(load.source) for load in distinct) / LINE
    return distinct if len(loads) >= USES * lines else []


def _loads(loop: Any, large: list[Any]) -> list[Any]:
    """The vector loads of large operands in a loop."""
    loads: list[Any] = []

    def on_load(load: Any) -> None:
        index = load.indices[-1]
        if isinstance(index, tirx.Ramp) and any(load.source.same_as(buffer) for buffer in large):
            loads.append(load)

    tvm_ffi.structural_walk(loop.body, (ir.TensorLoad, on_load))
    return loads


def _distinct(loop: Any, large: list[Any]) -> list[Any]:
    """One load for every line."""
    analyzer = sym.Analyzer()
    distinct: list[Any] = []
    for load in _loads(loop, large):
        base = load.indices[-1].base
        apart = [analyzer.simplify(base - other.indices[-1].base) for other in distinct]
        near = LINE // itemsize_of(load.source)
        if not any(isinstance(d, tirx.IntImm) and abs(int(d)) < near for d in apart):
            distinct.append(load)
    return distinct


def _prefetch(load: Any, nbytes: int, cache: int) -> Any:
    base = load.indices[-1].base
    step = nbytes // itemsize_of(load.source)
    there = tirx.BufferLoad(load.source, [base + tirx.const(step, str(base.ty.dtype))])
    read, near, data = (tirx.const(v, "int32") for v in (0, cache, 1))
    return tirx.call_intrin("void", "tirx.prefetch", tirx.address_of(there), read, near, data)
