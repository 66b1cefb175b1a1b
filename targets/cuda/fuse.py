"""Stages that a region brings along (a prologue, constants of an epilogue) disappear into those that read them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm.s_tir import Schedule


def inline_prologue(sch: Schedule, keep: Collection[str]) -> None:
    """Inline every stage except those named, first to last. A stage that cannot be inlined (a reduction) stays."""
    from tvm.s_tir.schedule import ScheduleError as TvmScheduleError

    root = sch.get_sblock("root")
    for block in sch.get_child_blocks(root):
        if sch.get(block).name_hint in keep:
            continue
        try:
            sch.compute_inline(block)
        except TvmScheduleError:
            continue
