"""The ops that PyTorch has, as functions of attributes and torch tensors; None where PyTorch lacks the attributes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cnncc.ir.dtype import NUMPY
from cnncc.ops import TABLE

torch = pytest.importorskip("torch")
F = torch.nn.functional


def _window(a: Any, rank: int) -> dict[str, Any]:
    return {"stride": a.strides or 1, "dilation": a.dilations or 1}


def _pads(a: Any, rank: int) -> tuple[int, ...]:
    """Pads in F.pad's order: last axis first, begin and end side by side."""
    pads = a.pads or (0,) * (2 * rank)
    return tuple(p for axis in reversed(range(rank)) for p in (pads[axis], pads[rank + axis]))


def _symmetric(a: Any, rank: int) -> tuple[int, ...] | None:
    pads = a.pads or (0,) * (2 * rank)
    return pads[:rank] if pads[:rank] == pads[rank:] else None


def _conv(a: Any, x: Any, w: Any) -> Any:
    r = x.ndim - 2
    conv = (F.conv1d, F.conv2d, F.conv3d)[r - 1]
    return conv(F.pad(x, _pads(a, r)), w, groups=a.groups, **_window(a, r))


def _conv_transpose(a: Any, x: Any, w: Any) -> Any:
    r = x.ndim - 2
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[r - 1]
    return function(x, w, padding=_symmetric(a, r), output_padding=a.output_padding or 0, groups=a.groups,
                    **_window(a, r))  # fmt: skip


def _max_pool(a: Any, x: Any, indices: bool = False) -> Any:
    r = x.ndim - 2
    pads = _symmetric(a, r)
    if pads is None or any(2 * p > k for p, k in zip(pads, a.kernel, strict=True)):
        return None
    if indices and r > 1 and x.shape[0] * x.shape[1] > 1:
        return None  # PyTorch counts within a channel
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[r - 1]
    return function(x, a.kernel, padding=pads, ceil_mode=a.ceil, **_window(a, r))


def _average_pool(a: Any, x: Any) -> Any:
    r = x.ndim - 2
    pads = _symmetric(a, r)
    if pads is None or a.dilations or any(2 * p > k for p, k in zip(pads, a.kernel, strict=True)):
        return None
    function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[r - 1]
    return function(x, a.kernel, a.strides or 1, pads, a.ceil, a.count_include_pad)


def _adaptive(kind: str) -> Callable[..., Any]:
    def run(a: Any, x: Any) -> Any:
        return getattr(F, f"adaptive_{kind}_pool{x.ndim - 2}d")(x, a.size)

    return run


def _reduce(name: str) -> Callable[..., Any]:
    def run(a: Any, x: Any) -> Any:
        axes = a.axes or tuple(range(x.ndim))
        if name != "prod":
            return getattr(torch, name)(x, axes, keepdim=a.keepdims)
        for axis in reversed(axes):
            x = torch.prod(x, axis, keepdim=a.keepdims)
        return x

    return run


def _resize(a: Any, x: Any) -> Any:
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}.get(len(a.size), "")
    if a.scales or len(a.size) != x.ndim - 2:
        return None
    if (a.mode, a.coordinates, a.nearest) == ("nearest", "asymmetric", "floor"):
        return F.interpolate(x, a.size, mode="nearest")
    if a.mode == "linear" and a.coordinates in ("half_pixel", "align_corners"):
        return F.interpolate(x, a.size, mode=mode, align_corners=a.coordinates == "align_corners")
    if a.mode == "cubic" and a.coordinates in ("half_pixel", "align_corners"):
        return F.interpolate(x, a.size, mode="bicubic", align_corners=a.coordinates == "align_corners")
    return None


def _pad(a: Any, x: Any) -> Any:
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}[a.mode]
    if a.mode == "constant":
        return F.pad(x, _pads(a, x.ndim), value=a.value)
    return F.pad(x, _pads(a, x.ndim)[:-2], mode=mode) if a.pads[0] == a.pads[x.ndim] == 0 else None


