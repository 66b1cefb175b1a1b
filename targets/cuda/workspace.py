"""Intermediates in global memory become parameters, so that the memory plan holds them and no kernel allocates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Workspace:
    """A trailing parameter that holds an intermediate: its name, shape (numbers, or expressions of the function's
    symbols) and TVM dtype. Its contents before a call do not matter, after it they are lost."""

    name: str
    shape: tuple[Any, ...]
    dtype: str


def lift_workspaces(prim_func: Any) -> tuple[Any, list[Workspace]]:
    """Scheduled PrimFunc --> the same with its global allocations as additional parameters at the end."""
    from tvm import s_tir, tirx

    realize = prim_func.body
    root = realize.block
    lifted = [buffer for buffer in root.alloc_buffers if buffer.scope() == "global"]
    if not lifted:
        return prim_func, []
    kept = [buffer for buffer in root.alloc_buffers if buffer.scope() != "global"]
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
    func = tirx.PrimFunc([*prim_func.params, *lifted], body, prim_func.ret_type, prim_func.attrs)
    workspaces = [
        Workspace(
            buffer.name,
            tuple(int(d.value) if isinstance(d, tirx.IntImm) else d for d in buffer.shape),
            str(buffer.dtype),
        )
        for buffer in lifted
    ]
    return func, workspaces
