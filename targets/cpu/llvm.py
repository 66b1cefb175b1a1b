"""A CPU target as LLVM's code generator wants it."""

from __future__ import annotations

from typing import Any

from cnncc.errors import ScheduleError
from cnncc.targets.target import Target


def to_tvm(target: Target) -> Any:
    """The record as a tvm.target.Target. No processor name means this machine's, where no triple names another."""
    from tvm.target import Target as TvmTarget
    from tvm.target import codegen

    if target.kind != "cpu":
        raise ScheduleError(f"{target.name}: LLVM code is generated for CPU targets, got kind {target.kind!r}")
    config: dict[str, Any] = {"kind": "llvm", "num-cores": target.threads}
    if target.triple:
        config["mtriple"] = target.triple
    mcpu = target.mcpu or ("" if target.triple or target.features else str(codegen.llvm_get_system_cpu()))
    if mcpu:
        config["mcpu"] = mcpu
    if target.features:
        config["mattr"] = list(target.features)
    return TvmTarget(config)
