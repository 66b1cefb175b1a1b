"""Scratch of CPU kernels on the stack, at cache line boundaries.

TVM turns every allocation above 1 kB into a call of TVMBackendAllocWorkspace, and aligns the others to 16 bytes, so
that each 64-byte access would touch two cache lines. Here an allocation of scope "local" becomes an array of 64-byte
vectors (which LLVM aligns to 64), kept on the stack, with the declared buffer as a view of it.
"""

from __future__ import annotations

import functools
from typing import Any

NAME = "cnncc_cpu"
LIMIT = 1 << 20  # bytes; what is larger stays a workspace (and fails the tests, which look for those)

_LINE = 64


def pipeline(team: bool = False, ahead: bool = True) -> str:
    """The name of the TIR pipeline for CPU kernels, for `tvm.compile(..., tir_pipeline=pipeline())`.

    It is that of `lowering`, followed by the pass of this module. `team`: for kernels that a team of threads runs.
    `ahead`: large weights are fetched ahead, which pays where a multiplication and an addition are one instruction;
    otherwise products are slower than memory.
    """
    from tvm.tirx import compilation_pipeline

    name = NAME + "_team" * team + "_ahead" * ahead
    if name not in compilation_pipeline.PIPELINE_MAP:
        compilation_pipeline.register_tir_pipeline(name, functools.partial(_stages, team, ahead))
    return name


def _stages(team: bool, ahead: bool) -> tuple[Any, Any, Any]:
    import tvm

    from cnncc.targets.cpu.lowering import lower

    passes, host, device = lower(team, ahead)
    keep = tvm.transform.module_pass(keep_on_stack, opt_level=0, name="cnncc.KeepOnStack")
    return tvm.transform.Sequential([passes, keep]), host, device


def keep_on_stack(module: Any, _context: Any) -> Any:
    """Every "local" allocation of constant size in the functions of a module, up to LIMIT: workspace --> stack."""
    import tvm
    import tvm_ffi
    from tvm import tirx

    functions = {
        name: func.with_body(tvm_ffi.structural_map(func.body, (tirx.AllocBuffer, _keep)))
        for name, func in module.functions.items()
    }
    return tvm.IRModule(functions, attrs=module.attrs)


def _keep(alloc: Any) -> Any:
    from tvm import DataType, tirx

    buffer = alloc.buffer
    size = buffer.shape[0]
    if buffer.scope() != "local" or len(buffer.shape) != 1 or not isinstance(size, tirx.IntImm):
        return alloc
    kind = DataType(str(buffer.dtype))
    extent = int(size) * kind.itemsize
    if extent > LIMIT:
        return alloc
    note = {**dict(alloc.annotations), "disable_lower_builtin": tirx.const(True, "bool")}
    if kind.lanes != 1 or extent < _LINE or _LINE % kind.itemsize:
        return tirx.AllocBuffer(buffer, note)
    lines = tirx.decl_buffer(
        (-(-extent // _LINE),), f"{kind}x{_LINE // kind.itemsize}", buffer.name + "_lines", scope="local"
    )
    return tirx.SeqStmt([tirx.AllocBuffer(lines, note), tirx.DeclBuffer(buffer, data=lines.data)])
