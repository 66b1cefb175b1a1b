"""Gathering, resizing, adaptive pooling and unshared convolution in ONNX."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.edges.onnx_tensors import CODES
from cnncc.errors import UnsupportedError
from cnncc.ir.dims import Dim
from cnncc.ops.window import geometry

if TYPE_CHECKING:
    from cnncc.edges.onnx_export import Exporter
    from cnncc.ir.graph import Node


def _numbers(node: Node, dims: tuple[Dim, ...]) -> tuple[int, ...]:
    if not all(isinstance(d, int) for d in dims):
        raise UnsupportedError(
            f"{node.where}: symbolic sizes cannot be written in ONNX here, got {dims}; fix the shapes"
        )
    return tuple(int(d) for d in dims)


def gather(e: Exporter, node: Node, x: str, indices: str) -> Any:
    """Gather; places outside the axis mean its ends, which ONNX leaves open."""
    value, where = node.inputs
    assert value is not None
    assert where is not None
    size = value.type.shape[node.attrs.axis]
    known = (
        where.data is not None and isinstance(size, int) and bool(np.all((-size <= where.data) & (where.data < size)))
    )
    if isinstance(size, int) and not known:
        indices = e.emit("Clip", indices, e.number(-size, where), e.number(size - 1, where))
    return e.emit("Gather", x, indices, axis=node.attrs.axis)


def gather_elements(e: Exporter, node: Node, x: str, indices: str) -> Any:
    """GatherElements."""
    return e.emit("GatherElements", x, indices, axis=node.attrs.axis)


def one_hot(e: Exporter, node: Node, indices: str) -> Any:
    """OneHot of i64 indices of at least rank 1 in f32, which ONNX Runtime has; then a choice of the values."""
    a, out = node.attrs, node.outputs[0]
    places = e.emit("Cast", indices, to=CODES[np.dtype(np.int64)])
    if out.type.rank == 1:
        places = e.emit("Unsqueeze", places, e.ints([0]))
    depth, bits = e.constant(np.asarray(a.depth, np.int64)), e.constant(np.asarray([0, 1], np.float32))
    hit = e.emit("OneHot", places, depth, bits, axis=a.axis if out.type.rank > 1 else -1)
    hit = e.emit("Cast", hit, to=CODES[np.dtype(np.bool_)])
    if out.type.rank == 1:
        hit = e.emit("Squeeze", hit, e.ints([0]))
    return e.emit("Where", hit, e.number(a.on, out), e.number(a.off, out))


def resize(e: Exporter, node: Node, x: str) -> Any:
    """Resize, by scales where they were given."""
    a, out = node.attrs, node.outputs[0].type.shape
    value = node.inputs[0]
    assert value is not None
    names = {"mode": a.mode, "coordinate_transformation_mode": a.coordinates, "nearest_mode": a.nearest}
    if not any(a.scales):
        return e.emit("Resize", x, "", "", e.dims(out), **names)
    lead = len(out) - len(a.scales)
    sizes = zip(a.scales, out[lead:], value.type.shape[lead:], strict=True)
    scales = [s or (1.0 if o == i else _ratio(node, o, i)) for s, o, i in sizes]
    return e.emit("Resize", x, "", e.constant(np.asarray([1.0] * lead + scales, np.float32)), **names)


def _ratio(node: Node, out: Dim, size: Dim) -> float:
    o, i = _numbers(node, (out, size))
    return o / i


def adaptive_pool(reduce: str) -> Callable[..., Any]:
    """Axis by axis, each window a slice that is reduced."""

    def run(e: Exporter, node: Node, x: str) -> Any:
        value = node.inputs[0]
        assert value is not None
        sizes = zip(_numbers(node, value.type.shape[2:]), _numbers(node, node.attrs.size), strict=True)
        for axis, (m, n) in enumerate(sizes, 2):
            if m == n:
                continue
            windows = [(o * m // n, ((o + 1) * m + n - 1) // n) for o in range(n)]
            parts = [_reduced(e, x, axis, start, end, reduce) for start, end in windows]
            x = parts[0] if n == 1 else e.emit("Concat", *parts, axis=axis)
        return x if e.made(x) else e.emit("Identity", x)

    return run


def _reduced(e: Exporter, x: str, axis: int, start: int, end: int, reduce: str) -> str:
    part = e.emit("Slice", x, e.ints([start]), e.ints([end]), e.ints([axis]))
    return str(e.emit(reduce, part, e.ints([axis]), keepdims=1))


def locally_connected(e: Exporter, node: Node, x: str, w: str) -> Any:
    """The sum over the places in the kernel of elementwise products, each summed over channels."""
    weights = node.inputs[1]
    assert weights is not None
    rank = (weights.type.rank - 2) // 2
    dims = _numbers(node, weights.type.shape)
    g = geometry(node.attrs, dims[rank + 2 :])
    if any(g.begin) or any(g.end):
        x = e.emit("Pad", x, e.ints([0, 0, *g.begin, 0, 0, *g.end]))
    letters = "hwd"[:rank]
    spatial = list(range(2, 2 + rank))
    total = None
    for k in np.ndindex(*g.kernel):
        starts = [i * d for i, d in zip(k, g.dilations, strict=True)]
        ends = [b + (o - 1) * s + 1 for b, o, s in zip(starts, dims[:rank], g.strides, strict=True)]
        part = e.emit("Slice", x, e.ints(starts), e.ints(ends), e.ints(spatial), e.ints(g.strides))
        tap = w
        for axis, i in reversed(list(enumerate(k))):
            tap = e.emit("Gather", tap, e.constant(np.asarray(i, np.int64)), axis=rank + 2 + axis)
        product = e.emit("Einsum", part, tap, equation=f"nc{letters},{letters}mc->nm{letters}")
        total = product if total is None else e.emit("Add", total, product)
    return total


def interleave(e: Exporter, node: Node, x: str) -> Any:
    """Phases that are channels to their places: a transpose between two reshapes, cut and padded to size."""
    a, value = node.attrs, node.inputs[0]
    assert value is not None
    rank, strides = len(a.strides), a.strides
    each = value.type.shape[1] // (math.prod(strides) * a.groups)
    size, places = _numbers(node, a.size), _numbers(node, value.type.shape[2:])
    split = e.emit("Reshape", x, e.ints([-1, a.groups, *strides, each, *places]))
    order = [0, 1, 2 + rank, *(axis for i in range(rank) for axis in (3 + rank + i, 2 + i))]
    whole = [p * s for p, s in zip(places, strides, strict=True)]
    y = e.emit("Reshape", e.emit("Transpose", split, perm=order), e.ints([-1, a.groups * each, *whole]))
    y = e.emit("Slice", y, e.ints(a.begin), e.ints([b + d for b, d in zip(a.begin, size, strict=True)]),
               e.ints(range(2, 2 + rank)))  # fmt: skip
    more = [max(0, b + d - w) for b, d, w in zip(a.begin, size, whole, strict=True)]
    return e.emit("Pad", y, e.ints([0] * (4 + rank) + more)) if any(more) else y


def split_phases(e: Exporter, node: Node, x: str) -> Any:
    """A gather along each axis, with a zero behind the last position for the gaps."""
    a, value = node.attrs, node.inputs[0]
    assert value is not None
    sizes = _numbers(node, value.type.shape[2:])
    y = e.emit("Pad", x, e.ints([0] * (4 + len(sizes)) + [1] * len(sizes)))
    for axis, (d, s, g) in enumerate(zip(sizes, a.strides, a.gap, strict=True), 2):
        pitch = -(-d // s) + g
        places = [min(d, o % pitch * s + o // pitch) if o % pitch < pitch - g else d for o in range(s * pitch - g)]
        y = e.emit("Gather", y, e.ints(places), axis=axis)
    return y


def join_phases(e: Exporter, node: Node, x: str) -> Any:
    """A gather along each axis."""
    a = node.attrs
    for axis, (s, pitch, size) in enumerate(zip(a.strides, a.pitch, a.size, strict=True), 2):
        x = e.emit("Gather", x, e.ints([o % s * pitch + o // s for o in range(size)]), axis=axis)
    return x


TABLE: dict[str, Callable[..., Any]] = {
    "gather": gather,
    "gather_elements": gather_elements,
    "one_hot": one_hot,
    "resize": resize,
    "adaptive_average_pool": adaptive_pool("ReduceMean"),
    "adaptive_max_pool": adaptive_pool("ReduceMax"),
    "locally_connected": locally_connected,
    "interleave": interleave,
    "split_phases": split_phases,
    "join_phases": join_phases,
}
