"""Pooling, normalisation, linear layers, dropout and reshaping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.nn import init
from cnncc.nn.conv import Size, spread
from cnncc.nn.module import Module
from cnncc.nn.tensor import Tensor


class Linear(Module):
    """torch.nn.Linear: y = x W^T + b on the last axis."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = init.weights((out_features, in_features), in_features)
        self.register_parameter("bias", init.bias(out_features, in_features) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """x W^T + b."""
        y = x._op("matmul", x, x.trace.value(self.weight), transpose_w=True)
        return y if self.bias is None else y + x.trace.value(self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


class _Pool(Module):
    rank = 2
    op = "max_pool"

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ):
        super().__init__()
        if return_indices:
            raise GraphError(f"{type(self).__name__}: return_indices=True is not supported")
        self.kernel_size = spread(kernel_size, self.rank, "kernel_size")
        self.stride = spread(kernel_size if stride is None else stride, self.rank, "stride")
        self.padding = spread(padding, self.rank, "padding")
        self.dilation = spread(dilation, self.rank, "dilation")
        self.ceil_mode = ceil_mode
        self.more: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Reduce every window."""
        return x._op(self.op, x, kernel=self.kernel_size, strides=self.stride, pads=self.padding,
                     dilations=self.dilation, ceil=self.ceil_mode, **self.more)  # fmt: skip

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxPool1d(_Pool):
    """torch.nn.MaxPool1d."""

    rank = 1


class MaxPool2d(_Pool):
    """torch.nn.MaxPool2d."""


class MaxPool3d(_Pool):
    """torch.nn.MaxPool3d."""

    rank = 3


class _AvgPool(_Pool):
    op = "average_pool"

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ):
        super().__init__(kernel_size, stride, padding, ceil_mode=ceil_mode)
        self.more = {"count_include_pad": count_include_pad}


class AvgPool1d(_AvgPool):
    """torch.nn.AvgPool1d."""

    rank = 1


class AvgPool2d(_AvgPool):
    """torch.nn.AvgPool2d."""


class AvgPool3d(_AvgPool):
    """torch.nn.AvgPool3d."""

    rank = 3


class _AdaptivePool(Module):
    rank = 2
    op = "adaptive_average_pool"
    whole = "reduce_mean"

    def __init__(self, output_size: Size):
        super().__init__()
        self.output_size = spread(output_size, self.rank, "output_size")

    def forward(self, x: Tensor) -> Tensor:
        """Windows that cover the input, so that the result has `output_size`."""
        if all(s == 1 for s in self.output_size):
            return x._op(self.whole, x, axes=tuple(range(2, x.ndim)), keepdims=True)
        return x._op(self.op, x, size=self.output_size)


class AdaptiveAvgPool1d(_AdaptivePool):
    """torch.nn.AdaptiveAvgPool1d."""

    rank = 1


class AdaptiveAvgPool2d(_AdaptivePool):
    """torch.nn.AdaptiveAvgPool2d."""


class AdaptiveAvgPool3d(_AdaptivePool):
    """torch.nn.AdaptiveAvgPool3d."""

    rank = 3


class AdaptiveMaxPool1d(_AdaptivePool):
    """torch.nn.AdaptiveMaxPool1d."""

    rank, op, whole = 1, "adaptive_max_pool", "reduce_max"


class AdaptiveMaxPool2d(_AdaptivePool):
    """torch.nn.AdaptiveMaxPool2d."""

    op, whole = "adaptive_max_pool", "reduce_max"


class AdaptiveMaxPool3d(_AdaptivePool):
    """torch.nn.AdaptiveMaxPool3d."""

    rank, op, whole = 3, "adaptive_max_pool", "reduce_max"


class _BatchNorm(Module):
    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True):
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = init.full((num_features,), 1.0)
        self.bias = init.full((num_features,), 0.0)
        if not affine:
            self.weight.requires_grad = self.bias.requires_grad = False
        self.register_buffer("running_mean", np.zeros(num_features, np.float32))
        self.register_buffer("running_var", np.ones(num_features, np.float32))
        self.register_buffer("num_batches_tracked", np.zeros((), np.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every channel: by the batch in training (updating the running statistics), else by those.

        The running variance takes the unbiased estimate, as in PyTorch.
        """
        trace = x.trace
        gamma, beta = trace.value(self.weight), trace.value(self.bias)
        mean, var = (trace.value(self._buffers[k]) for k in ("running_mean", "running_var"))
        if not self.training:
            return x._op("batch_norm", x, gamma, beta, mean, var, eps=self.eps)
        y, batch_mean, batch_var = trace.op("batch_norm_train", x, gamma, beta, eps=self.eps)
        count = trace.op("size", x, axes=(0, *range(2, x.ndim)))
        m = self.momentum
        unbiased = batch_var * (count / (count - 1))
        names = {k: trace.name_of(self._buffers[k]) for k in ("running_mean", "running_var")}
        trace.updates[names["running_mean"]] = (mean * (1 - m) + batch_mean * m).value
        trace.updates[names["running_var"]] = (var * (1 - m) + unbiased * m).value
        return y  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class BatchNorm1d(_BatchNorm):
    """torch.nn.BatchNorm1d."""


class BatchNorm2d(_BatchNorm):
    """torch.nn.BatchNorm2d."""


class BatchNorm3d(_BatchNorm):
    """torch.nn.BatchNorm3d."""


class LocalResponseNorm(Module):
    """torch.nn.LocalResponseNorm."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0):
        super().__init__()
        self.arguments = {"size": size, "alpha": alpha, "beta": beta, "bias": k}

    def forward(self, x: Tensor) -> Tensor:
        """Divide by the energy of neighbouring channels."""
        return x._op("lrn", x, **self.arguments)


class GroupNorm(Module):
    """torch.nn.GroupNorm."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5):
        super().__init__()
        self.num_groups, self.eps = num_groups, eps
        self.weight = init.full((num_channels,), 1.0)
        self.bias = init.full((num_channels,), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise groups of channels."""
        t = x.trace
        return x._op("group_norm", x, t.value(self.weight), t.value(self.bias), groups=self.num_groups, eps=self.eps)


class LayerNorm(Module):
    """torch.nn.LayerNorm over the last axes."""

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5):
        super().__init__()
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        self.weight = init.full(self.normalized_shape, 1.0)
        self.bias = init.full(self.normalized_shape, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axes."""
        t = x.trace
        axis = x.ndim - len(self.normalized_shape)
        return x._op("layer_norm", x, t.value(self.weight), t.value(self.bias), axis=axis, eps=self.eps)


class Dropout(Module):
    """torch.nn.Dropout. In training the mask comes with the training step; in evaluation it is the identity."""

    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__()
        if not 0 <= p < 1:
            raise GraphError(f"Dropout: p must be in [0, 1), got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """The identity in evaluation mode."""
        if self.training and self.p > 0:
            raise GraphError("Dropout in training mode is not supported yet: call eval(), or set p=0")
        return x


class Flatten(Module):
    """torch.nn.Flatten."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        """Merge the axes from start_dim to end_dim."""
        return x.flatten(self.start_dim, self.end_dim)


class Identity(Module):
    """torch.nn.Identity."""

    def forward(self, x: Tensor) -> Tensor:
        """x."""
        return x


class Upsample(Module):
    """torch.nn.Upsample by `size` or `scale_factor`; modes nearest, linear / bilinear / trilinear."""

    def __init__(
        self,
        size: Size | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
    ):
        super().__init__()
        if (size is None) == (scale_factor is None):
            raise GraphError("Upsample: give either size or scale_factor")
        self.size, self.scale_factor, self.mode, self.align_corners = size, scale_factor, mode, align_corners

    def forward(self, x: Tensor) -> Tensor:
        """Resize the spatial axes."""
        rank = x.ndim - 2
        if self.size is not None:
            size = spread(self.size, rank, "size")
        else:
            factors = self.scale_factor if isinstance(self.scale_factor, (tuple, list)) else [self.scale_factor] * rank
            size = tuple(int(d * f) for d, f in zip(x.shape[2:], factors, strict=True))
        if self.mode == "nearest":
            return x._op("resize", x, size=size, mode="nearest", coordinates="asymmetric", nearest="floor")
        coordinates = "align_corners" if self.align_corners else "half_pixel"
        return x._op("resize", x, size=size, mode="linear", coordinates=coordinates)


class ZeroPad2d(Module):
    """torch.nn.ZeroPad2d: (left, right, top, bottom) or one number."""

    def __init__(self, padding: Size):
        super().__init__()
        self.padding = spread(padding, 4, "padding")

    def forward(self, x: Tensor) -> Tensor:
        """Zeros around the last two axes."""
        left, right, top, bottom = self.padding
        lead = (0,) * (x.ndim - 2)
        return x._op("pad", x, pads=(*lead, top, left, *lead, bottom, right))
