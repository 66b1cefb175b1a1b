"""Which function imports which ONNX operator. Extend it from outside with `register`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from cnncc.edges.onnx_import.activation import TABLE as ACTIVATION
from cnncc.edges.onnx_import.control import TABLE as CONTROL
from cnncc.edges.onnx_import.conv import TABLE as CONV
from cnncc.edges.onnx_import.elementwise import TABLE as ELEMENTWISE
from cnncc.edges.onnx_import.generate import TABLE as GENERATE
from cnncc.edges.onnx_import.index import TABLE as INDEX
from cnncc.edges.onnx_import.matmul import TABLE as MATMUL
from cnncc.edges.onnx_import.norm import TABLE as NORM
from cnncc.edges.onnx_import.pool import TABLE as POOL
from cnncc.edges.onnx_import.quantize import TABLE as QUANTIZE
from cnncc.edges.onnx_import.recurrent import TABLE as RECURRENT
from cnncc.edges.onnx_import.reduce import TABLE as REDUCE
from cnncc.edges.onnx_import.resize import TABLE as RESIZE
from cnncc.edges.onnx_import.select import TABLE as SELECT
from cnncc.edges.onnx_import.shape import TABLE as SHAPE
from cnncc.edges.onnx_import.unpool import TABLE as UNPOOL

ImportFunction: TypeAlias = Callable[[Any], Any]

STANDARD: dict[str, ImportFunction] = {
    **ELEMENTWISE,
    **ACTIVATION,
    **CONV,
    **POOL,
    **UNPOOL,
    **NORM,
    **MATMUL,
    **REDUCE,
    **SHAPE,
    **GENERATE,
    **INDEX,
    **SELECT,
    **RESIZE,
    **RECURRENT,
    **QUANTIZE,
    **CONTROL,
}
_registered: dict[tuple[str, str], ImportFunction] = {}


def register(op_type: str, function: ImportFunction, domain: str = "") -> None:
    """Import `op_type` of a domain with `function(n: Call)`, which returns a value, a tensor or a tuple of them.

    Goes before the functions that cnncc brings.
    """
    _registered[("" if domain == "ai.onnx" else domain, op_type)] = function


def lookup(domain: str, op_type: str) -> ImportFunction | None:
    """The function that imports an operator, or None."""
    found = _registered.get((domain, op_type))
    return found if found is not None or domain else STANDARD.get(op_type)
