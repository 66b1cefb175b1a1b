"""The run loop: a kernel that calls the other kernels, so that a run is one native call without the GIL.

Called from Python one by one, every kernel takes the GIL again when it returns, and waits up to five milliseconds for
it where another Python thread computes.
"""

from __future__ import annotations

from typing import Any

from cnncc.runtime.program import RUN_LOOP

KEY = f"{RUN_LOOP} v1"  # the loop's descriptor in the kernel cache: change it with the loop


def run_loop() -> Any:
    """The loop as a PrimFunc of (table of calls, status); see `cnncc.runtime.calltable` for their words.

    Stops at the first call that fails: status[0] is then its result, status[1] its row. status[2:4] takes results.
    """
    from tvm.script import tirx as T  # noqa: N812

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def loop(table: T.handle, status: T.handle) -> None:
        n = T.int64()
        calls = T.match_buffer(table, (n, 8), "uint64")
        state = T.match_buffer(status, (8,), "int64")
        for i in range(n):
            with T.sblock("call"):
                if state[0] == T.int64(0):
                    state[1] = i
                    state[0] = T.cast(
                        T.call_extern(
                            "int32",
                            "TVMFFIFunctionCall",
                            T.reinterpret("handle", calls[i, 0]),
                            T.reinterpret("handle", calls[i, 1]),
                            T.cast(calls[i, 2], "int32"),
                            T.address_of(state[2]),
                        ),
                        "int64",
                    )

    return loop
