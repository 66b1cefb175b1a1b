"""Layers that undo others: max unpooling; windows as columns and back."""

from __future__ import annotations

from collections.abc import Sequence

from cnncc.ir.dims import Dim
from cnncc.nn import windows
from cnncc.nn.conv import Size, spread
from cnncc.nn.module import Module
from cnncc.nn.tensor import Tensor


class _MaxUnpool(Module):
    rank = 2

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0):
        super().__init__()
        self.kernel_size = spread(kernel_size, self.rank, "kernel_size")
        self.stride = spread(kernel_size if stride is None else stride, self.rank, "stride")
        self.padding = spread(padding, self.rank, "padding")

    def forward(self, x: Tensor, indices: Tensor, output_size: Sequence[Dim] | None = None) -> Tensor:
        """x at the indices that the pooling layer gave, zeros elsewhere."""
        function = (windows.max_unpool1d, windows.max_unpool2d, windows.max_unpool3d)[self.rank - 1]
        return function(x, indices, self.kernel_size, self.stride, self.padding, output_size)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpool):
    """torch.nn.MaxUnpool1d."""

    rank = 1


class MaxUnpool2d(_MaxUnpool):
    """torch.nn.MaxUnpool2d."""


class MaxUnpool3d(_MaxUnpool):
    """torch.nn.MaxUnpool3d."""

    rank = 3


class Unfold(Module):
    """torch.nn.Unfold: [N, C, H, W] --> [N, C kh kw, L]."""

    def __init__(self, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1):
        super().__init__()
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def forward(self, x: Tensor) -> Tensor:
        """Windows as columns."""
        return windows.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class Fold(Module):
    """torch.nn.Fold: [N, C kh kw, L] --> [N, C, *output_size]."""

    def __init__(self, output_size: Size, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1):
        super().__init__()
        self.output_size, self.kernel_size = output_size, kernel_size
        self.dilation, self.padding, self.stride = dilation, padding, stride

    def forward(self, x: Tensor) -> Tensor:
        """Columns added up where their windows lie."""
        return windows.fold(x, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, kernel_size={self.kernel_size}, stride={self.stride}"
