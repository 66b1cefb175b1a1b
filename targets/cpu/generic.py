"""Kernels scheduled from their definition: elementwise chains, reductions, and everything without an algorithm."""

from __future__ import annotations

from typing import Any

from tvm import IRModule, s_tir

from cnncc.targets.cpu.blocks import is_plain, is_reduction, root_blocks
from cnncc.targets.cpu.elementwise import schedule_elementwise
from cnncc.targets.cpu.expand import expand_math
from cnncc.targets.cpu.fallback import schedule_fallback
from cnncc.targets.cpu.workspace import Workspace, hoist_workspaces
from cnncc.targets.target import Target


def schedule_generic(func: Any, target: Target) -> tuple[Any, list[Workspace], str]:
    """PrimFunc of te.create_prim_func --> scheduled PrimFunc, its workspaces, the recipe used.

    Recipes: "elementwise" (injective stages only), "reduce", "fallback". Workspaces (shape, dtype) are trailing
    parameters that the caller provides.
    """
    sch = s_tir.Schedule(IRModule({"main": func}))
    blocks = root_blocks(sch)
    if all(is_plain(sch, b) and not is_reduction(sch, b) for b in blocks):
        recipe = "elementwise"
        schedule_elementwise(sch, target)
    else:
        recipe = "fallback"
        schedule_fallback(sch, target)
    scheduled, workspaces = hoist_workspaces(sch.mod["main"])
    return expand_math(scheduled), workspaces, recipe