def _slice(a: Any, x: Any) -> Any:
    if any(s < 0 for s in a.steps):
        return None
    steps = a.steps or (1,) * x.ndim
    return x[tuple(slice(*t) for t in zip(a.starts, a.ends, steps, strict=True))]


def _matmul(a: Any, x: Any, w: Any) -> Any:
    return torch.matmul(x.mT if a.transpose_x else x, w.mT if a.transpose_w else w)


def _cumsum(a: Any, x: Any) -> Any:
    y = x.flip(a.axis) if a.reverse else x
    total = torch.cumsum(y, a.axis)
    total = total - y if a.exclusive else total
    return total.flip(a.axis) if a.reverse else total


def _batch_train(a: Any, x: Any, gamma: Any, beta: Any) -> Any:
    axes = [k for k in range(x.ndim) if k != 1]
    y = F.batch_norm(x, None, None, gamma, beta, training=True, eps=a.eps)
    return y, x.mean(axes), x.var(axes, unbiased=False)


def _batch_norm(a: Any, x: Any, *vectors: Any) -> Any:
    """By hand: F.batch_norm has no gradient of mean and var."""
    gamma, beta, mean, var = (v.reshape(-1, *(1,) * (x.ndim - 2)) for v in vectors)
    return (x - mean) * torch.rsqrt(var + a.eps) * gamma + beta


def _gather(a: Any, x: Any, i: Any) -> Any:
    i = torch.where(i < 0, i + x.shape[a.axis], i).long()
    if i.min() < 0 or i.max() >= x.shape[a.axis]:
        return None
    return torch.index_select(x, a.axis, i.reshape(-1)).reshape(*x.shape[: a.axis], *i.shape, *x.shape[a.axis + 1 :])


def _local(a: Any, x: Any, w: Any) -> Any:
    r = x.ndim - 2
    if r != 2:
        return None
    out, kernel = w.shape[:2], tuple(w.shape[4:])
    columns = F.unfold(F.pad(x, _pads(a, 2)), kernel, dilation=a.dilations or 1, stride=a.strides or 1)
    y = torch.einsum("nip,pmi->nmp", columns, w.reshape(out[0] * out[1], w.shape[2], -1))
    return y.reshape(x.shape[0], -1, *out)


def _unfold(a: Any, x: Any) -> Any:
    """[N, C kh kw, L] in the op's shape; PyTorch has two spatial axes and symmetric padding."""
    if x.ndim != 4:
        return None
    padded = F.pad(x, _pads(a, 2))
    out = _sizes(a, padded.shape[2:])
    return F.unfold(padded, a.kernel, a.dilations or 1, 0, a.strides or 1).reshape(*x.shape[:2], *a.kernel, *out)


