"""Intermediates too large for the stack become parameters of the kernel, placed by the memory plan."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx

Workspace = tuple[tuple[Any, ...], str]


def hoist_workspaces(func: Any) -> tuple[Any, list[Workspace]]:
    """Buffers that the root block allocates in global memory --> further parameters, after the others.

    Gives the new PrimFunc, and shape (ints, or expressions of the function's symbols) and dtype of each workspace.
    Buffers of other scopes ("local": on the stack of the loop that uses them) stay. Works on functions before and after
    scheduling: a buffer that has been inlined is no longer allocated.
    """
    realize = func.body
    root = realize.block
    hoisted = [b for b in root.alloc_buffers if b.scope() == "global"]
    if not hoisted:
        return func, []
    kept = [b for b in root.alloc_buffers if b.scope() != "global"]
    block = s_tir.SBlock(
        root.iter_vars,
        root.reads,
        root.writes,
        root.name_hint,
        root.body,
        root.init,
        kept,
        root.match_buffers,
        root.annotations,
    )
    body = s_tir.SBlockRealize(realize.iter_values, realize.predicate, block)
    workspaces = [(tuple(int(d) if isinstance(d, tirx.IntImm) else d for d in b.shape), str(b.dtype)) for b in hoisted]
    return tirx.PrimFunc([*func.params, *hoisted], body, func.ret_type, func.attrs), workspaces
