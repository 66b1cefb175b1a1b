"""What PyTorch calls the operations of the IR: for each a function of (node, *tensors), to be traced by torch.fx."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from cnncc.bench.systems import MissingError
from cnncc.ir.dtype import is_float
from cnncc.ir.graph import Node
from cnncc.ir.types import Type
from cnncc.ops.pool import pool_geometry
from cnncc.ops.window import Geometry, geometry

Rule = Callable[..., Any]


def _types(node: Node) -> list[Type]:
    return [value.type for value in node.operands()]


def _outer(x: Any, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> Any:
    """x with elements around its trailing axes."""
    if not any((*begin, *end)):
        return x
    pairs = zip(reversed(begin), reversed(end), strict=True)
    return functional.pad(x, [n for pair in pairs for n in pair], value=value)


def _padding(x: Any, g: Geometry, value: float = 0.0, most: Sequence[int] | None = None) -> tuple[Any, tuple[int, ...]]:
    """x and the padding to give to torch: all of it where both sides are alike (and at most `most`), else none."""
    if g.begin == g.end and all(p <= m for p, m in zip(g.begin, most or g.begin, strict=True)):
        return x, g.begin
    return _outer(x, g.begin, g.end, value), (0,) * len(g.begin)


def conv(node: Node, x: Any, w: Any, bias: Any = None) -> Any:
    """Cross-correlation, with a bias where one follows."""
    x_type, w_type = _types(node)
    g = geometry(node.attrs, w_type.shape[2:])
    x, pads = _padding(x, g)
    call = (functional.conv1d, functional.conv2d, functional.conv3d)[x_type.rank - 3]
    return call(x, w, bias, g.strides, pads, g.dilations, node.attrs.groups)


def conv_transpose(node: Node, x: Any, w: Any, bias: Any = None) -> Any:
    """The data gradient of conv, with a bias where one follows."""
    g, extra = geometry(node.attrs, _types(node)[1].shape[2:]), node.attrs.output_padding
    more = [e + b - a for a, b, e in zip(g.end, g.begin, extra or (0,) * len(g.begin), strict=True)]
    if any(not 0 <= m < max(s, d) for m, s, d in zip(more, g.strides, g.dilations, strict=True)):
        raise MissingError(f"{node.where}: torch has no transposed convolution with pads {node.attrs.pads}")
    calls = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
    return calls[len(g.begin) - 1](x, w, bias, g.strides, g.begin, tuple(more), node.attrs.groups, g.dilations)


def matmul(node: Node, x: Any, w: Any, bias: Any = None) -> Any:
    """numpy.matmul, as a linear layer where it is one."""
    if node.attrs.transpose_w and not node.attrs.transpose_x and _types(node)[1].rank == 2:
        return functional.linear(x, w, bias)
    x = x.transpose(-1, -2) if node.attrs.transpose_x else x
    product = torch.matmul(x, w.transpose(-1, -2) if node.attrs.transpose_w else w)
    return product if bias is None else product + bias


def _max_pool(node: Node, x: Any) -> Any:
    rank = _types(node)[0].rank - 2
    g = pool_geometry(node.attrs, rank)
    x, pads = _padding(x, g, -math.inf, [k // 2 for k in g.kernel])
    if node.attrs.ceil and pads != g.begin:  # the last window may not start in the padding, which torch no longer sees
        raise MissingError(f"{node.where}: torch has no pooling with these pads in ceil mode")
    call = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[rank - 1]
    return call(x, g.kernel, g.strides, pads, g.dilations, node.attrs.ceil)


def _average_pool(node: Node, x: Any) -> Any:
    rank = _types(node)[0].rank - 2
    g, include = pool_geometry(node.attrs, rank), node.attrs.count_include_pad
    alike = g.begin == g.end and all(2 * p <= k for p, k in zip(g.begin, g.kernel, strict=True))
    if any(d != 1 for d in g.dilations) or (not alike and (not include or node.attrs.ceil)):
        raise MissingError(f"{node.where}: torch has no average pooling with these pads or dilations")
    x, pads = (x, g.begin) if alike else (_outer(x, g.begin, g.end), (0,) * rank)
    call = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[rank - 1]
    return call(x, g.kernel, g.strides, pads, node.attrs.ceil, include)


def _adaptive(calls: Sequence[Any]) -> Rule:
    return lambda node, x: calls[_types(node)[0].rank - 3](x, node.attrs.size)


def _slice(node: Node, x: Any) -> Any:
    a = node.attrs
    if any(s < 0 for s in a.steps):
        raise MissingError(f"{node.where}: torch has no slices with negative steps")
    steps = a.steps or (1,) * len(a.starts)
    return x[tuple(slice(*part) for part in zip(a.starts, a.ends, steps, strict=True))]


def _pad(node: Node, x: Any) -> Any:
    rank = _types(node)[0].rank
    begin, end = node.attrs.pads[:rank], node.attrs.pads[rank:]
    if node.attrs.mode == "constant":
        return _outer(x, begin, end, node.attrs.value)
    mode = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[node.attrs.mode]
    if any((*begin[:2], *end[:2])) or rank not in (3, 4, 5):
        raise MissingError(f"{node.where}: torch has no {mode} padding of batch or channels")
    pairs = zip(reversed(begin[2:]), reversed(end[2:]), strict=True)
    return functional.pad(x, [n for pair in pairs for n in pair], mode=mode)


def _resize(node: Node, x: Any) -> Any:
    a, (x_type,) = node.attrs, _types(node)
    old, spatial = x_type.shape[-len(a.size) :], x_type.rank - 2
    if x_type.rank - len(a.size) < 2:
        if x_type.shape[: x_type.rank - spatial] != a.size[:-spatial]:
            raise MissingError(f"{node.where}: torch resizes spatial axes only")
    elif x_type.rank - len(a.size) > 2:
        raise MissingError(f"{node.where}: torch resizes all spatial axes")
    size, old = tuple(a.size[-spatial:]), old[-spatial:]
    if any(a.scales) and any(s not in (0, n / o) for s, n, o in zip(a.scales[-spatial:], size, old, strict=True)):
        raise MissingError(f"{node.where}: torch resizes by the sizes alone, got scales {a.scales}")
    whole = all(n % o == 0 for n, o in zip(size, old, strict=True))
    if a.mode == "nearest" and (
        (a.coordinates, a.nearest) == ("asymmetric", "floor")
        or (whole and (a.coordinates, a.nearest[:5]) == ("half_pixel", "round"))
    ):
        return functional.interpolate(x, size, mode="nearest")
    modes = {("linear", 1): "linear", ("linear", 2): "bilinear", ("linear", 3): "trilinear"}
    half = a.coordinates == "half_pixel" or (a.coordinates == "pytorch_half_pixel" and 1 not in size)
    if (a.mode, spatial) in modes and (half or a.coordinates == "align_corners"):
        corners = a.coordinates == "align_corners"
        return functional.interpolate(x, size, mode=modes[a.mode, spatial], align_corners=corners)
    raise MissingError(f"{node.where}: torch has no resize {a.mode} with {a.coordinates} coordinates")


def _gather(node: Node, x: Any, indices: Any) -> Any:
    x_type, at = _types(node)
    axis = node.attrs.axis % x_type.rank
    places = torch.where(indices < 0, indices + x_type.shape[axis], indices).reshape(-1)
    shape = (*x_type.shape[:axis], *at.shape, *x_type.shape[axis + 1 :])
    return torch.index_select(x, axis, places).reshape(shape)


def _local_norm(node: Node, x: Any) -> Any:
    a = node.attrs
    if a.size % 2 == 0:
        raise MissingError(f"{node.where}: torch centres an even number of channels elsewhere, got size {a.size}")
    return functional.local_response_norm(x, a.size, a.alpha, a.beta, a.bias)


def _prelu(node: Node, x: Any, slope: Any) -> Any:
    return torch.where(x > 0, x, x * slope)


def _hard_sigmoid(node: Node, x: Any) -> Any:
    if abs(node.attrs.alpha - 1 / 6) < 1e-6 and node.attrs.beta == 0.5:
        return functional.hardsigmoid(x)
    return torch.clamp(x * node.attrs.alpha + node.attrs.beta, 0.0, 1.0)


def _clip(node: Node, x: Any) -> Any:
    low, high = node.attrs.low, node.attrs.high
    if not is_float(_types(node)[0].dtype):
        low, high = (bound if abs(bound) == math.inf else int(bound) for bound in (low, high))
    if (low, high) == (0.0, 6.0):
        return functional.relu6(x)
    return torch.clamp(x, low if low > -math.inf else None, high if high < math.inf else None)


def _axes(node: Node) -> tuple[int, ...]:
    return node.attrs.axes or tuple(range(_types(node)[0].rank))


def _plain(function: Any) -> Rule:
    """An operation without attributes."""
    return lambda node, *xs: function(*xs)


def _layer_norm(node: Node, x: Any, gamma: Any, beta: Any = None) -> Any:
    shape = _types(node)[0].shape
    return functional.layer_norm(x, shape[node.attrs.axis % len(shape) :], gamma, beta, node.attrs.eps)


_SUMS = {"i32": torch.int32, "i16": torch.int16, "i8": torch.int8, "u8": torch.uint8}  # torch sums them in 64 bits
_SAME = (
    *("abs", "exp", "log", "sqrt", "sin", "cos", "tan", "erf", "floor", "ceil", "round", "sign", "where", "reciprocal"),
    *("square", "log1p", "expm1", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "sigmoid", "tanh"),
)
_RENAMED = {
    **{"max": "maximum", "min": "minimum", "div": "true_divide"},
    **{"equal": "eq", "not_equal": "ne", "less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge"},
    **{"and": "logical_and", "or": "logical_or", "xor": "logical_xor", "not": "logical_not"},
}

RULES: dict[str, Rule] = {
    "conv": conv,
    "conv_transpose": conv_transpose,
    "matmul": matmul,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "adaptive_average_pool": _adaptive(
        (functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d, functional.adaptive_avg_pool3d)
    ),
    "adaptive_max_pool": _adaptive(
        (functional.adaptive_max_pool1d, functional.adaptive_max_pool2d, functional.adaptive_max_pool3d)
    ),
    "batch_norm": lambda n, x, g, b, m, v: functional.batch_norm(x, m, v, g, b, False, 0.0, n.attrs.eps),
    "instance_norm": lambda n, x, g, b: functional.instance_norm(x, None, None, g, b, True, 0.0, n.attrs.eps),
    "group_norm": lambda n, x, g, b: functional.group_norm(x, n.attrs.groups, g, b, n.attrs.eps),
    "layer_norm": _layer_norm,
    "lrn": _local_norm,
    **{name: _plain(getattr(operator, name)) for name in ("add", "sub", "mul", "pow", "neg")},
    **{name: _plain(getattr(torch, name)) for name in _SAME},
    **{name: _plain(getattr(torch, short)) for name, short in _RENAMED.items()},
    "relu": _plain(functional.relu),
    "silu": _plain(functional.silu),
    "hard_swish": _plain(functional.hardswish),
    "mish": _plain(functional.mish),
    "softplus": _plain(functional.softplus),
    "softsign": _plain(functional.softsign),
    "hard_sigmoid": _hard_sigmoid,
    "clip": _clip,
    "gelu": lambda n, x: functional.gelu(x, approximate="tanh" if n.attrs.approximate else "none"),
    "leaky_relu": lambda n, x: functional.leaky_relu(x, n.attrs.alpha),
    "elu": lambda n, x: functional.elu(x, n.attrs.alpha),
    "celu": lambda n, x: functional.celu(x, n.attrs.alpha),
    "selu": lambda n, x: torch.where(x > 0, x, torch.expm1(x) * n.attrs.alpha) * n.attrs.gamma,
    "prelu": _prelu,
    "softmax": lambda n, x: functional.softmax(x, n.attrs.axis),
    "log_softmax": lambda n, x: functional.log_softmax(x, n.attrs.axis),
    "reduce_sum": lambda n, x: torch.sum(x, _axes(n), keepdim=n.attrs.keepdims, dtype=_SUMS.get(_types(n)[0].dtype)),
    "reduce_mean": lambda n, x: torch.mean(x, _axes(n), keepdim=n.attrs.keepdims),
    "reduce_max": lambda n, x: torch.amax(x, _axes(n), keepdim=n.attrs.keepdims),
    "reduce_min": lambda n, x: torch.amin(x, _axes(n), keepdim=n.attrs.keepdims),
    "reshape": lambda n, x: torch.reshape(x, tuple(n.attrs.shape)),
    "expand": lambda n, x: torch.broadcast_to(x, tuple(n.attrs.shape)),
    "transpose": lambda n, x: torch.permute(x, n.attrs.perm),
    "flip": lambda n, x: torch.flip(x, _axes(n)),
    "tile": lambda n, x: torch.tile(x, n.attrs.repeats),
    "concat": lambda n, *xs: torch.cat(xs, n.attrs.axis),
    "slice": _slice,
    "pad": _pad,
    "gather": _gather,
    "resize": _resize,
}