def _sizes(a: Any, padded: Any) -> tuple[int, ...]:
    d, s = a.dilations or (1, 1), a.strides or (1, 1)
    return tuple((i - e * (k - 1) - 1) // t + 1 for i, k, e, t in zip(padded, a.kernel, d, s, strict=True))


def _fold(a: Any, x: Any) -> Any:
    if x.ndim != 6:
        return None
    left, right, top, bottom = _pads(a, 2)
    h, w = a.size[0] + top + bottom, a.size[1] + left + right
    n, c = x.shape[:2]
    columns = x.reshape(n, c * a.kernel[0] * a.kernel[1], -1)
    y = F.fold(columns, (h, w), a.kernel, a.dilations or 1, 0, a.strides or 1)
    return y[:, :, top : h - bottom, left : w - right]


def _max_unpool(a: Any, x: Any, indices: Any) -> Any:
    """By hand: PyTorch's own wants the size that the window gives. None where an index repeats (left open there)."""
    flat = indices.reshape(*x.shape[:2], -1)
    if any(len(set(row)) < len(row) for row in flat.reshape(-1, flat.shape[2]).tolist()):
        return None
    zeros = torch.zeros(*x.shape[:2], math.prod(a.size), dtype=x.dtype)
    return zeros.scatter(2, flat, x.reshape(flat.shape)).reshape(*x.shape[:2], *a.size)


def _dropout_train(a: Any, x: Any, key: Any) -> Any:
    """The mask is the op's own; the product with it is what is differentiated."""
    ones = TABLE["dropout_train"].run(a, [np.ones(x.shape), key.numpy()])[0]
    return x * torch.tensor(ones)


def _expressed(f: Callable[..., Any]) -> Callable[..., Any]:
    """An op that is the gradient of another: PyTorch's vector-Jacobian product, which may be differentiated again."""

    def run(a: Any, dy: Any, shape: Any) -> Any:
        x = torch.zeros(shape, dtype=dy.dtype, requires_grad=True)
        y = f(a, x)
        return None if y is None else torch.autograd.grad(y, x, dy, create_graph=True)[0]

    return run


def _conv_dw(a: Any, x: Any, dy: Any) -> Any:
    w = torch.zeros(dy.shape[1], x.shape[1] // a.groups, *a.kernel, dtype=x.dtype, requires_grad=True)
    return torch.autograd.grad(_conv(a, x, w), w, dy, create_graph=True)[0]


def _of_operand(f: Callable[..., Any]) -> Callable[..., Any]:
    """max_pool_dx(x, dy) and its like: the gradient of f at x."""

    def run(a: Any, x: Any, dy: Any) -> Any:
        inner = x if x.requires_grad else x.requires_grad_()
        y = f(a, inner, dy)
        return None if y is None else torch.autograd.grad(y, inner, dy, create_graph=True)[0]

    return run


def _same(name: str) -> Callable[..., Any]:
    return lambda a, x: getattr(torch, name)(x)


TORCH: dict[str, Callable[..., Any]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "max_pool": _max_pool,
    "max_pool_dx": _of_operand(lambda a, x, dy: _max_pool(a, x)),
    "conv_dw": _conv_dw,
    "average_pool": _average_pool,
    "average_pool_dx": lambda a, dy: _expressed(_average_pool)(a, dy, (*dy.shape[:2], *a.size)),
    "adaptive_average_pool_dx": lambda a, dy: _expressed(
        lambda _, x: getattr(F, f"adaptive_avg_pool{dy.ndim - 2}d")(x, dy.shape[2:])
    )(a, dy, (*dy.shape[:2], *a.size)),
    "adaptive_max_pool_dx": _of_operand(
        lambda a, x, dy: getattr(F, f"adaptive_max_pool{x.ndim - 2}d")(x, dy.shape[2:])
    ),
    "unfold": _unfold,
    "fold": _fold,
    "max_unpool": _max_unpool,
    "dropout": lambda a, x: F.dropout(x, a.p, training=False),
    "dropout_train": _dropout_train,
    "stop_gradient": lambda a, x: x.detach() + 0 * x,
    "cast": lambda a, x: x.to(getattr(torch, np.dtype(NUMPY[a.dtype]).name.replace("bool_", "bool"))),
    "adaptive_average_pool": _adaptive("avg"),
    "adaptive_max_pool": _adaptive("max"),
    "batch_norm": _batch_norm,
    "batch_norm_train": _batch_train,
    "layer_norm": lambda a, x, g, b=None: F.layer_norm(x, x.shape[a.axis :], g, b, a.eps),
    "instance_norm": lambda a, x, g, b: F.instance_norm(x, weight=g, bias=b, eps=a.eps),
    "group_norm": lambda a, x, g, b: F.group_norm(x, a.groups, g, b, a.eps),
    "lrn": lambda a, x: F.local_response_norm(x, a.size, a.alpha, a.beta, a.bias) if a.size % 2 else None,
    "matmul": _matmul,
    "locally_connected": _local,
    "relu": lambda a, x: F.relu(x),
    "clip": lambda a, x: torch.clamp(x, a.low, a.high) if a.closed else F.hardtanh(x, a.low, a.high),
    "leaky_relu": lambda a, x: F.leaky_relu(x, a.alpha),
    "sigmoid": lambda a, x: torch.sigmoid(x),
    "tanh": lambda a, x: torch.tanh(x),
    "hard_swish": lambda a, x: F.hardswish(x),
    "hard_sigmoid": lambda a, x: F.hardsigmoid(x) if (a.alpha, a.beta) == (1 / 6, 0.5) else None,
    "silu": lambda a, x: F.silu(x),
    "gelu": lambda a, x: F.gelu(x, approximate="tanh" if a.approximate else "none"),
    "prelu": lambda a, x, s: torch.where(x > 0, x, x * s),
    "elu": lambda a, x: F.elu(x, a.alpha),
    "selu": lambda a, x: F.selu(x) if a.alpha < 2 else None,
    "celu": lambda a, x: F.celu(x, a.alpha),
    "softplus": lambda a, x: F.softplus(x),
    "softsign": lambda a, x: F.softsign(x),
    "mish": lambda a, x: F.mish(x),
    "thresholded_relu": lambda a, x: F.threshold(x, a.alpha, 0.0),
    "softmax": lambda a, x: torch.softmax(x, a.axis),
    "log_softmax": lambda a, x: torch.log_softmax(x, a.axis),
    "reduce_sum": _reduce("sum"),
    "reduce_mean": _reduce("mean"),
    "reduce_max": _reduce("amax"),
    "reduce_min": _reduce("amin"),
    "reduce_prod": _reduce("prod"),
    "argmax": lambda a, x: torch.argmax(x, a.axis, a.keepdims) if not a.select_last and x.is_floating_point() else None,
    "argmin": lambda a, x: torch.argmin(x, a.axis, a.keepdims) if not a.select_last and x.is_floating_point() else None,
    "cumsum": _cumsum,
    "reshape": lambda a, x: x.reshape(a.shape),
    "transpose": lambda a, x: x.permute(a.perm),
    "expand": lambda a, x: x.expand(a.shape),
    "flip": lambda a, x: x.flip(a.axes),
    "concat": lambda a, *xs: torch.cat(xs, a.axis),
    "tile": lambda a, x: x.tile(a.repeats),
    "slice": _slice,
    "pad": _pad,
    "gather": _gather,
    "gather_elements": lambda a, x, i: torch.gather(x, a.axis, torch.where(i < 0, i + x.shape[a.axis], i).long()),
    "resize": _resize,
    "where": lambda a, c, x, y: torch.where(c, x, y),
    "add": lambda a, x, y: x + y,
    "sub": lambda a, x, y: x - y,
    "mul": lambda a, x, y: x * y,
    "div": lambda a, x, y: x / y,
    "pow": lambda a, x, y: x**y,
    "max": lambda a, x, y: torch.maximum(x, y) if not torch.equal(x, y) else None,
    "min": lambda a, x, y: torch.minimum(x, y) if not torch.equal(x, y) else None,
    "mod": lambda a, x, y: torch.fmod(x, y) if a.fmod else torch.remainder(x, y),
}
for _name in (
    "neg", "abs", "exp", "log", "sqrt", "sin", "cos", "erf", "floor", "ceil", "round", "sign", "isnan", "isinf",
    "reciprocal", "square", "log1p", "expm1", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh",
):  # fmt: skip
    TORCH[_name] = _same(_name)

# Differentiable ops without an oracle in PyTorch, and what tests them there.
ELSEWHERE = {
    "locally_connected_dx": "the gradient of locally_connected, whose gradients are compared",
    "locally_connected_dw": "the gradient of locally_connected, whose gradients are compared",
    "slice_dx": "the gradient of slice, whose gradients are compared",
    "gather_dx": "the gradient of gather, whose gradients are compared",
    "gather_elements_dx": "the gradient of gather_elements, whose gradients are compared",
    "size": "a number of elements: it has no gradient to compare",
    "to_layout": "a layout is no part of PyTorch's values",
}
