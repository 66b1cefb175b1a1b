"""Normalisation by statistics: of the batch, of a sample, of groups of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.nn import init
from cnncc.nn.module import Module
from cnncc.nn.statistics import affine, batch_norm, instance_norm
from cnncc.nn.tensor import Tensor


class _Affine(Module):
    """Scale and shift per channel, where there are any."""

    def _set_affine(self, shape: Sequence[int], weight: bool, bias: bool) -> None:
        self.register_parameter("weight", init.full(shape, 1.0) if weight else None)
        self.register_parameter("bias", init.full(shape, 0.0) if bias else None)

    def _affine(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        gamma, beta = (self._parameters[k] for k in ("weight", "bias"))
        return None if gamma is None else x.trace.value(gamma), None if beta is None else x.trace.value(beta)


class _Tracking(_Affine):
    """Running statistics, moved by the batches of training."""

    ranks: tuple[int, ...] = (2, 3, 4, 5)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
    ):
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self._set_affine((num_features,), affine, affine and bias)
        if track_running_stats:
            self.register_buffer("running_mean", np.zeros(num_features, np.float32))
            self.register_buffer("running_var", np.ones(num_features, np.float32))
            self.register_buffer("num_batches_tracked", np.zeros((), np.int64))

    def _check(self, x: Tensor) -> None:
        if x.ndim not in self.ranks:
            ranks = " or ".join(map(str, self.ranks))
            raise GraphError(f"{type(self).__name__}: the input must have rank {ranks}, got {x.ndim}")

    @property
    def _running(self) -> tuple[Any, Any]:
        return self._buffers.get("running_mean"), self._buffers.get("running_var")

    def _evaluated(self, x: Tensor) -> Tensor:
        mean, var = (x.trace.value(buffer) for buffer in self._running)
        return x._op("batch_norm", x, *affine(x, *self._affine(x)), mean, var, eps=self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_Tracking):
    def forward(self, x: Tensor) -> Tensor:
        """Normalise every channel: by the batch in training (updating the running statistics), else by those.

        The running variance takes the unbiased estimate, as in PyTorch; with momentum=None the running statistics are
        the means over all batches seen. Without running statistics the batch's are used in evaluation, too. Where a
        batch has one value a channel, which PyTorch refuses, the result is beta and the variance taken is 0.
        """
        self._check(x)
        if not self.training and self.track_running_stats:
            return self._evaluated(x)
        running = self._running if self.training else (None, None)
        batches = self._buffers.get("num_batches_tracked") if self.training else None
        return batch_norm(x, *self._affine(x), running, self.eps, self.momentum, unbiased=True, batches=batches)


class BatchNorm1d(_BatchNorm):
    """torch.nn.BatchNorm1d on [N, C] or [N, C, W]."""

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """torch.nn.BatchNorm2d on [N, C, H, W]."""

    ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """torch.nn.BatchNorm3d on [N, C, D, H, W]."""

    ranks = (5,)


class _InstanceNorm(_Tracking):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every channel of every sample over space; in evaluation by running statistics, if it has them."""
        self._check(x)
        if not self.training and self.track_running_stats:
            return self._evaluated(x)
        running = self._running if self.training else (None, None)
        return instance_norm(x, *self._affine(x), running, self.eps, self.momentum)


class InstanceNorm1d(_InstanceNorm):
    """torch.nn.InstanceNorm1d on [N, C, W]."""

    ranks = (3,)


class InstanceNorm2d(_InstanceNorm):
    """torch.nn.InstanceNorm2d on [N, C, H, W]."""

    ranks = (4,)


class InstanceNorm3d(_InstanceNorm):
    """torch.nn.InstanceNorm3d on [N, C, D, H, W]."""

    ranks = (5,)


class GroupNorm(_Affine):
    """torch.nn.GroupNorm."""

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *, bias: bool = True
    ):
        super().__init__()
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        if num_channels % num_groups:
            raise GraphError(f"GroupNorm: num_groups must divide num_channels, got {num_groups} and {num_channels}")
        self._set_affine((num_channels,), affine, affine and bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise groups of channels."""
        return x._op("group_norm", x, *affine(x, *self._affine(x)), groups=self.num_groups, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}"


class LayerNorm(_Affine):
    """torch.nn.LayerNorm over the last axes."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ):
        super().__init__()
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        self._set_affine(self.normalized_shape, elementwise_affine, elementwise_affine and bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axes."""
        gamma, beta = self._affine(x)
        if gamma is None:
            gamma = x.trace.constant(np.ones(self.normalized_shape, x.value.type.numpy))
        return x._op("layer_norm", x, gamma, beta, axis=x.ndim - len(self.normalized_shape), eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


class RMSNorm(_Affine):
    """torch.nn.RMSNorm over the last axes: x / sqrt(mean(x^2) + eps) times a scale."""

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float | None = None, elementwise_affine: bool = True
    ):
        super().__init__()
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        self._set_affine(self.normalized_shape, elementwise_affine, False)

    def forward(self, x: Tensor) -> Tensor:
        """Divide by the root of the mean square over the last axes."""
        eps = float(np.finfo(x.value.type.numpy).eps) if self.eps is None else self.eps
        axes = tuple(range(x.ndim - len(self.normalized_shape), x.ndim))
        y = x / ((x * x).mean(axes, keepdim=True) + eps).sqrt()
        gamma, _ = self._affine(x)
        return y if gamma is None else y * gamma


class LocalResponseNorm(Module):
    """torch.nn.LocalResponseNorm."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0):
        super().__init__()
        self.arguments = {"size": size, "alpha": alpha, "beta": beta, "bias": k}

    def forward(self, x: Tensor) -> Tensor:
        """Divide by the energy of neighbouring channels."""
        return x._op("lrn", x, **self.arguments)
