"""Normalisation, in its inference form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cnncc.edges.onnx_import.context import Call, Results
from cnncc.ir.dims import normal
from cnncc.ir.graph import Value


def batch_norm(n: Call) -> Results:
    """BatchNormalization with given statistics, or with those of the batch: standardised weights are written so."""
    training = bool(n.attr_int("training_mode"))
    if not training and any(n.wants(i) for i in range(1, 5)):
        n.unsupported("statistics of the batch as results; export the model in evaluation mode")
    if not n.attr_int("spatial", 1):
        n.unsupported("spatial=0")
    x = n.value(0)
    parameters = [n.cast(n.value(i), x.type.dtype) for i in range(1, 5)]
    for p in parameters:
        if p.type.rank == 1 and x.type.rank > 1:
            n.equate(x.type.shape[1], p.type.shape[0], "input channels and elements of scale, B, mean and var", True)
    if not training or n.importer.training:
        y = n.op("batch_norm", x, *parameters, eps=n.attr_float("epsilon", 1e-5))
        return (y, *parameters[2:]) if training else y
    return _batch_norm_of_batch(n, x, *parameters)


def _batch_norm_of_batch(n: Call, x: Value, scale: Value, bias: Value, mean: Value, var: Value) -> Results:
    """Normalised by mean and population variance of the batch, and the running ones moved towards them."""
    axes = tuple(a for a in range(x.type.rank) if a != 1)
    here = n.op("reduce_mean", x, axes=axes, keepdims=True)
    centred = n.op("sub", x, here)
    spread = n.op("reduce_mean", n.op("mul", centred, centred), axes=axes, keepdims=True)
    shape = (x.type.shape[1], *(1 for _ in range(x.type.rank - 2)))
    root = n.op("sqrt", n.op("add", spread, n.attr_float("epsilon", 1e-5)))
    y = n.op("add", n.op("mul", n.op("div", centred, root), n.reshape(scale, shape)), n.reshape(bias, shape))
    momentum = n.attr_float("momentum", 0.9)
    moved = (
        n.op("add", n.op("mul", old, momentum), n.op("mul", n.reshape(new, old.type.shape), 1 - momentum))
        for old, new in ((mean, here), (var, spread))
    )
    return (y, *moved) if n.wants(1) or n.wants(2) else y


def instance_norm(n: Call) -> Results:
    """InstanceNormalization."""
    x, scale, bias = n.value(0), n.need_float(1, 1), n.need_float(2, 1)
    if x.type.rank < 2:
        n.fail(f"the input must have rank 2 or more, got {x.type.rank}")
    n.equate(x.type.shape[1], scale.type.shape[0], "input channels and elements of scale", True)
    return n.op("instance_norm", x, scale, bias, eps=n.attr_float("epsilon", 1e-5))


def group_norm(n: Call) -> Results:
    """GroupNormalization; before opset 21 scale and bias have one element a group."""
    x, groups = n.value(0), n.attr_int("num_groups")
    channels = x.type.shape[1]
    parameters = []
    for i in (1, 2):
        p = n.cast(n.value(i), x.type.dtype)
        if n.version < 21 and p.type.shape != (channels,):
            each = normal(channels // groups)
            p = n.reshape(n.op("expand", n.reshape(p, (groups, 1)), shape=(groups, each)), (channels,))
        parameters.append(p)
    return n.op("group_norm", x, *parameters, groups=groups, eps=n.attr_float("epsilon", 1e-5))


def _statistics(n: Call, x: Value, axes: tuple[int, ...], eps: float) -> tuple[Value, Value, Value]:
    """x - mean, mean, 1 / sqrt(var + eps)."""
    mean = n.op("reduce_mean", x, axes=axes, keepdims=True)
    centred = n.op("sub", x, mean)
    var = n.op("reduce_mean", n.op("mul", centred, centred), axes=axes, keepdims=True)
    return centred, mean, n.op("reciprocal", n.op("sqrt", n.op("add", var, eps)))


def layer_norm(n: Call) -> Results:
    """LayerNormalization; the statistics of the second and third output are computed where they are used."""
    x, eps = n.value(0), n.attr_float("epsilon", 1e-5)
    axis = n.axis(n.attr_int("axis", -1), x.type.rank)
    inner = x.type.shape[axis:]
    parameters = [_filling(n, n.cast(n.value(i), x.type.dtype), inner) if n.has(i) else None for i in (1, 2)]
    y = n.op("layer_norm", x, *parameters, axis=axis, eps=eps)
    if not n.wants(1) and not n.wants(2):
        return y
    axes = tuple(range(axis, x.type.rank))
    _, mean, inverse = _statistics(n, x, axes, eps)
    return y, mean, inverse


def _filling(n: Call, p: Value, shape: tuple[object, ...]) -> Value:
    return p if p.type.shape == shape else n.op("expand", p, shape=shape)


def rms_norm(n: Call) -> Results:
    """RMSNormalization: x / sqrt(mean(x^2) + eps) * scale."""
    x = n.value(0)
    axis = n.axis(n.attr_int("axis", -1), x.type.rank)
    axes = tuple(range(axis, x.type.rank))
    square = n.op("reduce_mean", n.op("mul", x, x), axes=axes, keepdims=True)
    root = n.op("sqrt", n.op("add", square, n.attr_float("epsilon", 1e-5)))
    return n.op("mul", n.op("div", x, root), n.cast(n.value(1), x.type.dtype))


def lrn(n: Call) -> Results:
    """LRN across channels."""
    return n.op(
        "lrn", n.value(0), size=n.attr_int("size"), alpha=n.attr_float("alpha", 1e-4),
        beta=n.attr_float("beta", 0.75), bias=n.attr_float("bias", 1.0),
    )  # fmt: skip


def lp_norm(n: Call) -> Results:
    """LpNormalization: x / norm, 0 where the norm is 0."""
    x, p = n.value(0), n.attr_int("p", 2)
    axis = n.axis(n.attr_int("axis", -1), x.type.rank)
    if p not in (1, 2):
        n.fail(f"p must be 1 or 2, got {p}")
    norm = n.op("reduce_sum", n.op("abs", x) if p == 1 else n.op("mul", x, x), axes=(axis,), keepdims=True)
    norm = norm if p == 1 else n.op("sqrt", norm)
    zero = n.constant(np.zeros(()), x.type.dtype)
    return n.op("where", n.op("equal", norm, zero), zero, n.op("div", x, norm))


def mean_variance_norm(n: Call) -> Results:
    """MeanVarianceNormalization: (x - mean) / (sqrt(var) + 1e-9)."""
    x = n.value(0)
    axes = n.axes(n.attr_ints("axes") or (0, 2, 3), x.type.rank)
    mean = n.op("reduce_mean", x, axes=axes, keepdims=True)
    centred = n.op("sub", x, mean)
    var = n.op("reduce_mean", n.op("mul", centred, centred), axes=axes, keepdims=True)
    return n.op("div", centred, n.op("add", n.op("sqrt", var), 1e-9))


TABLE: dict[str, Callable[[Call], Results]] = {
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm,
    "LayerNormalization": layer_norm,
    "RMSNormalization": rms_norm,
    "LRN": lrn,
    "LpNormalization": lp_norm,
    "MeanVarianceNormalization": mean_variance_norm,
}
