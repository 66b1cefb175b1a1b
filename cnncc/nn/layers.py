"""Pooling and linear layers."""

from __future__ import annotations

from math import prod
from typing import Any

from cnncc.nn import init
from cnncc.nn.conv import Size, spread
from cnncc.nn.module import Module
from cnncc.nn.tensor import Tensor
from cnncc.nn.windows import in_channel


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
        self.return_indices = return_indices
        self.kernel_size = spread(kernel_size, self.rank, "kernel_size")
        self.stride = spread(kernel_size if stride is None else stride, self.rank, "stride")
        self.padding = spread(padding, self.rank, "padding")
        self.dilation = spread(dilation, self.rank, "dilation")
        self.ceil_mode = ceil_mode
        self.more: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Any:
        """Reduce every window; with return_indices also give where in its channel the largest element lies."""
        window: dict[str, Any] = {
            "kernel": self.kernel_size, "strides": self.stride, "pads": self.padding, "dilations": self.dilation,
            "ceil": self.ceil_mode,
        }  # fmt: skip
        y = x._op(self.op, x, **window, **self.more)
        return (y, in_channel(x._op("max_pool_indices", x, **window), x)) if self.return_indices else y

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


class _AdaptiveMaxPool(_AdaptivePool):
    op = "adaptive_max_pool"
    whole = "reduce_max"

    def __init__(self, output_size: Size, return_indices: bool = False):
        super().__init__(output_size)
        self.return_indices = return_indices

    def forward(self, x: Tensor) -> Any:
        """As other adaptive pools; with return_indices also where in its channel the largest element lies."""
        y = super().forward(x)
        if not self.return_indices:
            return y
        return y, in_channel(x._op("adaptive_max_pool_indices", x, size=self.output_size), x)


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """torch.nn.AdaptiveMaxPool1d."""

    rank = 1


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """torch.nn.AdaptiveMaxPool2d."""


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """torch.nn.AdaptiveMaxPool3d."""

    rank = 3


class _LPPool(Module):
    """(sum of x^p over the window)^(1/p), without padding."""

    rank = 2

    def __init__(self, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False):
        super().__init__()
        self.norm_type = float(norm_type)
        self.kernel_size = spread(kernel_size, self.rank, "kernel_size")
        self.stride = spread(kernel_size if stride is None else stride, self.rank, "stride")
        self.ceil_mode = ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        """See the class; NaN where an odd order makes the sum negative, as in PyTorch."""
        p = self.norm_type
        powers = x * x if p == 2 else x**p
        mean = x._op("average_pool", powers, kernel=self.kernel_size, strides=self.stride, pads=0, ceil=self.ceil_mode,
                     count_include_pad=True)  # fmt: skip
        total = mean * float(prod(self.kernel_size))
        return total.sqrt() if p == 2 else total ** (1 / p)


class LPPool1d(_LPPool):
    """torch.nn.LPPool1d."""

    rank = 1


class LPPool2d(_LPPool):
    """torch.nn.LPPool2d."""


class LPPool3d(_LPPool):
    """torch.nn.LPPool3d."""

    rank = 3
