"""Normalisation by the statistics of the batch, which moves the running ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnncc.nn.tensor import Tensor

Buffer = np.ndarray


def batch_norm(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running: Sequence[Buffer | None],
    eps: float,
    momentum: float | None,
    unbiased: bool,
    batches: Buffer | None = None,
) -> Tensor:
    """Batch norm of training. Buffers that `running` names (mean, variance) take (1 - m) old + m new.

    m is `momentum`, or 1 / number of batches where it is None; `batches` counts them. unbiased: the new variance is
    that of PyTorch (divided by count - 1), otherwise ONNX's, of the population.
    """
    trace = x.trace
    y: Tensor
    y, mean, var = trace.op("batch_norm_train", x, *affine(x, gamma, beta), eps=eps)
    rate: Any = momentum
    if batches is not None:
        number = trace.buffer(batches) + np.asarray(1, batches.dtype)
        trace.update(batches, number)
        if momentum is None:
            rate = 1.0 / trace.op("cast", number, dtype=x.dtype)
    if running[0] is not None:
        trace.update(running[0], trace.op("moving_average", trace.buffer(running[0]), mean, rate))
    if running[1] is not None:
        count = trace.op("size", x, axes=(0, *range(2, x.ndim))) if unbiased else None
        trace.update(running[1], trace.op("moving_average", trace.buffer(running[1]), var, rate, count))
    return y


def affine(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scale and shift per channel; ones and zeros where there are none."""
    channels, dtype = int(x.shape[1]), x.value.type.numpy

    def filled(value: float) -> Tensor:
        return x.trace.constant(np.full(channels, value, dtype))

    return filled(1.0) if gamma is None else gamma, filled(0.0) if beta is None else beta


def instance_norm(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running: Sequence[Buffer | None],
    eps: float,
    momentum: float | None,
) -> Tensor:
    """Instance norm, moving running statistics (where there are any) by the means over the samples, as PyTorch does:
    its count of batches stays, and without a momentum so do they."""
    trace = x.trace
    mean, var = running
    if mean is not None and var is not None and momentum is not None:
        space = tuple(range(2, x.ndim))
        here = x.mean(space, keepdim=True)
        spread = ((x - here) * (x - here)).mean(space).mean(0)
        count = trace.op("size", x, axes=space)
        trace.update(mean, trace.op("moving_average", trace.buffer(mean), here.mean((0, *space)), momentum))
        trace.update(var, trace.op("moving_average", trace.buffer(var), spread, momentum, count))
    return x._op("instance_norm", x, *affine(x, gamma, beta), eps=eps)
