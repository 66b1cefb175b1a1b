"""Smaller learning rates once a metric stops improving."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cnncc.errors import GraphError
from cnncc.optim.base import Optimizer
from cnncc.optim.schedules.base import Every, Schedule, spread


class ReduceLROnPlateau(Schedule):
    """torch.optim.lr_scheduler.ReduceLROnPlateau: rates times `factor` when more than `patience` steps brought nothing.

    Progress is a metric below best (1 - threshold), or below best - threshold with threshold_mode="abs"; above, for
    mode="max". After a reduction `cooldown` steps do not count. Rates stay at least min_lr, and change by more than eps
    or not at all.
    """

    composable = False
    needs_metric = True

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
        *,
        every: Every = "epoch",
    ) -> None:
        self.check("factor must be below 1", factor < 1, factor)
        self.check("mode must be 'min' or 'max'", mode in ("min", "max"), mode)
        self.check("threshold_mode must be 'rel' or 'abs'", threshold_mode in ("rel", "abs"), threshold_mode)
        self.mode, self.factor, self.patience, self.cooldown, self.eps = mode, factor, patience, cooldown, eps
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.min_lr = spread("min_lr", min_lr, optimizer.owners("lr"))
        self.best: float | None = None
        self.bad_steps = self.cooling = 0
        self._now = [float(owner.lr) for owner in optimizer.owners("lr")]
        super().__init__(optimizer, every)

    def rates(self, step: int, bases: Sequence[float]) -> list[float]:
        """Those that the metrics so far led to."""
        return self._now

    def step(self, metric: float | None = None) -> None:
        """One epoch is over, with this metric. Raises GraphError where there is none."""
        if metric is None:
            raise GraphError("ReduceLROnPlateau: step must be given the metric to watch, got none")
        value = float(metric)
        if self._improves(value):
            self.best, self.bad_steps = value, 0
        else:
            self.bad_steps += 1
        if self.cooling > 0:
            self.cooling -= 1
            self.bad_steps = 0
        if self.bad_steps > self.patience:
            smaller = [max(rate * self.factor, least) for rate, least in zip(self._now, self.min_lr, strict=True)]
            self._now = [s if rate - s > self.eps else rate for s, rate in zip(smaller, self._now, strict=True)]
            self.cooling, self.bad_steps = self.cooldown, 0
        super().step(metric)

    def state_dict(self) -> dict[str, Any]:
        """See `Schedule`."""
        own = {"best": self.best, "bad_steps": self.bad_steps, "cooling": self.cooling, "rates": list(self._now)}
        return {**super().state_dict(), **own}

    def _restore(self, state: Mapping[str, Any]) -> None:
        super()._restore(state)
        self.best, self.bad_steps, self.cooling = state["best"], int(state["bad_steps"]), int(state["cooling"])
        self._now = [float(r) for r in state["rates"]]

    def _improves(self, value: float) -> bool:
        best = (math.inf if self.mode == "min" else -math.inf) if self.best is None else self.best
        sign = 1 if self.mode == "min" else -1
        if self.threshold_mode == "abs":
            return sign * value < sign * (best - sign * self.threshold)
        return sign * value < sign * best * (1 - sign * self.threshold)
