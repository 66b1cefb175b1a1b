"""Max unpooling, unfold and fold in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.edges.onnx_tensors import CODES
from cnncc.errors import UnsupportedError
from cnncc.ir.dims import is_static, product
from cnncc.ops.unpool import unpooled_size
from cnncc.ops.window import geometry

if TYPE_CHECKING:
    from cnncc.edges.onnx_export import Exporter
    from cnncc.ir.graph import Node, Value


def max_unpool(e: Exporter, node: Node, x: str, indices: str) -> Any:
    """MaxUnpool, whose size follows from the window: a larger kernel or more padding at the end makes it the node's."""
    a, out = node.attrs, node.outputs[0]
    g = geometry(a, a.kernel)
    value, where = node.inputs
    assert value is not None
    assert where is not None
    covered = unpooled_size(g, value.type.shape[2:])
    if not is_static((*covered, *a.size)):
        raise UnsupportedError(f"{node.where}: symbolic sizes cannot be written in ONNX here; fix the shapes")
    rest = [int(d - k) for d, k in zip(a.size, covered, strict=True)]
    kernel = [k + max(r, 0) for k, r in zip(g.extent, rest, strict=True)]
    end = [p + max(-r, 0) for p, r in zip(g.end, rest, strict=True)]
    source = _whole(where, out)
    places = _places(e, node, indices) if source is None else e.name_of(source)
    return e.emit("MaxUnpool", x, places, kernel_shape=kernel, strides=g.strides, pads=(*g.begin, *end))


def _places(e: Exporter, node: Node, indices: str) -> str:
    """Indices into a channel (or the whole) of the result --> i64 indices into the whole."""
    value = node.inputs[0]
    assert value is not None
    n, channels, *space = value.type.shape
    plane = e.constant(np.asarray(product(node.attrs.size), np.int64))
    zero, one = (e.constant(np.asarray(k, np.int64)) for k in (0, 1))
    count = e.emit("Squeeze", e.dims((product((n, channels)),)))
    rows = e.emit("Reshape", e.emit("Range", zero, count, one), e.dims((n, channels, *(1,) * len(space))))
    within = e.emit("Mod", e.emit("Cast", indices, to=CODES[np.dtype(np.int64)]), plane)
    return str(e.emit("Add", within, e.emit("Mul", rows, plane)))


def _whole(indices: Value, out: Value) -> Value | None:
    """The indices into the whole array, where they come from a max pool of an array like the result."""
    node = indices.node
    if node is not None and node.op == "mod" and node.inputs[1] is not None and node.inputs[1].is_constant:
        (indices, _) = node.inputs  # type: ignore[assignment]  # mod has both
        node = indices.node
    if node is None or node.op != "max_pool_indices" or node.inputs[0] is None:
        return None
    return indices if node.inputs[0].type.shape == out.type.shape else None


def unfold(e: Exporter, node: Node, x: str) -> Any:
    """Per spatial axis a gather with a table of places [kernel, out]; then the kernel's axes go before the others."""
    a, value = node.attrs, node.inputs[0]
    assert value is not None
    g = geometry(a, a.kernel)
    size = value.type.shape[2:]
    if not is_static(size):
        raise UnsupportedError(f"{node.where}: symbolic sizes cannot be written in ONNX here; fix the shapes")
    if any(g.begin) or any(g.end):
        x = e.emit("Pad", x, e.ints([0, 0, *g.begin, 0, 0, *g.end]))
    for axis, (k, o, s, d) in enumerate(zip(g.kernel, g.out(size), g.strides, g.dilations, strict=True)):
        places = np.arange(k)[:, None] * d + np.arange(int(o)) * s
        x = e.emit("Gather", x, e.constant(places.astype(np.int64)), axis=2 + 2 * axis)
    order = [0, 1, *range(2, 2 + 2 * g.rank, 2), *range(3, 3 + 2 * g.rank, 2)]
    return e.emit("Transpose", x, perm=order) if g.rank > 1 else x


def fold(e: Exporter, node: Node, x: str) -> Any:
    """Col2Im of the columns with kernel and places merged."""
    a, value = node.attrs, node.inputs[0]
    assert value is not None
    g = geometry(a, a.kernel)
    n, channels, *rest = value.type.shape
    merged = (n, channels * product(g.kernel), product(rest[g.rank :]))
    columns = e.emit("Reshape", x, e.dims(merged))
    window: dict[str, Any] = {"strides": g.strides, "dilations": g.dilations, "pads": (*g.begin, *g.end)}
    return e.emit("Col2Im", columns, e.dims(a.size), e.ints(g.kernel), **window)


TABLE: dict[str, Callable[..., Any]] = {"max_unpool": max_unpool, "unfold": unfold, "fold": fold}
