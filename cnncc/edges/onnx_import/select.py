"""Selecting by value or by computed places: TopK, GatherND, the scatters with known places, GridSample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from cnncc.edges.onnx_import.context import Call, Results
from cnncc.edges.onnx_import.symbolic import static
from cnncc.ir.dims import Dim, normal, product
from cnncc.ir.graph import Value

LONGEST = 2048  # elements that TopK compares with each other


def top_k(n: Call) -> Results:
    """TopK: each element's rank is the number of elements before it; the first k ranks are looked up."""
    k = int(n.scalar(1, "K")) if n.version >= 10 else n.attr_int("k")
    axis = n.axis(n.attr_int("axis", -1), n.rank(0))
    largest = bool(n.attr_int("largest", 1))
    x = n.value(0)
    size = x.type.shape[axis]
    if k == 1:
        value = n.op("reduce_max" if largest else "reduce_min", x, axes=(axis,), keepdims=True)
        return value, n.op("argmax" if largest else "argmin", x, axis=axis, keepdims=True)
    if not isinstance(size, int) or size > LONGEST:
        n.unsupported(f"k={k} of {size} elements; at most {LONGEST} are compared with each other")
    if not 0 <= k <= size:
        n.fail(f"k must be from 0 to {size}, got {k}")
    perm = [*(a for a in range(x.type.rank) if a != axis), axis]
    rows = n.transpose(x, perm)
    lead = rows.type.shape[:-1]
    mine, other = n.reshape(rows, (*lead, size, 1)), n.reshape(rows, (*lead, 1, size))
    place = np.arange(size)
    before = n.op("greater" if largest else "less", other, mine)
    tie = n.op("and", n.op("equal", other, mine), n.constant(place[None, :] < place[:, None]))
    rank = n.op("reduce_sum", n.cast(n.op("or", before, tie), "i64"), axes=(-1,), keepdims=True)
    hit = n.cast(n.op("equal", rank, n.constant(np.arange(k), "i64")), "i64")  # [..., size, k]
    index = n.op("reduce_sum", n.op("mul", hit, n.constant(place[:, None], "i64")), axes=(-2,), keepdims=False)
    values = n.op("gather_elements", rows, index, axis=len(lead))
    back = [perm.index(a) for a in range(x.type.rank)]
    return n.transpose(values, back), n.transpose(index, back)


def _flat_index(n: Call, indices: Value, sizes: Sequence[Dim]) -> Value:
    """The row-major number of each index vector (the last axis); negative components count from the end."""
    shape = indices.type.shape[:-1]
    total: Value | None = None
    for k, d in enumerate(sizes):
        part = n.reshape(n.op("slice", indices, starts=(k,), ends=(k + 1,), axes=(indices.type.rank - 1,)), shape)
        if not isinstance(d, int):
            if k:
                n.unsupported(f"indices into an axis of symbolic size {d}; fix the shapes (shapes=...)")
            total = part
            continue
        wrapped = n.op("where", n.op("less", part, n.constant(np.zeros((), np.int64))), n.op("add", part, d), part)
        total = wrapped if total is None else n.op("add", n.op("mul", total, d), wrapped)
    assert total is not None
    return total


def gather_nd(n: Call) -> Results:
    """GatherND without batch axes: one gather from the axes taken together."""
    x, indices = n.value(0), n.cast(n.value(1), "i64")
    batch = n.attr_int("batch_dims")
    count = indices.type.shape[-1]
    if not isinstance(count, int) or not 0 < count <= x.type.rank - batch:
        n.fail(f"the last axis of the indices must be from 1 to {x.type.rank - batch}, got {count}")
    rest = x.type.shape[batch + count :]
    places = indices.type.shape[batch:-1]
    flat = _flat_index(n, indices, x.type.shape[batch : batch + count])
    inner = product(x.type.shape[batch : batch + count])
    if not batch:
        return n.op("gather", n.reshape(x, (inner, *rest)), flat, axis=0)
    lead = product(x.type.shape[:batch])
    width = product(rest)
    rows = n.reshape(x, (lead, inner, width))
    where = n.reshape(flat, (lead, product(places), 1))
    where = n.op("expand", where, shape=(lead, product(places), width))
    return n.reshape(n.op("gather_elements", rows, where, axis=1), (*x.type.shape[:batch], *places, *rest))


