"""Linear quantisation, by the operations that define it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cnncc.edges.onnx_import.context import Call, Results
from cnncc.edges.onnx_tensors import element_type
from cnncc.ir.dtype import is_float, short_name
from cnncc.ir.graph import Value


def _along_axis(n: Call, v: Value, rank: int) -> Value:
    """A scale or zero point that broadcasts: a number, or one for each place on an axis."""
    if v.type.rank == 0 or v.type.shape == (1,):
        return n.reshape(v, ())
    if v.type.rank != 1:
        n.unsupported("blocked quantisation")
    axis = n.axis(n.attr_int("axis", 1), rank)
    return n.reshape(v, (v.type.shape[0], *(1,) * (rank - 1 - axis)))


def quantize_linear(n: Call) -> Results:
    """QuantizeLinear: saturate(round(x / scale) + zero point)."""
    x, scale = n.value(0), n.value(1)
    target = n.type(2).dtype if n.has(2) else short_name(element_type(n.attr_int("output_dtype") or 2))
    if target not in ("i8", "u8", "i16", "u16", "i32") or n.attr_int("block_size"):
        n.unsupported(f"quantisation to {target}")
    wide = "f32" if is_float(x.type.dtype) else "f64"
    x = n.cast(x, wide)
    steps = n.op("round", n.op("div", x, _along_axis(n, n.cast(scale, wide), x.type.rank)))
    if n.has(2):
        steps = n.op("add", steps, _along_axis(n, n.cast(n.value(2), wide), x.type.rank))
    info = np.iinfo({"i": "int", "u": "uint"}[target[0]] + target[1:])
    return n.cast(n.op("clip", steps, low=float(info.min), high=float(info.max)), target)


def dequantize_linear(n: Call) -> Results:
    """DequantizeLinear: (x - zero point) scale."""
    x, scale = n.value(0), n.value(1)
    if n.attr_int("block_size"):
        n.unsupported("blocked quantisation")
    wide = n.cast(x, "i32" if x.type.dtype[0] in "iu" else x.type.dtype)
    if n.has(2):
        wide = n.op("sub", wide, n.cast(_along_axis(n, n.value(2), x.type.rank), wide.type.dtype))
    return n.op("mul", n.cast(wide, scale.type.dtype), _along_axis(n, scale, x.type.rank))


TABLE: dict[str, Callable[[Call], Results]] = {
    "QuantizeLinear": quantize_linear,
    "DequantizeLinear": dequantize_linear,
}
