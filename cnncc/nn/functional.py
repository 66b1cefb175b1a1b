"""torch.nn.functional's names for what needs no parameters, on the `Tensor`s of a module's `forward`.

Most are the layer of the same meaning with its arguments: ``avg_pool2d(x, 2)`` is ``AvgPool2d(2)(x)``. Losses are in
`cnncc.losses`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cnncc.nn import activation, layers, shape
from cnncc.nn.conv import Size, spread
from cnncc.nn.dropout import AlphaDropout, Dropout, Dropout1d, Dropout2d, Dropout3d, FeatureAlphaDropout
from cnncc.nn.tensor import Tensor
from cnncc.nn.windows import (
    adaptive_max_pool1d as adaptive_max_pool1d,
)
from cnncc.nn.windows import (
    adaptive_max_pool2d as adaptive_max_pool2d,
)
from cnncc.nn.windows import (
    adaptive_max_pool3d as adaptive_max_pool3d,
)
from cnncc.nn.windows import (
    fold as fold,
)
from cnncc.nn.windows import (
    max_pool1d as max_pool1d,
)
from cnncc.nn.windows import (
    max_pool2d as max_pool2d,
)
from cnncc.nn.windows import (
    max_pool3d as max_pool3d,
)
from cnncc.nn.windows import (
    max_unpool1d as max_unpool1d,
)
from cnncc.nn.windows import (
    max_unpool2d as max_unpool2d,
)
from cnncc.nn.windows import (
    max_unpool3d as max_unpool3d,
)
from cnncc.nn.windows import (
    unfold as unfold,
)


def _of(layer: Any) -> Callable[..., Tensor]:
    def run(x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        result: Tensor = layer(*arguments, **options)(x)
        return result

    run.__doc__ = f"The layer `{layer.__name__}`, with its arguments."
    return run


def _dropout(layer: Any) -> Callable[..., Tensor]:
    def run(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        result: Tensor = layer(p).train(training)(x)
        return result

    run.__doc__ = f"The layer `{layer.__name__}` in training mode, or else x; a module gives training=self.training."
    return run


relu, relu6, sigmoid, tanh = map(_of, (activation.ReLU, activation.ReLU6, activation.Sigmoid, activation.Tanh))
silu, mish, gelu, elu = map(_of, (activation.SiLU, activation.Mish, activation.GELU, activation.ELU))
celu, selu, leaky_relu, softsign = map(
    _of, (activation.CELU, activation.SELU, activation.LeakyReLU, activation.Softsign)
)
hardswish, hardsigmoid, hardtanh = map(_of, (activation.Hardswish, activation.Hardsigmoid, activation.Hardtanh))
softplus, logsigmoid, glu = map(_of, (activation.Softplus, activation.LogSigmoid, activation.GLU))
softmax, log_softmax, softmin = map(_of, (activation.Softmax, activation.LogSoftmax, activation.Softmin))
hardshrink, softshrink, tanhshrink, threshold = map(
    _of, (activation.Hardshrink, activation.Softshrink, activation.Tanhshrink, activation.Threshold)
)
avg_pool1d, avg_pool2d, avg_pool3d = map(_of, (layers.AvgPool1d, layers.AvgPool2d, layers.AvgPool3d))
lp_pool1d, lp_pool2d, lp_pool3d = map(_of, (layers.LPPool1d, layers.LPPool2d, layers.LPPool3d))
adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = map(
    _of, (layers.AdaptiveAvgPool1d, layers.AdaptiveAvgPool2d, layers.AdaptiveAvgPool3d)
)
interpolate, flatten = _of(shape.Upsample), _of(shape.Flatten)
pixel_shuffle, pixel_unshuffle, channel_shuffle = map(
    _of, (shape.PixelShuffle, shape.PixelUnshuffle, shape.ChannelShuffle)
)
dropout, dropout1d, dropout2d, dropout3d = map(_dropout, (Dropout, Dropout1d, Dropout2d, Dropout3d))
alpha_dropout, feature_alpha_dropout = map(_dropout, (AlphaDropout, FeatureAlphaDropout))


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """torch.cat: one after another along an axis."""
    first = tensors[0]
    return first._op("concat", *tensors, axis=dim % first.ndim)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """torch.stack: along a new axis."""
    return cat([t.unsqueeze(dim) for t in tensors], dim % (tensors[0].ndim + 1))


def pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """torch.nn.functional.pad: (left, right, top, bottom, ...), the last axis first; constant, reflect, replicate or
    circular."""
    kind = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}.get(mode, mode)
    lead = (0,) * (x.ndim - len(pad) // 2)
    begin, end = tuple(pad[::2])[::-1], tuple(pad[1::2])[::-1]
    return x._op("pad", x, pads=(*lead, *begin, *lead, *end), mode=kind, value=float(value))


def normalize(x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x divided by the larger of its p-norm along an axis and eps."""
    size = x._op("abs", x)
    norm = (size**p).sum(dim, keepdim=True) ** (1 / p) if p != 2 else (x * x).sum(dim, keepdim=True).sqrt()
    return x / x._op("max", norm, eps)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch.nn.functional.linear: x W^T + b."""
    y = x._op("matmul", x, weight, transpose_w=True)
    return y if bias is None else y + bias


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of x [N, C, ...] with weights [M, C / groups, ...], values of the graph, plus bias."""
    rank = x.ndim - 2
    y = x._op("conv", x, weight, strides=spread(stride, rank, "stride"), groups=groups,
              pads=padding if isinstance(padding, str) else spread(padding, rank, "padding"),
              dilations=spread(dilation, rank, "dilation"))  # fmt: skip
    return y if bias is None else y + bias.reshape((1, -1) + (1,) * rank)


conv1d = conv2d = conv3d = conv


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """The transpose of `conv`: x [N, C, ...], weights [C, M / groups, ...], values of the graph, plus bias."""
    rank = x.ndim - 2
    y = x._op("conv_transpose", x, weight, strides=spread(stride, rank, "stride"), groups=groups,
              pads=spread(padding, rank, "padding"), dilations=spread(dilation, rank, "dilation"),
              output_padding=spread(output_padding, rank, "output_padding"))  # fmt: skip
    return y if bias is None else y + bias.reshape((1, -1) + (1,) * rank)


conv_transpose1d = conv_transpose2d = conv_transpose3d = conv_transpose
