"""How a run's learning rate follows a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnncc.errors import GraphError
from cnncc.optim import Optimizer
from cnncc.train.history import Epoch


class Rate:
    """Sets `optimizer.lr` before every step. schedule: None, or a function of the steps done -> learning rate."""

    def __init__(self, optimizer: Optimizer, schedule: Any, epochs: int, length: int | None):
        if schedule is not None and not callable(schedule):
            raise GraphError(f"schedule must be a function of the steps done -> rate, got {type(schedule).__name__}")
        self.optimizer, self.schedule = optimizer, schedule

    def before_step(self, steps: int) -> None:
        """`steps` are done."""
        if self.schedule is not None:
            self.optimizer.lr = float(self.schedule(steps))

    def after_epoch(self, record: Epoch) -> None:
        """An epoch is done."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {"lr": self.optimizer.lr}

    def load(self, data: Mapping[str, Any]) -> None:
        """Take back what `to_dict` gave."""
        self.optimizer.lr = data["lr"]
