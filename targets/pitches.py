"""Kernels on operands whose images lie apart: members of a concat, written and read in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def apart(func: Any, pitches: Sequence[int]) -> Any:
    """The function with images of its parameters so many elements apart (0: one behind the other)."""
    import tvm_ffi
    from tvm import ir, tirx

    laid = {}
    for parameter, pitch in zip(func.params, pitches, strict=True):
        if pitch:
            strides = [1]
            for extent in reversed(list(parameter.shape)[2:]):
                strides.append(strides[-1] * int(extent))
            steps = [tirx.const(s, "int64") for s in (pitch, *reversed(strides))]
            laid[parameter] = tirx.decl_buffer(
                parameter.shape, parameter.dtype, parameter.name, strides=steps,
                data_alignment=parameter.data_alignment,
            )  # fmt: skip
    body = tvm_ffi.structural_map(func.body, (ir.Var, lambda v: laid.get(v, v)))
    return tirx.PrimFunc([laid.get(p, p) for p in func.params], body, func.ret_type, func.attrs)
