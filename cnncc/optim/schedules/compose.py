"""Schedules made of schedules."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from cnncc.optim.base import Optimizer
from cnncc.optim.schedules.base import Every, Schedule


class SequentialLR(Schedule):
    """One schedule after another: the next takes over at each milestone, and begins with its own step 0."""

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[Schedule], milestones: Sequence[int], *, every: Every = "epoch"
    ) -> None:
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        _check_parts(self, optimizer)
        self.check(
            "there must be one milestone fewer than schedulers",
            len(self.milestones) == len(self.schedulers) - 1,
            f"{len(self.milestones)} for {len(self.schedulers)}",
        )
        self.check("milestones must increase", self.milestones == sorted(set(self.milestones)), self.milestones)
        super().__init__(optimizer, every)

    def rates(self, step: int, bases: Sequence[float]) -> list[float]:
        """Those of the schedule whose turn it is."""
        k = bisect_right(self.milestones, step)
        return self.schedulers[k].rates(step - (self.milestones[k - 1] if k else 0), bases)


class ChainedScheduler(Schedule):
    """Several schedules at once: each takes the rates of the one before it as its base, so that factors multiply."""

    def __init__(
        self, schedulers: Sequence[Schedule], optimizer: Optimizer | None = None, *, every: Every = "epoch"
    ) -> None:
        self.schedulers = list(schedulers)
        self.check("there must be at least one scheduler", bool(self.schedulers), 0)
        optimizer = self.schedulers[0].optimizer if optimizer is None else optimizer
        _check_parts(self, optimizer)
        super().__init__(optimizer, every)

    def rates(self, step: int, bases: Sequence[float]) -> list[float]:
        """Those of the last schedule."""
        for schedule in self.schedulers:
            bases = schedule.rates(step, bases)
        return list(bases)


def _check_parts(whole: SequentialLR | ChainedScheduler, optimizer: Optimizer) -> None:
    for part in whole.schedulers:
        name = type(part).__name__
        whole.check("all schedulers must have the same optimizer", part.optimizer is optimizer, f"another in {name}")
        whole.check("a part must be a function of the number of steps alone", part.composable, name)
