"""Losses of one output element and one target element: squared, absolute and mixed errors, binary cross-entropy.

Each is torch.nn.functional's function of that name, with its defaults; output and target have one shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cnncc.builder import Builder
from cnncc.errors import GraphError
from cnncc.ir.graph import Value
from cnncc.losses.base import Record, Reduction, check_float, check_same, like, reduced


def mse(b: Builder, output: Value, target: Value, reduction: Reduction = "mean") -> Value:
    """(output - target)^2."""
    return reduced(b, b.square(_difference(b, "mse", output, target)), reduction)


def l1(b: Builder, output: Value, target: Value, reduction: Reduction = "mean") -> Value:
    """|output - target|."""
    return reduced(b, b.abs(_difference(b, "l1", output, target)), reduction)


def smooth_l1(b: Builder, output: Value, target: Value, reduction: Reduction = "mean", beta: float = 1.0) -> Value:
    """d = output - target; d^2 / (2 beta) where |d| < beta, else |d| - beta / 2."""
    if beta < 0:
        raise GraphError(f"smooth_l1: beta must not be negative, got {beta}")
    if beta == 0:
        return l1(b, output, target, reduction)
    size = b.abs(_difference(b, "smooth_l1", output, target))
    near = b.mul(b.square(size), 0.5 / beta)
    return reduced(b, b.where(b.less(size, beta), near, b.sub(size, 0.5 * beta)), reduction)


def huber(b: Builder, output: Value, target: Value, reduction: Reduction = "mean", delta: float = 1.0) -> Value:
    """d = output - target; d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2)."""
    if not delta > 0:
        raise GraphError(f"huber: delta must be above 0, got {delta}")
    size = b.abs(_difference(b, "huber", output, target))
    far = b.mul(b.sub(size, 0.5 * delta), delta)
    return reduced(b, b.where(b.less_equal(size, delta), b.mul(b.square(size), 0.5), far), reduction)


def bce_with_logits(
    b: Builder,
    output: Value,
    target: Value,
    weight: Any = None,
    reduction: Reduction = "mean",
    pos_weight: Any = None,
) -> Value:
    """-weight (pos_weight target log s + (1 - target) log(1 - s)), s = sigmoid(output).

    -log s = softplus(-output) and -log(1 - s) = softplus(output), which neither overflow nor cancel. weight and
    pos_weight broadcast to the output.
    """
    check_float("bce_with_logits", output)
    check_same("bce_with_logits", output, target)
    target = like(b, target, output)
    positive = b.mul(target, b.softplus(b.neg(output)))
    if pos_weight is not None:
        positive = b.mul(positive, _factor("bce_with_logits: pos_weight", pos_weight, output))
    loss = b.add(positive, b.mul(b.sub(1.0, target), b.softplus(output)))
    if weight is not None:
        loss = b.mul(loss, _factor("bce_with_logits: weight", weight, output))
    return reduced(b, loss, reduction)


def _difference(b: Builder, name: str, output: Value, target: Value) -> Value:
    check_float(name, output)
    check_same(name, output, target)
    return b.sub(output, like(b, target, output))


def _factor(name: str, factor: Any, output: Value) -> np.ndarray:
    """An array that broadcasts to the output, in its dtype. Raises GraphError where it does not."""
    array = np.asarray(factor, output.type.numpy)
    behind = output.type.shape[output.type.rank - array.ndim :] if array.ndim <= output.type.rank else None
    if behind is None or any(a not in (1, d) for a, d in zip(array.shape, behind, strict=True)):
        raise GraphError(f"{name} must broadcast to the output, got {array.shape} for {output.type}")
    return array


@dataclass(frozen=True)
class MSE(Record):
    """`mse` with its options."""

    reduction: Reduction = "mean"
    function = mse


@dataclass(frozen=True)
class L1(Record):
    """`l1` with its options."""

    reduction: Reduction = "mean"
    function = l1


@dataclass(frozen=True)
class SmoothL1(Record):
    """`smooth_l1` with its options."""

    reduction: Reduction = "mean"
    beta: float = 1.0
    function = smooth_l1


@dataclass(frozen=True)
class Huber(Record):
    """`huber` with its options."""

    reduction: Reduction = "mean"
    delta: float = 1.0
    function = huber


@dataclass(frozen=True)
class BCEWithLogits(Record):
    """`bce_with_logits` with its options."""

    weight: Any = None
    reduction: Reduction = "mean"
    pos_weight: Any = None
    function = bce_with_logits
