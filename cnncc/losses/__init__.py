"""Losses as graph operations, with the semantics and defaults of torch.nn.functional.

A training step takes a loss by name ("cross_entropy"), as a record with options, or as a function of the caller's:

    CrossEntropy(label_smoothing=0.1) + L2Penalty(1e-4, "*.weight")     # losses add up, and a number scales one
    lambda b, output, target: b.reduce_mean(b.abs(b.sub(output, target)), keepdims=False)

Each record stands for a function (builder, output, target, options) -> value, which graphs built by hand call.
Penalties are losses of the trained parameters: whoever builds a loss gives them by name as its last argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cnncc.builder import Builder
from cnncc.errors import UnsupportedError
from cnncc.ir.graph import Value
from cnncc.losses.base import Loss, Reduction, as_loss
from cnncc.losses.classes import NLL, CrossEntropy, MultiMargin, cross_entropy, multi_margin, nll
from cnncc.losses.elementwise import (
    L1,
    MSE,
    BCEWithLogits,
    Huber,
    SmoothL1,
    bce_with_logits,
    huber,
    l1,
    mse,
    smooth_l1,
)
from cnncc.losses.penalties import L1Penalty, L2Penalty

LOSSES: dict[str, Loss] = {
    "cross_entropy": CrossEntropy(),
    "nll": NLL(),
    "mse": MSE(),
    "l1": L1(),
    "smooth_l1": SmoothL1(),
    "huber": Huber(),
    "bce_with_logits": BCEWithLogits(),
    "multi_margin": MultiMargin(),
}


def find_loss(loss: str | Loss | Callable[[Builder, Any, Any], Value]) -> Loss:
    """A loss by name, itself, or from a function (builder, output, target) -> scalar.

    Raises UnsupportedError listing the names.
    """
    if callable(loss):
        return as_loss(loss)
    if loss not in LOSSES:
        raise UnsupportedError(f"loss must be one of {', '.join(LOSSES)}, a loss or a function, got {loss!r}")
    return LOSSES[loss]


__all__ = [
    "L1",
    "LOSSES",
    "MSE",
    "NLL",
    "BCEWithLogits",
    "CrossEntropy",
    "Huber",
    "L1Penalty",
    "L2Penalty",
    "Loss",
    "MultiMargin",
    "Reduction",
    "SmoothL1",
    "bce_with_logits",
    "cross_entropy",
    "find_loss",
    "huber",
    "l1",
    "mse",
    "multi_margin",
    "nll",
    "smooth_l1",
]
