"""Kernels scheduled from their definition: elementwise chains, reductions, and everything without an algorithm."""

from __future__ import annotations

import logging
from typing import Any

from tvm import IRModule, s_tir
from tvm.s_tir.schedule import ScheduleError

from cnncc.targets.cpu.blocks import is_contraction, is_plain, is_reduction, root_blocks
from cnncc.targets.cpu.elementwise import schedule_elementwise
from cnncc.targets.cpu.expand import expand_math
from cnncc.targets.cpu.reduce import schedule_reduction
from cnncc.targets.cpu.workspace import Workspace, hoist_workspaces
from cnncc.targets.target import Target

_log = logging.getLogger("cnncc")


def schedule_generic(func: Any, target: Target) -> tuple[Any, list[Workspace], str]:
    """PrimFunc of te.create_prim_func --> scheduled PrimFunc, its workspaces, the recipe used.

    Recipes: "elementwise" (injective stages only), "reduce" (reductions that use every element once), "fallback" (all
    else: convolutions and products without an algorithm, windows, extern operations; correct, not fast). Workspaces
    (shape, dtype) are trailing parameters that the caller provides.
    """
    if func.body.block.name_hint != "root":  # one extern operation and nothing else
        return expand_math(func), [], "fallback"
    sch = s_tir.Schedule(IRModule({"main": func}))
    blocks = root_blocks(sch)
    plain = all(is_plain(sch, b) for b in blocks)
    reductions = [b for b in blocks if is_reduction(sch, b)]
    if plain and not reductions:
        try:
            schedule_elementwise(sch, target)
            return _finished(sch, "elementwise")
        except ScheduleError as error:  # the other recipe leaves alone what it cannot schedule
            _log.debug("elementwise kernel is scheduled stage by stage: %s", error)
    simple = plain and not any(is_contraction(sch, b) for b in reductions)
    return _finished(schedule_reduction(func, target), "reduce" if simple else "fallback")


def _finished(sch: Any, recipe: str) -> tuple[Any, list[Workspace], str]:
    scheduled, workspaces = hoist_workspaces(sch.mod["main"])
    return expand_math(scheduled), workspaces, recipe
