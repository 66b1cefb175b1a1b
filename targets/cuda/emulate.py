"""GPU schedules on the CPU: every thread binding becomes a serial loop, and LLVM compiles the result.

Blocks of a grid are independent and threads of a block agree at every barrier, so running them one after another gives
what the device gives, if the schedule's indices are right. It cannot show races or missing barriers, and must run
before tensorize.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def serialise(prim_func: Any) -> Any:
    """PrimFunc --> the same with serial loops for thread bindings, and for loops to unroll (it builds faster)."""
    import tvm_ffi
    from tvm import tirx

    def loop(node: Any) -> Any:
        if node.kind not in (tirx.ForKind.THREAD_BINDING, tirx.ForKind.UNROLLED):
            return node
        return tirx.For(node.loop_var, node.min, node.extent, tirx.ForKind.SERIAL, node.body)

    return prim_func.with_body(tvm_ffi.structural_map(prim_func.body, (tirx.For, loop)))


def run_on_cpu(prim_func: Any, *arrays: np.ndarray) -> None:
    """Run a scheduled PrimFunc on the CPU; results are written into the arrays of the outputs (and workspaces)."""
    import tvm

    serial = serialise(prim_func).with_attr("global_symbol", "emulated")
    executable = tvm.compile(tvm.IRModule({"emulated": serial}), target=tvm.target.Target("llvm"))
    tensors = [tvm.runtime.tensor(np.array(array, order="C")) for array in arrays]
    executable["emulated"](*tensors)
    for array, tensor in zip(arrays, tensors, strict=True):
        array[...] = tensor.numpy()
