"""Schedules that are a formula of the rate at first and the number of steps t."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from cnncc.optim.base import Optimizer
from cnncc.optim.schedules.base import Every, Schedule


class LambdaLR(Schedule):
    """base factor(t) for any function."""

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float], *, every: Every = "epoch") -> None:
        self.lr_lambda = lr_lambda
        super().__init__(optimizer, every)

    def rate(self, base: float, step: int) -> float:
        """See the class."""
        return base * self.lr_lambda(step)


class StepLR(Schedule):
    """base gamma^floor(t / step_size)."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, *, every: Every = "epoch") -> None:
        self.check_count(step_size=step_size)
        self.check_number(gamma=gamma)
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, every)

    def rate(self, base: float, step: int) -> float:
        """See the class."""
        return float(base * self.gamma ** (step // self.step_size))


class MultiStepLR(Schedule):
    """base gamma^(number of milestones that t has reached); a milestone listed twice counts twice."""

    def __init__(
        self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1, *, every: Every = "epoch"
    ) -> None:
        self.check_number(gamma=gamma)
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer, every)

    def rate(self, base: float, step: int) -> float:
        """See the class."""
        return float(base * self.gamma ** bisect_right(self.milestones, step))


class ConstantLR(Schedule):
    """base factor for the first total_iters steps, then base."""

    def __init__(
        self, optimizer: Optimizer, factor: float = 1 / 3, total_iters: int = 5, *, every: Every = "epoch"
    ) -> None:
        self.check("factor must be from 0 to 1", 0 <= factor <= 1, factor)
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, every)

    def rate(self, base: float, step: int) -> float:
        """See the class."""
        return base * self.factor if step < self.total_iters else base


class LinearLR(Schedule):
    """A warm-up: base times a factor that goes from start_factor to end_factor in total_iters steps, and stays."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        *,
        every: Every = "epoch",
    ) -> None:
        self.check("start_factor must be above 0 and at most 1", 0 < start_factor <= 1, start_factor)
        self.check("end_factor must be from 0 to 1", 0 <= end_factor <= 1, end_factor)
        self.check_count(total_iters=total_iters)
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, every)

    def rate(self, base: float, step: int) -> float:
        """See the class."""
        done = min(step, self.total_iters) / self.total_iters
        return base * (self.start_factor + (self.end_factor - self.start_factor) * done)


class ExponentialLR(Schedule):
    """base gamma^t."""

    def __init__(self, optimizer: Optimizer, gamma: float, *, every: Every = "epoch") -> None:
        self.check_number(gamma=gamma)
        self.gamma = gamma
        super().__init__(optimizer, every)

    def rate(self, base: float, step: int) -> float:
        """See the class."""
        return float(base * self.gamma**step)


class PolynomialLR(Schedule):
    """base (1 - t / total_iters)^power, then 0."""

    def __init__(
        self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, *, every: Every = "epoch"
    ) -> None:
        self.check_count(total_iters=total_iters)
        self.check_number(power=power)
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer, every)

    def rate(self, base: float, step: int) -> float:
        """See the class."""
        return float(base * (1 - min(step, self.total_iters) / self.total_iters) ** self.power)


class CosineAnnealingLR(Schedule):
    """eta_min + (base - eta_min) (1 + cos(pi t / T_max)) / 2 (Loshchilov and Hutter 2017, without restarts)."""

    def __init__(
        self,
        optimizer: Optimizer,
        T_max: int,
        eta_min: float = 0.0,
        *,
        every: Every = "epoch",
    ) -> None:
        self.check_count(T_max=T_max)
        self.check_number(eta_min=eta_min)
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, every)

    def rate(self, base: float, step: int) -> float:
        """See the class."""
        return _cosine(base, self.eta_min, step / self.T_max)


class CosineAnnealingWarmRestarts(Schedule):
    """The cosine from base to eta_min over T_0 steps, again over T_0 T_mult, and so on (Loshchilov and Hutter 2017)."""

    def __init__(
        self,
        optimizer: Optimizer,
        T_0: int,
        T_mult: int = 1,
        eta_min: float = 0.0,
        *,
        every: Every = "epoch",
    ) -> None:
        self.check_count(T_0=T_0, T_mult=T_mult)
        self.check_number(eta_min=eta_min)
        self.T_0, self.T_mult, self.eta_min = T_0, T_mult, eta_min
        super().__init__(optimizer, every)

    def rate(self, base: float, step: int) -> float:
        """See the class."""
        period = self.T_0
        if self.T_mult == 1:
            step %= period
        while step >= period:
            step -= period
            period *= self.T_mult
        return _cosine(base, self.eta_min, step / period)


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
