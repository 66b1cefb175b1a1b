"""Dropout: in training elements (or whole channels) become zero at random, in evaluation nothing happens."""

from __future__ import annotations

from cnncc.errors import GraphError
from cnncc.nn.module import Module
from cnncc.nn.tensor import Tensor

_SELU = -1.7580993408473766  # -scale alpha of SELU, what its negative part saturates at


class _Dropout(Module):
    axes = 0  # leading axes with a mask of their own; 0: all

    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__()
        if not 0 <= p <= 1:
            raise GraphError(f"{type(self).__name__}: p must be a probability, from 0 to 1, got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Zero with probability p and x / (1 - p) otherwise in training; x in evaluation."""
        if self.training and self.p > 0:
            return x.trace.dropout(x, self.p, self.axes)
        return x._op("dropout", x, p=float(self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout(_Dropout):
    """torch.nn.Dropout: every element by itself."""


class Dropout1d(_Dropout):
    """torch.nn.Dropout1d: whole channels of [N, C, W]."""

    axes = 2


class Dropout2d(_Dropout):
    """torch.nn.Dropout2d: whole channels of [N, C, H, W]."""

    axes = 2


class Dropout3d(_Dropout):
    """torch.nn.Dropout3d: whole channels of [N, C, D, H, W]."""

    axes = 2


class AlphaDropout(_Dropout):
    """torch.nn.AlphaDropout: elements become what SELU saturates at, and mean and variance are kept.

    y = a (x or -1.758) + b with a = 1 / sqrt((1 - p) (1 + p 1.758^2)), b = 1.758 a p (Klambauer et al. 2017).
    """

    def forward(self, x: Tensor) -> Tensor:
        """See the class; x in evaluation."""
        if not self.training or self.p == 0:
            return x
        keep = 1 - self.p
        if keep == 0:
            return x * 0.0
        a = float((keep * (1 + self.p * _SELU**2)) ** -0.5)
        shifted = x.trace.dropout(x - _SELU, self.p, self.axes) * keep  # x - s or 0
        return (shifted + _SELU) * a - _SELU * a * self.p


class FeatureAlphaDropout(AlphaDropout):
    """torch.nn.FeatureAlphaDropout: `AlphaDropout` of whole channels."""

    axes = 2
