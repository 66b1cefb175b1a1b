"""Losses as graph operations: each takes a Builder and values, and returns a scalar."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cnncc.builder import Builder
from cnncc.errors import GraphError, UnsupportedError
from cnncc.ir.graph import Value


def cross_entropy(b: Builder, logits: Value, labels: Value) -> Value:
    """Mean over the batch of -log softmax(logits)[label]; logits [N, C], labels [N] of integers."""
    if logits.type.rank != 2 or labels.type.rank != 1:
        raise GraphError(f"cross_entropy takes logits [N, C] and labels [N], got {logits.type} and {labels.type}")
    classes = np.arange(int(logits.type.shape[1]), dtype=labels.type.numpy)[None]
    column = b.reshape(labels, shape=(labels.type.shape[0], 1))
    picked = b.where(b.equal(column, classes), b.log_softmax(logits, axis=1), b.zeros_like(logits))
    return b.neg(b.reduce_mean(b.reduce_sum(picked, axes=(1,), keepdims=False), keepdims=False))  # type: ignore[no-any-return]


def mse(b: Builder, prediction: Value, target: Value) -> Value:
    """Mean over all elements of (prediction - target) ** 2."""
    difference = b.sub(prediction, target)
    return b.reduce_mean(b.mul(difference, difference), keepdims=False)  # type: ignore[no-any-return]


LOSSES: dict[str, Callable[[Builder, Value, Value], Value]] = {"cross_entropy": cross_entropy, "mse": mse}


def find_loss(loss: str | Callable[[Builder, Value, Value], Value]) -> Callable[[Builder, Value, Value], Value]:
    """A loss by name, or a function (builder, output, target) -> scalar. Raises UnsupportedError listing the names."""
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise UnsupportedError(f"loss must be one of {', '.join(LOSSES)} or a function, got {loss!r}")
    return LOSSES[loss]
