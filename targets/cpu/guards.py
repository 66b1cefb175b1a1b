"""Terms of a sum that are left out: a branch around the loops in place of zeros in them."""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import ir, tirx

IF = "prim.if_then_else"


def branch_around(func: Any) -> Any:
    """acc[i] = acc[i] + if_then_else(c, e, 0) --> if c: acc[i] = acc[i] + e.

    Where c does not change in the loops around it, HoistIfThenElse takes it out of them.
    """

    def on_store(store: Any) -> Any:
        value = store.value
        if not isinstance(value, tirx.Add) or not _is_choice(value.b):
            return store
        condition, term, otherwise = value.b.args
        own = isinstance(value.a, ir.TensorLoad) and value.a.source.same_as(store.buffer)
        if not own or not isinstance(otherwise, tirx.FloatImm) or otherwise.value != 0:
            return store
        return tirx.IfThenElse(condition, tirx.BufferStore(store.buffer, value.a + term, store.indices), None)

    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.BufferStore, on_store)))


def _is_choice(expr: Any) -> bool:
    return isinstance(expr, ir.Call) and isinstance(expr.op, ir.Op) and expr.op.name == IF
