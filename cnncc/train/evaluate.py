"""How good a model is on data: means over batches, with the step's present parameters, in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.train.data import count_samples

if TYPE_CHECKING:
    from cnncc.train.step import TrainStep

ArrayMetric = Callable[[Any, Any], float]


def evaluate(
    step: TrainStep, batches: Iterable[tuple[Any, Any]], metrics: Mapping[str, ArrayMetric]
) -> dict[str, float]:
    """Means over all samples: the loss and metrics of the step, and what `metrics` make of (output, y) of a batch.

    "accuracy" is among them where outputs [N, C, ...] stand beside integer labels [N, ...].
    """
    sums: dict[str, float] = {}
    total = 0
    for x, y in batches:
        row, output = step.assess(x, y)
        if "accuracy" not in row and _classifies(output, y):
            row["accuracy"] = float((output.argmax(axis=1) == y).mean())
        row |= {name: float(metric(output, y)) for name, metric in metrics.items()}
        count = count_samples(x)
        for name, value in row.items():
            sums[name] = sums.get(name, 0.0) + value * count
        total += count
    if not total:
        raise GraphError("validation: there must be at least one batch, got none")
    return {name: value / total for name, value in sums.items()}


def _classifies(output: Any, y: Any) -> bool:
    arrays = isinstance(output, np.ndarray) and isinstance(y, np.ndarray)
    return arrays and y.dtype.kind in "iu" and output.shape == (*y.shape[:1], *output.shape[1:2], *y.shape[1:])
