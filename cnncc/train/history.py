"""What a training run did, epoch by epoch: a record, a table of comma-separated values, a chart."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnncc.train.files import replace_file


@dataclass(frozen=True)
class Epoch:
    """One epoch (numbered from 1): means over its samples, and the same of the validation data where there is one."""

    epoch: int
    step: int
    lr: float
    train: Mapping[str, float]
    validation: Mapping[str, float]
    images_per_second: float
    seconds: float

    def row(self) -> dict[str, float]:
        """One flat row: `loss` and other means of training, those of the validation as `val_loss`, ..."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "lr": self.lr,
            **self.train,
            **{f"val_{k}": v for k, v in self.validation.items()},
            "images_per_second": round(self.images_per_second, 1),
            "seconds": round(self.seconds, 3),
        }


@dataclass
class History:
    """What `fit` returns.

    best: number of the epoch with the least validation error (None without validation); stopped: why training ended,
    "epochs" or "early stopping"; restored: whether the model has the parameters of the best epoch; model: the trained
    module itself, or a new graph.
    """

    epochs: list[Epoch] = field(default_factory=list)
    best: int | None = None
    stopped: str = ""
    restored: bool = False
    model: Any = None

    def column(self, name: str) -> list[float]:
        """One number per epoch: "loss", "val_loss", "lr", ...; NaN where an epoch has none."""
        return [e.row().get(name, math.nan) for e in self.epochs]

    @property
    def last(self) -> dict[str, float]:
        """The row of the last epoch."""
        return self.epochs[-1].row() if self.epochs else {}

    @property
    def best_row(self) -> dict[str, float]:
        """The row of the best epoch; of the last one without validation."""
        return next((e.row() for e in self.epochs if e.epoch == self.best), self.last)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without the model."""
        return {
            "epochs": [vars(e) | {"train": dict(e.train), "validation": dict(e.validation)} for e in self.epochs],
            "best": self.best,
            "stopped": self.stopped,
            "restored": self.restored,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> History:
        """What `to_dict` gave."""
        epochs = [Epoch(**e) for e in data["epochs"]]
        return History(epochs, data["best"], data["stopped"], data["restored"])

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """A header and a row per epoch; the file is replaced at once, never half written."""
        rows = [e.row() for e in self.epochs]
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        replace_file(Path(path), lambda file: file.write(text.getvalue().encode()))

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Loss (and accuracy, where there is one) over epochs, as a .png or .svg file.

        Raises UnsupportedError for other kinds of file, and without matplotlib.
        """
        from cnncc.bench.plot import check_plot, pyplot, save

        check_plot(Path(path))

        shown = ["loss"] + [n for n in ("accuracy",) if any(f"{p}{n}" in self.last for p in ("", "val_"))]
        figure, axes = pyplot().subplots(1, len(shown), figsize=(5 * len(shown), 3.5), squeeze=False)
        for ax, name in zip(axes[0], shown, strict=True):
            numbers = [e.epoch for e in self.epochs]
            for prefix, label in (("", "training"), ("val_", "validation")):
                if prefix + name in self.last:
                    ax.plot(numbers, self.column(prefix + name), label=label, marker="." if len(numbers) < 40 else "")
            if self.best is not None:
                ax.axvline(self.best, color="0.6", linewidth=0.8, linestyle=":", label=f"best epoch, {self.best}")
            ax.set_xlabel("epoch")
            ax.set_ylabel(name)
            ax.legend(frameon=False)
        save(figure, Path(path))
