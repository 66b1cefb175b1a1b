"""What this machine reads and writes at best: with the FMA peak, the measure that kernel times are quoted against."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import numpy as np

from cnncc.runtime.arena import empty
from cnncc.runtime.native import import_tvm

_LANES = 16
_CHAINS = 8  # vectors in flight
_LEAST = 2e-3  # seconds of one measurement: short against the system's interruptions, long against a launch


def measure_bandwidth(threads: int, nbytes: int, rounds: int = 5) -> float:
    """GB/s over `nbytes` of memory in all, each thread on its part: the best of reading (sums) and of updating
    (y = y c + x, two reads and a write), over some rounds of a few milliseconds.

    `threads` may not exceed the calling thread's pool.
    """
    rows = max(1, nbytes // (4 * threads * _CHAINS * _LANES))
    read = _best(_reading(threads), [_filled(threads, rows), _filled(threads)], 1, rounds)
    half = (rows + 1) // 2
    return max(read, _best(_updating(threads), [_filled(threads, half), _filled(threads, half)], 3, rounds))


def _filled(threads: int, *rows: int) -> np.ndarray:
    array = empty((threads, *rows, _CHAINS, _LANES), np.float32)
    array[...] = 0.5
    return array


def _best(loop: Any, arrays: list[np.ndarray], transfers: int, rounds: int) -> float:
    """GB/s of a loop that moves each element of the first array so many times in a pass."""
    tvm = import_tvm()
    passes = empty((1,), np.int64)
    arguments = [tvm.runtime.from_dlpack(a) for a in (passes, *arrays)]

    def run(count: int) -> float:
        passes[0] = count
        start = time.perf_counter()
        loop(*arguments)
        return time.perf_counter() - start

    run(1)
    count = max(1, round(_LEAST / max(run(1), 1e-7)))
    best = min(run(count) for _ in range(rounds)) / count
    return float(transfers * arrays[0].nbytes / best / 1e9)


def _host() -> Any:
    from tvm.target import Target, codegen

    return Target({"kind": "llvm", "mcpu": str(codegen.llvm_get_system_cpu())})


@lru_cache(maxsize=4)
def _reading(threads: int) -> Any:
    tvm = import_tvm()
    from tvm.script import tirx as T  # noqa: N812

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]  # TVM has no types here
    def main(passes: T.handle, memory: T.handle, result: T.handle) -> None:
        T.func_attr({"tirx.noalias": True})
        n = T.int64()
        count = T.match_buffer(passes, (1,), "int64")
        x = T.match_buffer(memory, (threads, n, _CHAINS, _LANES), "float32")
        out = T.match_buffer(result, (threads, _CHAINS, _LANES), "float32")
        for thread in T.parallel(threads):
            with T.sblock("sum"):
                t = T.axis.spatial(threads, thread)
                acc = T.sblock_alloc_buffer((_CHAINS, _LANES), "float32", scope="local")
                for i in T.unroll(_CHAINS):
                    for j in T.vectorized(_LANES):
                        acc[i, j] = T.float32(0)
                for _ in range(count[0]):
                    for r in range(n):
                        for i in T.unroll(_CHAINS):
                            for j in T.vectorized(_LANES):
                                acc[i, j] = acc[i, j] + x[t, r, i, j]
                for i in T.unroll(_CHAINS):
                    for j in T.vectorized(_LANES):
                        out[t, i, j] = acc[i, j]

    return tvm.compile(main, target=_host())["main"]


@lru_cache(maxsize=4)
def _updating(threads: int) -> Any:
    tvm = import_tvm()
    from tvm.script import tirx as T  # noqa: N812

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]  # TVM has no types here
    def main(passes: T.handle, given: T.handle, updated: T.handle) -> None:
        T.func_attr({"tirx.noalias": True})
        n = T.int64()
        count = T.match_buffer(passes, (1,), "int64")
        x = T.match_buffer(given, (threads, n, _CHAINS, _LANES), "float32")
        y = T.match_buffer(updated, (threads, n, _CHAINS, _LANES), "float32")
        for thread in T.parallel(threads):
            with T.sblock("update"):
                t = T.axis.spatial(threads, thread)
                for _ in range(count[0]):
                    for r in range(n):
                        for i in T.unroll(_CHAINS):
                            for j in T.vectorized(_LANES):
                                y[t, r, i, j] = y[t, r, i, j] * T.float32(0.5) + x[t, r, i, j]

    return tvm.compile(main, target=_host())["main"]
