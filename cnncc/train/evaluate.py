"""The model of a training step in evaluation mode, with the step's present parameters, over many batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from cnncc.errors import GraphError

if TYPE_CHECKING:
    from cnncc.train.step import TrainStep

Metric = Callable[[np.ndarray, np.ndarray], float]


class Evaluation:
    """`evaluation(x, y)` gives (loss, output) of a batch: batch norm by its running statistics, no dropout."""

    def __init__(self, step: TrainStep):
        self.step = step

    def __call__(self, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        """x [N, ...], y as the loss takes it --> the loss, and the model's first output."""
        measured, output = self.step.assess(x, y)
        return measured["loss"], output[0] if isinstance(output, tuple) else output

    def over(self, batches: Iterable[tuple[np.ndarray, np.ndarray]], metrics: Mapping[str, Metric]) -> dict[str, float]:
        """Means over all samples: "loss", and what the metrics make of (output, y) of a batch.

        "accuracy" is among them where outputs [N, C, ...] stand beside integer labels [N, ...].
        """
        sums: dict[str, float] = {}
        count = 0
        for x, y in batches:
            loss, output = self(x, y)
            row = {"loss": loss}
            if y.dtype.kind in "iu" and output.ndim == y.ndim + 1:
                row["accuracy"] = accuracy(output, y)
            row |= {name: float(metric(output, y)) for name, metric in metrics.items()}
            for name, value in row.items():
                sums[name] = sums.get(name, 0.0) + value * len(x)
            count += len(x)
        if not count:
            raise GraphError("validation: there must be at least one batch, got none")
        return {name: value / count for name, value in sums.items()}


def accuracy(output: np.ndarray, y: np.ndarray) -> float:
    """The share of positions whose largest of output [N, C, ...] along axis 1 is the label y [N, ...]."""
    return float((output.argmax(axis=1) == y).mean())
