"""What this machine multiplies and adds at best: the measure that kernel times are quoted against."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

_CHAINS = 12  # independent accumulators: more than latency times throughput, and with x they fit AVX2's 16 registers
_STEPS = 100_000


def measure_peak(threads: int = 1, rounds: int = 5) -> float:
    """GFLOP/s of a register-only loop of fused multiply-adds in float32, the best of some rounds of a few milliseconds.

    `threads` may not exceed the calling thread's pool (TVM_NUM_THREADS when it first ran something in parallel).
    """
    lanes = _lanes()
    loop, arguments = _loop(threads, lanes)
    best = float("inf")
    clock = time.thread_time if threads == 1 else time.perf_counter  # other processes should not count
    for _ in range(rounds + 1):  # the first one warms up
        start = clock()
        loop(*arguments)
        best = min(best, clock() - start)
    return 2.0 * threads * _CHAINS * lanes * _STEPS / best / 1e9


def _lanes() -> int:
    from tvm.target import codegen

    features = {str(f) for f in codegen.llvm_get_cpu_features(_host())}
    return 16 if "avx512f" in features else 8 if "avx" in features else 4


def _host() -> Any:
    from tvm.target import Target, codegen

    return Target({"kind": "llvm", "mcpu": str(codegen.llvm_get_system_cpu())})


@lru_cache(maxsize=8)
def _loop(threads: int, lanes: int) -> tuple[Any, tuple[Any, ...]]:
    """The compiled loop, and its arguments."""
    import numpy as np
    import tvm
    from tvm.script import tirx as T  # noqa: N812

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]  # TVM has no types here
    def main(x: T.Buffer((2, lanes), "float32"), out: T.Buffer((threads, _CHAINS, lanes), "float32")) -> None:  # type: ignore[valid-type]  # TVM reads them
        T.func_attr({"tirx.noalias": True})
        for thread in T.parallel(threads):
            with T.sblock("chains"):
                t = T.axis.spatial(threads, thread)
                acc = T.sblock_alloc_buffer((_CHAINS, lanes), "float32", scope="local")
                for i in T.unroll(_CHAINS):
                    for j in T.vectorized(lanes):
                        acc[i, j] = x[0, j]
                for _ in range(_STEPS):
                    for i in T.unroll(_CHAINS):
                        for j in T.vectorized(lanes):
                            acc[i, j] = acc[i, j] * x[0, j] + x[1, j]
                for i in T.unroll(_CHAINS):
                    for j in T.vectorized(lanes):
                        out[t, i, j] = acc[i, j]

    built = tvm.compile(main, target=_host())
    x = np.array([[0.5] * lanes, [0.25] * lanes], "float32")
    return built["main"], (tvm.runtime.tensor(x), tvm.runtime.tensor(np.zeros((threads, _CHAINS, lanes), "float32")))
