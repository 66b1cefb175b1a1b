"""Maxima and minima that keep NaN, made known to TVM, so that the threads of a block may share such a reduction."""

from __future__ import annotations

import threading
from typing import Any

_lock = threading.Lock()
_done = False


def register_reducers() -> None:
    """Tell TVM to recognise Select(Or(x > y, isnan(x)), x, y) with identity -inf, and its mirror image.

    Does so once in a process."""
    global _done
    with _lock:
        if _done:
            return
        _register("max", _larger, float("-inf"))
        _register("min", _smaller, float("inf"))
        _done = True


def _larger(x: Any, y: Any) -> Any:
    from tvm import tirx

    return tirx.Select(tirx.Or(x > y, tirx.isnan(x)), x, y)


def _smaller(x: Any, y: Any) -> Any:
    from tvm import tirx

    return tirx.Select(tirx.Or(x < y, tirx.isnan(x)), x, y)


def maximum(value: Any, axes: Any) -> Any:
    """The largest of `value` over te reduction axes, NaN where one is NaN; in the form that TVM is told of."""
    from tvm import te, tirx

    reducer = te.comm_reducer(_larger, lambda dtype: tirx.const(float("-inf"), dtype), name="max")
    return reducer(value, axis=axes)


def _register(name: str, combine: Any, identity: float) -> None:
    import tvm_ffi
    from tvm import tirx

    # TVM's table of reducers outlives Python, and its release of a Python function then crashes. The table of global
    # functions is never released: what stands there too stays alive.
    combiner, start = f"cnncc.cuda.{name}_combine", f"cnncc.cuda.{name}_identity"
    tvm_ffi.register_global_func(combiner, lambda x, y: [combine(x[0], y[0])], override=True)
    tvm_ffi.register_global_func(start, lambda values: [tirx.const(identity, values[0].ty.dtype)], override=True)
    register = tvm_ffi.get_global_func("s_tir.schedule.RegisterReducer")
    register(1, tvm_ffi.get_global_func(combiner), tvm_ffi.get_global_func(start))
