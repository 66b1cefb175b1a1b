"""Gathering, one-hot and selection."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cnncc.edges.onnx_import.context import Call, Results


def gather(n: Call) -> Results:
    """Gather along an axis."""
    return n.op("gather", n.value(0), n.value(1), axis=n.axis(n.attr_int("axis"), n.rank(0)))


def gather_elements(n: Call) -> Results:
    """GatherElements along an axis."""
    return n.op("gather_elements", n.value(0), n.value(1), axis=n.axis(n.attr_int("axis"), n.rank(0)))


def one_hot(n: Call) -> Results:
    """OneHot with a depth and values known at import."""
    indices = n.value(0)
    depth, values = int(n.scalar(1, "depth")), n.numbers(2, "values").reshape(-1)
    dtype = n.type(2).dtype
    if values.size != 2:
        n.fail(f"values must be two numbers (off, on), got {values.size}")
    axis = n.axis(n.attr_int("axis", -1), n.rank(0) + 1)
    if indices.type.dtype not in ("i32", "i64"):
        indices = n.cast(indices, "i64")
    off, on = (v.item() for v in values)
    return n.op("one_hot", indices, depth=depth, axis=axis, on=on, off=off, dtype=dtype)


def compress(n: Call) -> Results:
    """Compress by a condition known at import: a gather."""
    x = n.value(0)
    kept = np.flatnonzero(n.numbers(1, "condition").reshape(-1))
    if "axis" not in n.attributes:
        x = n.reshape(x, (x.type.elements,))
        return n.op("gather", x, n.constant(kept, "i64"), axis=0)
    return n.op("gather", x, n.constant(kept, "i64"), axis=n.axis(n.attr_int("axis"), x.type.rank))


TABLE: dict[str, Callable[[Call], Results]] = {
    "Gather": gather,
    "GatherElements": gather_elements,
    "OneHot": one_hot,
    "Compress": compress,
}
