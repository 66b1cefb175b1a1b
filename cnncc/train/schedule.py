"""How a run's learning rate follows a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from cnncc.errors import GraphError
from cnncc.optim import Optimizer
from cnncc.optim.schedules import Schedule
from cnncc.train.history import Epoch


class Rate:
    """The learning rate of a run. schedule: a Schedule of the run's optimizer, a function of the steps done -> rate, or
    None."""

    def __init__(self, optimizer: Optimizer, schedule: Any):
        if isinstance(schedule, Schedule):
            if schedule.optimizer is not optimizer:
                raise GraphError("schedule: it must be made with the optimizer of this run, got one of another")
        elif schedule is not None and not callable(schedule):
            raise GraphError(
                "schedule must be a schedule of cnncc.optim.schedules or a function of the steps done -> rate, got "
                f"{type(schedule).__name__}"
            )
        self.optimizer, self.schedule = optimizer, schedule

    def before_step(self, steps: int) -> None:
        """`steps` are done."""
        if self.schedule is not None and not isinstance(self.schedule, Schedule):
            rate = self.schedule(steps)
            if not isinstance(rate, Real):
                raise GraphError(f"schedule: a function of the steps done must give a number, got {rate!r}")
            self.optimizer.lr = float(rate)

    def after_step(self) -> None:
        """Another step is done."""
        if isinstance(self.schedule, Schedule) and self.schedule.every == "batch":
            self.schedule.step()

    def after_epoch(self, record: Epoch) -> None:
        """An epoch is done; a schedule that waits for a plateau is told the loss of the validation (else training)."""
        if isinstance(self.schedule, Schedule) and self.schedule.every == "epoch":
            measured = record.validation or record.train
            self.schedule.step(measured["loss"] if self.schedule.needs_metric else None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        own = self.schedule.state_dict() if isinstance(self.schedule, Schedule) else None
        return {"lr": float(self.optimizer.lr), "kind": type(self.schedule).__name__, "schedule": own}

    def load(self, data: Mapping[str, Any]) -> None:
        """Take back what `to_dict` gave. Raises GraphError where it was of another kind of schedule."""
        kind = type(self.schedule).__name__
        if data["kind"] != kind:
            raise GraphError(f"schedule: the checkpoint was made with {data['kind']}, got {kind}")
        self.optimizer.lr = data["lr"]
        if isinstance(self.schedule, Schedule):
            self.schedule.load_state_dict(data["schedule"])
