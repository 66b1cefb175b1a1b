"""Pooling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from cnncc.edges.onnx_import.context import Call, Results
from cnncc.edges.onnx_import.conv import cropped, window
from cnncc.ir.graph import Value


def _attributes(n: Call) -> dict[str, Any]:
    kernel = n.attr_ints("kernel_shape")
    rank = n.rank(0) - 2
    if kernel is None or len(kernel) != rank:
        n.fail(f"kernel_shape must have {rank} numbers for input rank {rank + 2}, got {kernel}")
    return {"kernel": kernel, "ceil": bool(n.attr_int("ceil_mode")), **window(n, rank)}


def max_pool(n: Call) -> Results:
    """MaxPool; the indices of its second output count through the whole input."""
    attributes = _attributes(n)
    x = cropped(n, n.value(0), attributes) if not n.wants(1) else n.value(0)
    y = n.op("max_pool", x, **attributes)
    if not n.wants(1):
        return y
    if n.attr_int("storage_order"):
        n.unsupported("Indices in column-major order")
    return y, n.op("max_pool_indices", x, **attributes)


def average_pool(n: Call) -> Results:
    """AveragePool."""
    attributes = _attributes(n)
    include = bool(n.attr_int("count_include_pad"))
    return n.op("average_pool", n.value(0), count_include_pad=include, **attributes)


def lp_pool(n: Call) -> Results:
    """LpPool: (sum of |x|^p over the window)^(1/p); the sum is a depthwise convolution with ones."""
    x, p = n.value(0), n.attr_int("p", 2)
    attributes = _attributes(n)
    channels = x.type.shape[1]
    if attributes.pop("ceil"):
        n.unsupported("ceil_mode=1")
    if not isinstance(channels, int):
        n.unsupported("a symbolic number of channels; fix the shapes (shapes=...)")
    n.importer.file.take(8 * channels * math.prod(attributes["kernel"]), n.where)
    ones = n.constant(np.ones((channels, 1, *attributes.pop("kernel"))), x.type.dtype)
    return _root(n, n.op("conv", _power(n, x, p), ones, groups=channels, **attributes), p)


def _power(n: Call, x: Value, p: int) -> Value:
    if p == 2:
        return n.op("mul", x, x)
    absolute = n.op("abs", x)
    return absolute if p == 1 else n.op("pow", absolute, float(p))


def _root(n: Call, x: Value, p: int) -> Value:
    if p == 1:
        return x
    return n.op("sqrt", x) if p == 2 else n.op("pow", x, 1.0 / p)


def _global(op: str) -> Callable[[Call], Results]:
    def run(n: Call) -> Results:
        return n.op(op, n.value(0), axes=tuple(range(2, n.rank(0))), keepdims=True) if n.rank(0) > 2 else n.tensor(0)

    return run


def global_lp_pool(n: Call) -> Results:
    """GlobalLpPool."""
    x, p = n.value(0), n.attr_int("p", 2)
    total = n.op("reduce_sum", _power(n, x, p), axes=tuple(range(2, x.type.rank)), keepdims=True)
    return _root(n, total, p)


TABLE: dict[str, Callable[[Call], Results]] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "LpPool": lp_pool,
    "GlobalAveragePool": _global("reduce_mean"),
    "GlobalMaxPool": _global("reduce_max"),
    "GlobalLpPool": global_lp_pool,
}
