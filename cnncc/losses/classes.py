"""Losses of scores for classes: cross-entropy, negative log likelihood, multiclass hinge.

Each is torch.nn.functional's function of that name, with its defaults. Scores are [N, C, ...], labels [N, ...] of
integers (a label per pixel, say). A label that is neither a class nor ignored makes the loss NaN, where PyTorch raises:
inside of a compiled step nothing can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cnncc.builder import Builder
from cnncc.errors import GraphError
from cnncc.ir.dtype import is_float
from cnncc.ir.graph import Value
from cnncc.losses.base import Record, Reduction, check_float, extent, like, reduced


def cross_entropy(
    b: Builder,
    output: Value,
    target: Value,
    weight: Any = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Value:
    """-sum over classes of weight q log softmax(output), q one at the label (label_smoothing e: (1 - e) q + e / C).

    target: labels, or probabilities q in the output's shape. The mean is weighted: over the weights of the labels, and
    without the positions whose label is ignore_index (None: there are no such). With probabilities it is over the
    positions.
    """
    if not 0 <= label_smoothing <= 1:
        raise GraphError(f"cross_entropy: label_smoothing must be from 0 to 1, got {label_smoothing}")
    check_float("cross_entropy", output)
    _check_rank("cross_entropy", output)
    if is_float(target.type.dtype):
        return _soft(b, output, target, weight, reduction, label_smoothing)
    labels = _Labels(b, "cross_entropy", output, target, weight, ignore_index)
    logs = b.log_softmax(output, axis=1)
    loss = labels.pick(logs)
    if label_smoothing:
        every = logs if weight is None else b.mul(logs, labels.weights)
        smooth = labels.known(b.reduce_sum(every, axes=(1,), keepdims=False))
        loss = b.add(b.mul(loss, 1 - label_smoothing), b.mul(smooth, label_smoothing / labels.classes))
    return labels.reduced(b.neg(loss), reduction)


def nll(
    b: Builder,
    output: Value,
    target: Value,
    weight: Any = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
) -> Value:
    """-weight[label] output[label] for logarithms of probabilities; the mean is weighted as in `cross_entropy`."""
    check_float("nll", output)
    _check_rank("nll", output)
    labels = _Labels(b, "nll", output, target, weight, ignore_index)
    return labels.reduced(b.neg(labels.pick(output)), reduction)


def multi_margin(
    b: Builder,
    output: Value,
    target: Value,
    p: int = 1,
    margin: float = 1.0,
    weight: Any = None,
    reduction: Reduction = "mean",
) -> Value:
    """weight[label] / C times the sum over the other classes of max(0, margin - output[label] + output)^p."""
    if p not in (1, 2):
        raise GraphError(f"multi_margin: p must be 1 or 2, got {p}")
    check_float("multi_margin", output)
    if output.type.rank != 2:
        raise GraphError(f"multi_margin: scores must be [N, C], got {output.type}")
    labels = _Labels(b, "multi_margin", output, target, None, None)
    own = b.reduce_sum(labels.at_label(output), axes=(1,), keepdims=True)
    short = b.relu(b.add(b.sub(output, own), margin))
    short = b.where(labels.is_label, b.zeros_like(output), b.square(short) if p == 2 else short)
    loss = b.mul(b.reduce_sum(short, axes=(1,), keepdims=False), 1 / labels.classes)
    if weight is not None:
        factors = _weights("multi_margin", weight, labels.classes, output)
        loss = b.mul(loss, b.reduce_sum(labels.at_label(factors), axes=(1,), keepdims=False))
    return reduced(b, labels.checked(loss), reduction)


class _Labels:
    """Integer labels [N, ...] of scores [N, C, ...]: which score is theirs, and what counts."""

    def __init__(
        self, b: Builder, name: str, output: Value, labels: Value, weight: Any, ignore_index: int | None
    ) -> None:
        shape = output.type.shape
        if labels.type.shape != (shape[0], *shape[2:]) or labels.type.dtype == "bool" or is_float(labels.type.dtype):
            raise GraphError(
                f"{name}: labels must be integers in the shape of the scores without classes, "
                f"got {labels.type} for {output.type}"
            )
        self.b, self.classes = b, extent(name, shape[1])
        if labels.type.dtype not in ("i32", "i64"):  # narrow integers need not hold the number of classes
            labels = b.cast(labels, dtype="i32")
        self.labels = labels
        ones = (1,) * (output.type.rank - 2)
        classes = np.arange(self.classes, dtype=labels.type.numpy)
        if ignore_index is not None and 0 <= ignore_index < self.classes:
            classes[ignore_index] = -1  # what is ignored has no class
        classes = classes.reshape(1, self.classes, *ones)
        self.is_label = b.equal(b.reshape(labels, shape=(shape[0], 1, *shape[2:])), classes)  # [N, C, ...]
        self.weights = None if weight is None else _weights(name, weight, self.classes, output)
        self.ignored = None if ignore_index is None else b.equal(labels, ignore_index)  # [N, ...]
        self.zero = b.zeros_like(output)
        self.dtype = output.type.numpy

    def at_label(self, values: Any) -> Value:
        """Values [.., C, ...] at the label's class, zero at the others."""
        return self.b.where(self.is_label, values, self.zero)

    def pick(self, values: Value) -> Value:
        """The value of the label's class times its weight [N, ...]: zero where ignored, NaN where it is no class."""
        b = self.b
        weighted = values if self.weights is None else b.mul(values, self.weights)
        return self.checked(b.reduce_sum(self.at_label(weighted), axes=(1,), keepdims=False))

    def checked(self, values: Value) -> Value:
        """Values [N, ...], and NaN where the label is neither a class nor ignored."""
        b = self.b
        known = b.op("and", b.greater_equal(self.labels, 0), b.less(self.labels, self.classes))
        if self.ignored is not None:
            known = b.op("or", known, self.ignored)
        return b.where(known, values, np.asarray(np.nan, self.dtype))

    def known(self, values: Value) -> Value:
        """Values [N, ...], zero where the label is ignored."""
        return values if self.ignored is None else self.b.where(self.ignored, self.zero, values)

    def reduced(self, loss: Value, reduction: Reduction) -> Value:
        """The loss over positions; its mean is over the weights of those that count."""
        b = self.b
        if reduction != "mean" or (self.weights is None and self.ignored is None):
            return reduced(b, loss, reduction)
        if self.weights is not None:
            counted = b.reduce_sum(self.at_label(self.weights), axes=(1,), keepdims=False)
        else:
            counted = b.where(self.ignored, self.zero, np.ones((), self.dtype))
        return b.div(b.reduce_sum(loss, keepdims=False), b.reduce_sum(counted, keepdims=False))


