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


class _Scope:
    """The lets found in one statement or guarded branch: statements that compute them, and their buffers."""

    def __init__(self) -> None:
        self.statements: list[Any] = []
        self.buffers: list[Any] = []


def store_lets(func: Any) -> Any:
    """out[i] = f(Let(b, v, w)) --> b[0] = v; out[i] = f(w with b[0] for b), in a PrimFunc in SSA form without blocks.

    if_then_else(c, Let(b, v, w), x), which may guard what v reads --> if c: b[0] = v; t[0] = w else: t[0] = x.
    isnan(x) --> a test of its bits. In a vectorised loop every lane has an element of each buffer.
    """
    vectors: list[tuple[Any, list[Any]]] = []  # the vectorised loop around the statement, and buffers it needs
    scopes: list[_Scope] = []
    loads: dict[Any, Any] = {}

    def variable(dtype: Any, name: str) -> tuple[Any, Any]:
        """A buffer for a variable of the statement, and the index of its element."""
        extent, index = (vectors[-1][0].extent, vectors[-1][0].loop_var) if vectors else (1, 0)
        buffer = tirx.decl_buffer((extent,), dtype, name, scope="local")
        scopes[-1].buffers.append(buffer)
        return buffer, [index]

    def bind(value: Any, name: str) -> Any:
        """Store a value in the scope; gives what loads it."""
        truth = str(value.ty.dtype) == "bool"  # stored as a byte: TVM's flattening confuses the two
        kind = "int8" if truth else value.ty.dtype
        buffer, index = variable(kind, name)
        scopes[-1].statements.append(tirx.BufferStore(buffer, tirx.Cast(kind, value) if truth else value, index))
        load = tirx.BufferLoad(buffer, index)
        return tirx.NE(load, tirx.const(0, kind)) if truth else load

    def on_for(loop: Any, mutator: Any) -> Any:
        if int(loop.kind) != tirx.ForKind.VECTORIZED:
            return mutator.default_mutate(loop)
        vectors.append((loop, []))
        changed = mutator.default_mutate(loop)
        _, buffers = vectors.pop()
        return tirx.SeqStmt([*(tirx.AllocBuffer(b) for b in buffers), changed]) if buffers else changed

    def on_store(store: Any, mutator: Any) -> Any:
        scopes.append(_Scope())
        value = mutator.mutate(store.value)
        scope = scopes.pop()
        changed = tirx.BufferStore(store.buffer, value, store.indices)
        if not scope.statements:
            return changed
        allocated = []
        if vectors:
            vectors[-1][1].extend(scope.buffers)
        else:
            allocated = [tirx.AllocBuffer(b) for b in scope.buffers]
        return tirx.SeqStmt([*allocated, *scope.statements, changed])

    def on_let(let: Any, mutator: Any) -> Any:
        if not scopes:  # in an index or a condition of a statement
            return mutator.default_mutate(let)
        loads[let.var] = bind(mutator.mutate(let.value), let.var.name)
        return mutator.mutate(let.body)

    def on_var(var: Any, mutator: Any) -> Any:
        return loads.get(var, var)

    def choose(condition: Any, branches: tuple[Any, Any], mutator: Any, make: Any) -> Any:
        """A choice whose branches are evaluated only where they are chosen."""
        condition = mutator.mutate(condition)
        values, bodies = [], []
        for branch in branches:
            scopes.append(_Scope())
            values.append(mutator.mutate(branch))
            bodies.append(scopes.pop())
        if not any(b.statements for b in bodies):
            return make(condition, *values)
        for body in bodies:
            scopes[-1].buffers.extend(body.buffers)
        buffer, index = variable(values[0].ty.dtype, "chosen")
        cases = [
            tirx.SeqStmt([*body.statements, tirx.BufferStore(buffer, value, index)]) if body.statements
            else tirx.BufferStore(buffer, value, index)
            for value, body in zip(values, bodies, strict=True)
        ]  # fmt: skip
        scopes[-1].statements.append(tirx.IfThenElse(condition, *cases))
        return tirx.BufferLoad(buffer, index)

    def on_select(select: Any, mutator: Any) -> Any:
        if not scopes or _on_values(select.condition):
            return mutator.default_mutate(select)
        return choose(select.condition, (select.true_value, select.false_value), mutator, tirx.Select)

    def on_call(call: Any, mutator: Any) -> Any:
        name = call.op.name if isinstance(call.op, ir.Op) else ""
        if name == "tirx.isnan":
            return is_nan(mutator.mutate(call.args[0]))
        if name != "prim.if_then_else" or not scopes:
            return mutator.default_mutate(call)
        condition, chosen, other = call.args
        return choose(condition, (chosen, other), mutator, tirx.if_then_else)

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
