"""What a step reports beside the loss, as graph operations: each takes a Builder, output and target, gives a scalar."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from cnncc.builder import Builder
from cnncc.errors import GraphError, UnsupportedError
from cnncc.ir.dtype import is_float
from cnncc.ir.graph import Value

Metric = Callable[[Builder, Any, Any], Value]


def accuracy(b: Builder, output: Value, target: Value) -> Value:
    """The share of places whose largest logit is the label's; logits [N, C, ...], labels [N, ...] of integers.

    Places whose label is no class (below 0, or C and above: those that a loss ignores) are left out. Of probabilities
    in the shape of the logits, as cross-entropy takes them, the label is the class of the largest.
    """
    if is_float(target.type.dtype) and target.type.shape == output.type.shape:
        target = b.argmax(target, axis=1, keepdims=False)
    _check("accuracy", output, target)
    labels = b.cast(target, dtype="i64")
    right = b.equal(b.argmax(output, axis=1, keepdims=False), labels)
    return _share(b, right, labels, output)


def top(k: int, b: Builder, output: Value, target: Value) -> Value:
    """The share of places whose label is among the k largest logits; operands as for `accuracy`."""
    _check(f"top{k}", output, target)
    labels = b.cast(target, dtype="i64")
    shape = output.type.shape
    columns = np.arange(int(shape[1]), dtype=np.int64).reshape(-1, *(1,) * (len(shape) - 2))[None]
    own = b.equal(b.reshape(labels, shape=(shape[0], 1, *shape[2:])), columns)
    mine = b.reduce_sum(b.where(own, output, b.zeros_like(output)), axes=(1,))
    above = b.cast(b.op("not", b.less_equal(output, mine)), dtype="i64")  # NaN counts as above
    right = b.less(b.reduce_sum(above, axes=(1,), keepdims=False), k)
    return _share(b, right, labels, output)


def binary_accuracy(b: Builder, output: Value, target: Value) -> Value:
    """The share of elements where logit > 0 agrees with target > 1/2; operands of one shape."""
    if output.type.shape != target.type.shape:
        raise GraphError(f"binary_accuracy takes operands of one shape, got {output.type} and {target.type}")
    target = b.cast(target, dtype=output.type.dtype)
    right = b.equal(b.greater(output, b.zeros_like(output)), b.greater(target, 0.5))
    return b.reduce_mean(b.cast(right, dtype=output.type.dtype), keepdims=False)


def mean_absolute_error(b: Builder, output: Value, target: Value) -> Value:
    """Mean over all elements of |output - target|."""
    return b.reduce_mean(b.abs(b.sub(output, target)), keepdims=False)


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "top5": partial(top, 5),
    "binary_accuracy": binary_accuracy,
    "mae": mean_absolute_error,
}


def find_metrics(metrics: Sequence[str | Metric] | Mapping[str, str | Metric]) -> dict[str, Metric]:
    """Metrics by the names they are reported under: a function's own, or the mapping's keys.

    Raises UnsupportedError listing the known names, GraphError where two have one name or one is called "loss".
    """
    named = list(metrics.items()) if isinstance(metrics, Mapping) else [(_name(m), m) for m in metrics]
    names = [name for name, _ in named]
    taken = {n for n in names if names.count(n) > 1 or n == "loss"}
    if taken:
        raise GraphError(f"metrics must have names of their own, other than loss, got {', '.join(names)}")
    unknown = [m for _, m in named if isinstance(m, str) and m not in METRICS]
    if unknown:
        raise UnsupportedError(f"metrics are {', '.join(METRICS)} or functions, got {', '.join(map(repr, unknown))}")
    return {name: METRICS[m] if isinstance(m, str) else m for name, m in named}


def _name(metric: str | Metric) -> str:
    return metric if isinstance(metric, str) else str(getattr(metric, "__name__", type(metric).__name__))


def _check(name: str, output: Value, target: Value) -> None:
    o, t = output.type, target.type
    if o.rank < 2 or is_float(t.dtype) or t.shape != (o.shape[0], *o.shape[2:]) or not isinstance(o.shape[1], int):
        raise GraphError(f"{name} takes logits [N, C, ...] and integer labels [N, ...], got {o} and {t}")


def _share(b: Builder, right: Value, labels: Value, output: Value) -> Value:
    """The share of places where `right` holds, of those with a label that is a class."""
    dtype = output.type.dtype
    valid = b.op("and", b.greater_equal(labels, 0), b.less(labels, int(output.type.shape[1])))
    hits = b.reduce_sum(b.cast(b.op("and", right, valid), dtype=dtype), keepdims=False)
    count = b.reduce_sum(b.cast(valid, dtype=dtype), keepdims=False)
    return b.div(hits, b.max(count, 1.0))
