"""Convolution, pooling and normalisation in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.ops.window import geometry

if TYPE_CHECKING:
    from cnncc.edges.onnx_export import Exporter
    from cnncc.ir.graph import Node


def _window(node: Node, kernel: Any) -> dict[str, Any]:
    g = geometry(node.attrs, kernel)
    return {"kernel_shape": g.kernel, "strides": g.strides, "pads": (*g.begin, *g.end), "dilations": g.dilations}


def conv(e: Exporter, node: Node, x: str, w: str) -> Any:
    """Conv."""
    weights = node.inputs[1]
    assert weights is not None
    return e.emit("Conv", x, w, group=node.attrs.groups, **_window(node, weights.type.shape[2:]))


def conv_transpose(e: Exporter, node: Node, x: str, w: str) -> Any:
    """ConvTranspose."""
    weights = node.inputs[1]
    assert weights is not None
    window = _window(node, weights.type.shape[2:])
    rest = node.attrs.output_padding or (0,) * len(window["strides"])
    return e.emit("ConvTranspose", x, w, group=node.attrs.groups, output_padding=rest, **window)


def max_pool(e: Exporter, node: Node, x: str) -> Any:
    """MaxPool."""
    return e.emit("MaxPool", x, ceil_mode=int(node.attrs.ceil), **_window(node, node.attrs.kernel))


def max_pool_indices(e: Exporter, node: Node, x: str) -> Any:
    """The second result of MaxPool."""
    return e.emit("MaxPool", x, results=2, ceil_mode=int(node.attrs.ceil), **_window(node, node.attrs.kernel))[1]


def average_pool(e: Exporter, node: Node, x: str) -> Any:
    """AveragePool."""
    a = node.attrs
    modes = {"ceil_mode": int(a.ceil), "count_include_pad": int(a.count_include_pad)}
    return e.emit("AveragePool", x, **modes, **_window(node, a.kernel))


# -- normalisation ---------------------------------------------------------------------------------------------------


def batch_norm(e: Exporter, node: Node, *x: str) -> Any:
    """BatchNormalization in inference."""
    return e.emit("BatchNormalization", *x, epsilon=node.attrs.eps)


def batch_norm_train(e: Exporter, node: Node, x: str, gamma: str, beta: str) -> Any:
    """Mean and variance of the batch, then BatchNormalization with them."""
    rank = node.outputs[0].type.rank
    axes = e.ints([0, *range(2, rank)])
    mean = e.emit("ReduceMean", x, axes, keepdims=1)
    centred = e.emit("Sub", x, mean)
    var = e.emit("ReduceMean", e.emit("Mul", centred, centred), axes, keepdims=0)
    mean = e.emit("Squeeze", mean, axes)
    return e.emit("BatchNormalization", x, gamma, beta, mean, var, epsilon=node.attrs.eps), mean, var


def moving_average(e: Exporter, node: Node, old: str, new: str, rate: str, count: str = "") -> Any:
    """(1 - rate) old + rate new, new times count / max(count - 1, 1)."""
    one = e.number(1, node.outputs[0])
    if count:
        new = e.emit("Mul", new, e.emit("Div", count, e.emit("Max", e.emit("Sub", count, one), one)))
    return e.emit("Add", e.emit("Mul", old, e.emit("Sub", one, rate)), e.emit("Mul", new, rate))


def dropout(e: Exporter, node: Node, x: str) -> Any:
    """Dropout, as in inference."""
    return e.emit("Dropout", x, e.constant(np.asarray(node.attrs.p, np.float32)))


def layer_norm(e: Exporter, node: Node, *x: str) -> Any:
    """LayerNormalization."""
    return e.emit("LayerNormalization", *x, axis=node.attrs.axis, epsilon=node.attrs.eps)


def instance_norm(e: Exporter, node: Node, *x: str) -> Any:
    """InstanceNormalization."""
    return e.emit("InstanceNormalization", *x, epsilon=node.attrs.eps)


def group_norm(e: Exporter, node: Node, x: str, gamma: str, beta: str) -> Any:
    """InstanceNormalization of the groups, then scale and shift of the channels."""
    out, groups = node.outputs[0], node.attrs.groups
    one = e.constant(np.ones(groups, out.type.numpy))
    zero = e.constant(np.zeros(groups, out.type.numpy))
    split = e.emit("Reshape", x, e.ints([0, groups, -1]))
    normal = e.emit("InstanceNormalization", split, one, zero, epsilon=node.attrs.eps)
    whole = e.emit("Reshape", normal, e.dims(out.type.shape))
    spread = e.ints([-1, *[1] * (out.type.rank - 2)])
    scaled = e.emit("Mul", whole, e.emit("Reshape", gamma, spread))
    return e.emit("Add", scaled, e.emit("Reshape", beta, spread))


def lrn(e: Exporter, node: Node, x: str) -> Any:
    """LRN, which ONNX Runtime has for rank 4 and odd sizes; otherwise by an average over channels."""
    a, out = node.attrs, node.outputs[0]
    if out.type.rank == 4 and a.size % 2:
        return e.emit("LRN", x, size=a.size, alpha=a.alpha, beta=a.beta, bias=a.bias)
    before = (a.size - 1) // 2
    flat = e.emit("Unsqueeze", e.emit("Reshape", e.emit("Mul", x, x), e.ints([0, 0, -1])), e.ints([1]))
    window: dict[str, Any] = {
        "kernel_shape": (a.size, 1),
        "pads": (before, 0, a.size - 1 - before, 0),
        "count_include_pad": 1,
    }
    mean = e.emit("Reshape", e.emit("AveragePool", flat, **window), e.emit("Shape", x))
    base = e.emit("Add", e.emit("Mul", mean, e.number(a.alpha, out)), e.number(a.bias, out))
    return e.emit("Div", x, e.emit("Pow", base, e.number(a.beta, out)))


TABLE: dict[str, Callable[..., Any]] = {
    "conv": conv,
    "conv_transpose": conv_transpose,
    "max_pool": max_pool,
    "max_pool_indices": max_pool_indices,
    "average_pool": average_pool,
    "batch_norm": batch_norm,
    "batch_norm_train": batch_norm_train,
    "moving_average": moving_average,
    "dropout": dropout,
    "layer_norm": layer_norm,
    "instance_norm": instance_norm,
    "group_norm": group_norm,
    "lrn": lrn,
}