def _soft(b: Builder, output: Value, target: Value, weight: Any, reduction: Reduction, label_smoothing: float) -> Value:
    if target.type.shape != output.type.shape:
        raise GraphError(
            f"cross_entropy: labels must be integers, probabilities must have the shape of the scores, got "
            f"{target.type} for {output.type}"
        )
    classes = extent("cross_entropy", output.type.shape[1])
    target = like(b, target, output)
    if label_smoothing:
        target = b.add(b.mul(target, 1 - label_smoothing), label_smoothing / classes)
    if weight is not None:
        target = b.mul(target, _weights("cross_entropy", weight, classes, output))
    loss = b.neg(b.reduce_sum(b.mul(target, b.log_softmax(output, axis=1)), axes=(1,), keepdims=False))
    return reduced(b, loss, reduction)


def _weights(name: str, weight: Any, classes: int, output: Value) -> np.ndarray:
    """One weight per class as [1, C, 1...], in the output's dtype."""
    array = np.asarray(weight, output.type.numpy)
    if array.shape != (classes,):
        raise GraphError(f"{name}: weight must have one number for each of {classes} classes, got {array.shape}")
    return array.reshape(1, classes, *(1,) * (output.type.rank - 2))


def _check_rank(name: str, output: Value) -> None:
    if output.type.rank < 2:
        raise GraphError(f"{name}: scores must be [N, C, ...], got {output.type}")


@dataclass(frozen=True)
class CrossEntropy(Record):
    """`cross_entropy` with its options."""

    weight: Any = None
    ignore_index: int | None = -100
    reduction: Reduction = "mean"
    label_smoothing: float = 0.0
    function = cross_entropy


@dataclass(frozen=True)
class NLL(Record):
    """`nll` with its options."""

    weight: Any = None
    ignore_index: int | None = -100
    reduction: Reduction = "mean"
    function = nll


@dataclass(frozen=True)
class MultiMargin(Record):
    """`multi_margin` with its options."""

    p: int = 1
    margin: float = 1.0
    weight: Any = None
    reduction: Reduction = "mean"
    function = multi_margin
