"""Lets as TVM can bear them: local variables.

For every `Let`, the simplifiers inside TVM's passes and its code generator replace variables by their values, and
theirs again: time exponential in the length of a chain such as exp(tanh(log(x))) as polynomials. They do not look
behind a load, and LLVM turns local buffers of one element back into values.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import ir, tirx

from cnncc.targets.cpu.math import is_nan


class _Statement:
    """The lets found in one statement, as stores to buffers."""

    def __init__(self) -> None:
        self.stores: list[Any] = []
        self.buffers: list[Any] = []


def store_lets(func: Any) -> Any:
    """out[i] = f(Let(b, v, w)) --> b[0] = v; out[i] = f(w with b[0] for b), in a PrimFunc in SSA form without blocks.

    Also isnan(x) --> a test of its bits. In a vectorised loop every lane has an element of the buffer. Lets stay inside
    the branches of conditions on positions, which may guard what they read.
    """
    vectors: list[tuple[Any, list[Any]]] = []  # the vectorised loop around the statement, and buffers it needs
    scopes: list[_Statement | None] = []  # None: inside a guarded branch
    loads: dict[Any, Any] = {}

    def on_for(loop: Any, mutator: Any) -> Any:
        if int(loop.kind) != tirx.ForKind.VECTORIZED:
            return mutator.default_mutate(loop)
        vectors.append((loop, []))
        changed = mutator.default_mutate(loop)
        _, buffers = vectors.pop()
        return tirx.SeqStmt([*(tirx.AllocBuffer(b) for b in buffers), changed]) if buffers else changed

    def on_store(store: Any, mutator: Any) -> Any:
        scope = _Statement()
        scopes.append(scope)
        value = mutator.mutate(store.value)
        scopes.pop()
        changed = tirx.BufferStore(store.buffer, value, store.indices)
        if not scope.stores:
            return changed
        allocated = []
        if vectors:
            vectors[-1][1].extend(scope.buffers)
        else:
            allocated = [tirx.AllocBuffer(b) for b in scope.buffers]
        return tirx.SeqStmt([*allocated, *scope.stores, changed])

    def on_let(let: Any, mutator: Any) -> Any:
        scope = scopes[-1] if scopes else None
        if scope is None:
            return mutator.default_mutate(let)
        value = mutator.mutate(let.value)
        extent, index = (vectors[-1][0].extent, vectors[-1][0].loop_var) if vectors else (1, 0)
        truth = str(value.ty.dtype) == "bool"  # stored as a byte: TVM's flattening confuses the two
        kind = "int8" if truth else value.ty.dtype
        buffer = tirx.decl_buffer((extent,), kind, let.var.name, scope="local")
        scope.buffers.append(buffer)
        scope.stores.append(tirx.BufferStore(buffer, tirx.Cast(kind, value) if truth else value, [index]))
        load = tirx.BufferLoad(buffer, [index])
        loads[let.var] = tirx.NE(load, tirx.const(0, kind)) if truth else load
        return mutator.mutate(let.body)

    def on_var(var: Any, mutator: Any) -> Any:
        return loads.get(var, var)

    def guarded(branch: Any, mutator: Any) -> Any:
        scopes.append(None)
        result = mutator.mutate(branch)
        scopes.pop()
        return result

    def on_select(select: Any, mutator: Any) -> Any:
        if _on_values(select.condition):
            return mutator.default_mutate(select)
        condition = mutator.mutate(select.condition)
        return tirx.Select(condition, guarded(select.true_value, mutator), guarded(select.false_value, mutator))

    def on_call(call: Any, mutator: Any) -> Any:
        name = call.op.name if isinstance(call.op, ir.Op) else ""
        if name == "tirx.isnan":
            return is_nan(mutator.mutate(call.args[0]))
        if name != "prim.if_then_else":
            return mutator.default_mutate(call)
        condition, *branches = call.args
        return tirx.if_then_else(mutator.mutate(condition), *(guarded(b, mutator) for b in branches))

    callbacks = (
        (tirx.Let, on_let),
        (ir.Var, on_var),
        (tirx.Select, on_select),
        (ir.Call, on_call),
        (tirx.BufferStore, on_store),
        (tirx.For, on_for),
    )
    return func.with_body(tvm_ffi.structural_mutate(func.body, callbacks))


def _on_values(condition: Any) -> bool:
    """Whether a condition asks for values (floats or bools), not for positions."""
    found = []

    def look(e: Any) -> None:
        dtype = str(e.ty.dtype) if isinstance(e.ty, ir.PrimType) else ""
        if "float" in dtype or (dtype == "bool" and isinstance(e, ir.TensorLoad)):
            found.append(e)

    tvm_ffi.structural_walk(condition, (ir.Expr, look))
    return bool(found)