def scatter(n: Call) -> Results:
    """ScatterND and ScatterElements (once Scatter) with places known at import: a gather from data beside updates."""
    if n.attr_str("reduction", "none") != "none":
        n.unsupported(f"reduction={n.attr_str('reduction')}")
    x, updates = n.value(0), n.value(2)
    shape, taken = static(x.type.shape), static(updates.type.shape)
    if shape is None or taken is None:
        n.unsupported("symbolic sizes; fix the shapes (shapes=...)")
    indices = n.numbers(1, "indices")
    source = np.arange(math.prod(shape)).reshape(shape)
    fresh = source.size + np.arange(math.prod(taken)).reshape(taken)
    if n.op_type == "ScatterND":
        for at in np.ndindex(*indices.shape[:-1]):
            source[tuple(indices[at])] = fresh[at]
    else:
        axis = n.axis(n.attr_int("axis"), len(shape))
        np.put_along_axis(source[tuple(slice(0, d) if a != axis else slice(None) for a, d in enumerate(taken))],
                          indices, fresh, axis)  # fmt: skip
    both = n.op("concat", n.reshape(x, (math.prod(shape),)), n.reshape(updates, (math.prod(taken),)), axis=0)
    return n.op("gather", both, n.constant(source), axis=0)


# -- GridSample --------------------------------------------------------------------------------------------------------


def grid_sample(n: Call) -> Results:
    """GridSample of images, linear or nearest: the neighbours are gathered and weighted."""
    x, grid = n.value(0), n.value(1)
    mode = n.attr_str("mode", "bilinear" if n.version < 20 else "linear").removeprefix("bi")
    padding, aligned = n.attr_str("padding_mode", "zeros"), bool(n.attr_int("align_corners"))
    if x.type.rank != 4 or mode not in ("linear", "nearest") or padding not in ("zeros", "border"):
        n.unsupported(f"rank {x.type.rank}, mode={mode}, padding_mode={padding}")
    batch, channels, h, w = x.type.shape
    if not isinstance(h, int) or not isinstance(w, int):
        n.unsupported(f"an image of symbolic size {h}x{w}; fix the shapes (shapes=...)")
    out = grid.type.shape[1:3]
    places = product(out)
    image = n.reshape(x, (batch, channels, h * w))

    def coordinate(axis: int, size: int) -> Value:
        part = n.op("slice", grid, starts=(axis,), ends=(axis + 1,), axes=(3,))
        scale = (size - 1) / 2 if aligned else size / 2
        at = n.op("add", n.op("mul", n.reshape(part, (batch, 1, places)), scale), (size - 1) / 2)
        return n.op("clip", at, low=0.0, high=float(size - 1)) if padding == "border" else at

    def neighbour(column: Value, row: Value) -> Value:
        limits = [n.op("clip", v, low=0.0, high=float(d - 1)) for v, d in ((column, w), (row, h))]
        index = n.op("add", n.op("mul", n.cast(limits[1], "i64"), w), n.cast(limits[0], "i64"))
        found = n.op("gather_elements", image, n.op("expand", index, shape=(batch, channels, places)), axis=2)
        if padding == "border":
            return found
        inside = n.op("and", n.op("equal", column, limits[0]), n.op("equal", row, limits[1]))
        return n.op("mul", found, n.cast(inside, x.type.dtype))

    at = (coordinate(0, w), coordinate(1, h))
    if mode == "nearest":
        result = neighbour(*(n.op("round", v) for v in at))
        return n.reshape(result, (batch, channels, *out))
    low = [n.op("floor", v) for v in at]
    high = [n.op("add", v, 1.0) for v in low]
    far = [n.op("sub", v, f) for v, f in zip(at, low, strict=True)]
    near = [n.op("sub", 1.0, f) for f in far]
    total: Value | None = None
    for column, a in ((low[0], near[0]), (high[0], far[0])):
        for row, b in ((low[1], near[1]), (high[1], far[1])):
            term = n.op("mul", neighbour(column, row), n.op("mul", a, b))
            total = term if total is None else n.op("add", total, term)
    assert total is not None
    return n.reshape(total, (batch, channels, *(normal(d) for d in out)))


TABLE: dict[str, Callable[[Call], Results]] = {
    "TopK": top_k,
    "GatherND": gather_nd,
    "ScatterND": scatter,
    "ScatterElements": scatter,
    "Scatter": scatter,
    "GridSample": grid_sample,
}
