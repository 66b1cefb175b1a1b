"""Convolutions, their transposes, and locally connected layers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from cnncc.errors import GraphError
from cnncc.nn import init
from cnncc.nn.module import Module
from cnncc.nn.tensor import Tensor
from cnncc.ops.window import Window, canonical, geometry

Size = int | Sequence[int]


def spread(value: Any, rank: int, what: str) -> tuple[int, ...]:
    """An integer for every axis, or one number per axis. Raises GraphError otherwise."""
    if isinstance(value, int):
        return (value,) * rank
    if len(value) != rank:
        raise GraphError(f"{what} must be one number or {rank}, got {tuple(value)}")
    return tuple(value)


def add_bias(y: Tensor, bias: Any) -> Tensor:
    """y [N, C, ...] + bias [C]."""
    return y + y.trace.value(bias).reshape((1, -1) + (1,) * (y.ndim - 2))


class _Conv(Module):
    rank = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ):
        super().__init__()
        r = self.rank
        if in_channels % groups or out_channels % groups:
            raise GraphError(f"groups must divide the channels, got {groups}, {in_channels} and {out_channels}")
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise GraphError(f"padding_mode must be zeros, reflect, replicate or circular, got {padding_mode!r}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = spread(kernel_size, r, "kernel_size")
        self.stride = spread(stride, r, "stride")
        self.dilation = spread(dilation, r, "dilation")
        self.padding = padding if isinstance(padding, str) else spread(padding, r, "padding")
        self.padding_mode = padding_mode
        fan_in = in_channels // groups * prod(self.kernel_size)
        self.weight = init.weights((out_channels, in_channels // groups, *self.kernel_size), fan_in)
        self.register_parameter("bias", init.bias(out_channels, fan_in) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """Cross-correlation plus bias."""
        pads: Any = self.padding
        if self.padding_mode != "zeros":
            window = canonical(Window(self.stride, pads, self.dilation), x.shape[2:], self.kernel_size)
            g = geometry(window, self.kernel_size)
            mode = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[self.padding_mode]
            x = x._op("pad", x, pads=(0, 0, *g.begin, 0, 0, *g.end), mode=mode)
            pads = 0
        y = x._op("conv", x, x.trace.value(self.weight), strides=self.stride, pads=pads, dilations=self.dilation,
                  groups=self.groups)  # fmt: skip
        return y if self.bias is None else add_bias(y, self.bias)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
            + (f", padding={self.padding!r}" if self.padding not in (0, (0,) * self.rank) else "")
            + (f", groups={self.groups}" if self.groups != 1 else "")
        )


class Conv1d(_Conv):
    """torch.nn.Conv1d on [N, C, W]."""

    rank = 1


class Conv2d(_Conv):
    """torch.nn.Conv2d on [N, C, H, W]."""


class Conv3d(_Conv):
    """torch.nn.Conv3d on [N, C, D, H, W]."""

    rank = 3


class _ConvTranspose(Module):
    rank = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
    ):
        super().__init__()
        r = self.rank
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = spread(kernel_size, r, "kernel_size")
        self.stride = spread(stride, r, "stride")
        self.padding = spread(padding, r, "padding")
        self.output_padding = spread(output_padding, r, "output_padding")
        self.dilation = spread(dilation, r, "dilation")
        fan_in = out_channels // groups * prod(self.kernel_size)
        self.weight = init.weights((in_channels, out_channels // groups, *self.kernel_size), fan_in)
        self.register_parameter("bias", init.bias(out_channels, fan_in) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """The transpose of a convolution, plus bias."""
        y = x._op("conv_transpose", x, x.trace.value(self.weight), strides=self.stride, pads=self.padding,
                  dilations=self.dilation, groups=self.groups, output_padding=self.output_padding)  # fmt: skip
        return y if self.bias is None else add_bias(y, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"


class ConvTranspose1d(_ConvTranspose):
    """torch.nn.ConvTranspose1d."""

    rank = 1


class ConvTranspose2d(_ConvTranspose):
    """torch.nn.ConvTranspose2d."""


class ConvTranspose3d(_ConvTranspose):
    """torch.nn.ConvTranspose3d."""

    rank = 3


class _LocallyConnected(Module):
    rank = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        input_size: Size,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        bias: bool = True,
    ):
        super().__init__()
        r = self.rank
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = spread(kernel_size, r, "kernel_size")
        self.stride = spread(stride, r, "stride")
        self.padding = spread(padding, r, "padding")
        self.input_size = spread(input_size, r, "input_size")
        window = Window(self.stride, (*self.padding, *self.padding))
        out = tuple(int(o) for o in geometry(window, self.kernel_size).out(self.input_size))
        fan_in = in_channels * prod(self.kernel_size)
        self.weight = init.weights((*out, out_channels, in_channels, *self.kernel_size), fan_in)
        self.register_parameter("bias", init.uniform((out_channels, *out), fan_in**-0.5) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """A filter of its own at every place, plus a bias per place."""
        y = x._op("locally_connected", x, x.trace.value(self.weight), strides=self.stride, pads=self.padding)
        return y if self.bias is None else y + x.trace.value(self.bias)


class LocallyConnected1d(_LocallyConnected):
    """An unshared convolution on [N, C, W]."""

    rank = 1


class LocallyConnected2d(_LocallyConnected):
    """An unshared convolution on [N, C, H, W]."""
