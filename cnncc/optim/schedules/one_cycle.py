"""The one-cycle policy: up to a large learning rate and down to almost nothing, with the momentum the other way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from cnncc.optim.base import Optimizer
from cnncc.optim.schedules.base import Every, Owner, Schedule, spread


class OneCycleLR(Schedule):
    """torch.optim.lr_scheduler.OneCycleLR (Smith and Topin 2019), stepped after every batch.

    From max_lr / div_factor up to max_lr in the first pct_start of all steps, then down to
    max_lr / div_factor / final_div_factor (three_phase: down to where it began in as many steps, then to the least).
    cycle_momentum: the momentum (or the first beta) goes from max_momentum to base_momentum and back.
    """

    composable = False

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        *,
        every: Every = "batch",
    ) -> None:
        if total_steps is None:
            self.check_count(epochs=epochs, steps_per_epoch=steps_per_epoch)
            total_steps = (epochs or 0) * (steps_per_epoch or 0)
        self.check_count(total_steps=total_steps)
        self.check("pct_start must be from 0 to 1", 0 <= pct_start <= 1, pct_start)
        self.check("anneal_strategy must be 'cos' or 'linear'", anneal_strategy in ("cos", "linear"), anneal_strategy)
        self.total_steps = total_steps
        self._anneal = _cosine if anneal_strategy == "cos" else _line
        peak = spread("max_lr", max_lr, optimizer.owners("lr"))
        self._peak = peak
        first = [p / div_factor for p in peak]
        last = [f / final_div_factor for f in first]
        self._momentum = next((n for n in ("betas", "momentum") if hasattr(optimizer, n)), "")
        owners: list[Owner] = []
        if cycle_momentum:
            self.check("cycle_momentum needs an optimizer with momentum or betas", bool(self._momentum), optimizer)
            owners = optimizer.owners(self._momentum)
        self._momentum_owners = owners
        low, high = spread("base_momentum", base_momentum, owners), spread("max_momentum", max_momentum, owners)
        up = pct_start * total_steps - 1
        ends = [up, 2 * pct_start * total_steps - 2, total_steps - 1] if three_phase else [up, total_steps - 1]
        self._ends = [0.0, *map(float, ends)]
        # The values at the ends of the phases.
        self._rates = [first, peak, first, last] if three_phase else [first, peak, last]
        self._momenta = [high, low, high, high] if three_phase else [high, low, high]
        super().__init__(optimizer, every)

    def rates(self, step: int, bases: Sequence[float]) -> list[float]:
        """See the class; what the optimizer had before does not count."""
        return self._at(self._rates, step)

    def step(self, metric: float | None = None) -> None:
        """One batch is over. Raises GraphError after more than total_steps."""
        self.check(f"there are {self.total_steps} steps", self.count < self.total_steps, self.count + 1)
        super().step(metric)

    def _apply(self) -> None:
        super()._apply()
        for owner, value in zip(self._momentum_owners, self._at(self._momenta, self.count), strict=True):
            if self._momentum == "betas":
                owner.betas = (value, *owner.betas[1:])  # type: ignore[union-attr]  # owners have it
            else:
                owner.momentum = value  # type: ignore[union-attr]  # owners have it

    def _at(self, values: Sequence[Sequence[float]], step: int) -> list[float]:
        phase = next((k for k, end in enumerate(self._ends[1:-1]) if step <= end), len(self._ends) - 2)
        start, end = self._ends[phase], self._ends[phase + 1]
        done = (step - start) / (end - start) if end != start else 1.0
        return [self._anneal(a, b, done) for a, b in zip(values[phase], values[phase + 1], strict=True)]


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2 * (math.cos(math.pi * done) + 1)


def _line(start: float, end: float, done: float) -> float:
    return (end - start) * done + start
