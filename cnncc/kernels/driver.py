"""The run loop: a kernel that calls the other kernels, so that a run is one native call without the GIL.

Called from Python one by one, every kernel takes the GIL again when it returns, and waits up to five milliseconds for
it where another Python thread computes. The loop is also where threads are started, once a run.
"""

from __future__ import annotations

from typing import Any

from cnncc.runtime.program import RUN_LOOP

KEY = f"{RUN_LOOP} v2"  # the loop's descriptor in the kernel cache: change it with the loop


def run_loop() -> Any:
    """The loop as a PrimFunc of (table of calls, status, barrier); see `cnncc.runtime.calltable` for their words.

    calls[i, t] is call i as thread t makes it: its function (0: the thread has nothing to do), arguments, their number,
    and where it waits for the others afterwards (0: it does not). A thread calls no more after a call that fails:
    status[t, 0] is then its result, status[t, 1] the call. status[t, 2:4] takes results.
    """
    from tvm.script import tirx as T  # noqa: N812

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]  # TVM has no types here
    def loop(table: T.handle, status: T.handle, barrier: T.handle) -> None:
        n = T.int64()
        threads = T.int64()
        calls = T.match_buffer(table, (n, threads, 8), "uint64")
        state = T.match_buffer(status, (threads, 8), "int64")
        counts = T.match_buffer(barrier, (threads, 16), "int32")
        if threads == T.int64(1):
            for i in range(n):
                with T.sblock("call"):
                    if state[0, 0] == T.int64(0):
                        state[0, 1] = i
                        state[0, 0] = T.cast(
                            T.call_extern(
                                "int32",
                                "TVMFFIFunctionCall",
                                T.reinterpret("handle", calls[i, 0, 0]),
                                T.reinterpret("handle", calls[i, 0, 1]),
                                T.cast(calls[i, 0, 2], "int32"),
                                T.address_of(state[0, 2]),
                            ),
                            "int64",
                        )
        else:
            for t in range(threads):
                with T.sblock("reset"):
                    counts[t, 0] = 0
            for t in T.parallel(threads):
                for i in range(n):
                    with T.sblock("team_call"):
                        if calls[i, t, 0] != T.uint64(0) and state[t, 0] == T.int64(0):
                            state[t, 1] = i
                            state[t, 0] = T.cast(
                                T.call_extern(
                                    "int32",
                                    "TVMFFIFunctionCall",
                                    T.reinterpret("handle", calls[i, t, 0]),
                                    T.reinterpret("handle", calls[i, t, 1]),
                                    T.cast(calls[i, t, 2], "int32"),
                                    T.address_of(state[t, 2]),
                                ),
                                "int64",
                            )
                        if calls[i, t, 3] != T.uint64(0):
                            T.evaluate(
                                T.call_extern(
                                    "int32",
                                    "TVMBackendParallelBarrier",
                                    T.cast(t, "int32"),
                                    T.reinterpret("handle", calls[i, t, 3]),
                                )
                            )

    return loop
