"""Weights that come from a far cache or from memory, asked for ahead of time.

The innermost loop of a matrix product reads its weights as a stream. Processors fetch streams ahead by themselves, but
stop at the end of every page; where a product is about as fast as the cache, the waiting that follows shows.
"""

from __future__ import annotations

from math import prod
from typing import Any

import tvm_ffi
from tvm import ir, sym, tirx

from cnncc.targets.cpu.blocks import itemsize_of

LARGE = 1 << 16  # bytes of an operand that is in no near cache any more when a run comes back to it
AHEAD = 4096  # bytes: the next page
USES = 6  # multiply-adds for every line of the stream; where there are fewer, memory is what takes the time
LINE = 64  # bytes that arrive together


def fetch_ahead(func: Any) -> Any:
    """for i: acc += x[i] * w[i] --> for i: prefetch(w[i + AHEAD]); acc += x[i] * w[i], for large w in innermost loops.

    Takes a function with flat buffers whose loops are vectorised and unrolled.
    """
    large = _large_operands(func)
    if not large:
        return func

    def on_loop(loop: Any, mutator: Any) -> Any:
        inner: list[Any] = []
        tvm_ffi.structural_walk(loop.body, (tirx.For, inner.append))
        if inner:
            return mutator.default_mutate(loop)
        ahead = [tirx.Evaluate(_prefetch(load)) for load in _streams(loop, large)]
        if not ahead:
            return loop
        body = tirx.SeqStmt([*ahead, loop.body])
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
    loads: list[Any] = []

    def on_load(load: Any) -> None:
        index = load.indices[-1]
        if isinstance(index, tirx.Ramp) and any(load.source.same_as(buffer) for buffer in large):
            loads.append(load)

    tvm_ffi.structural_walk(loop.body, (ir.TensorLoad, on_load))
    analyzer = sym.Analyzer()
    distinct: list[Any] = []
    for load in loads:
        base = load.indices[-1].base
        apart = [analyzer.simplify(base - other.indices[-1].base) for other in distinct]
        near = LINE // itemsize_of(load.source)
        if not any(isinstance(d, tirx.IntImm) and abs(int(d)) < near for d in apart):
            distinct.append(load)
    lines = sum(int(load.indices[-1].lanes) * itemsize_of(load.source) for load in distinct) / LINE
    return distinct if len(loads) >= USES * lines else []


def _prefetch(load: Any) -> Any:
    base = load.indices[-1].base
    step = AHEAD // itemsize_of(load.source)
    there = tirx.BufferLoad(load.source, [base + tirx.const(step, str(base.ty.dtype))])
    read, near, data = (tirx.const(v, "int32") for v in (0, 3, 1))
    return tirx.call_intrin("void", "tirx.prefetch", tirx.address_of(there), read, near, data)
