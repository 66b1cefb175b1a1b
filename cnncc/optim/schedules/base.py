"""What every schedule is: learning rates as a function of the number of steps taken."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cnncc.errors import GraphError
from cnncc.optim.base import Optimizer
from cnncc.optim.groups import Group

Every = Literal["epoch", "batch"]
Owner = Optimizer | Group


class Schedule:
    """Sets the learning rates of an optimizer (its groups' own ones too). See the package for the protocol.

    base: the rates that the schedule starts from, one for each of `owners`. count: how often `step` was called.
    """

    needs_metric = False
    composable = True  # whether `rates` is a function of its arguments alone

    def __init__(self, optimizer: Optimizer, every: Every = "epoch") -> None:
        if every not in ("epoch", "batch"):
            raise GraphError(f"{type(self).__name__}: every must be 'epoch' or 'batch', got {every!r}")
        self.optimizer = optimizer
        self.every: Every = every
        self.owners = optimizer.owners("lr")
        self.base = [_initial(owner) for owner in self.owners]
        self.count = 0
        self._apply()

    def rate(self, base: float, step: int) -> float:
        """The rate after a number of steps, of a parameter group that began with `base`."""
        raise NotImplementedError

    def rates(self, step: int, bases: Sequence[float]) -> list[float]:
        """`rate` for each of the owners."""
        return [self.rate(base, step) for base in bases]

    def step(self, metric: float | None = None) -> None:
        """One epoch (or batch, see `every`) is over: set the rates for the next."""
        self.count += 1
        self._apply()

    def get_last_lr(self) -> list[float]:
        """The rates now: of groups with a rate of their own, in order, then the optimizer's."""
        return [owner.lr for owner in self.owners]

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to continue, as plain data."""
        return {"count": self.count, "base": list(self.base)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken. Raises GraphError where it is another kind of schedule's."""
        own = self.state_dict()
        if set(state) != set(own):
            raise GraphError(f"{type(self).__name__}: a state has {', '.join(own)}, got {', '.join(state)}")
        if len(state["base"]) != len(self.owners):
            raise GraphError(
                f"{type(self).__name__}: there must be {len(self.owners)} learning rates, got {len(state['base'])}"
            )
        self._restore(state)
        self._apply()

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.count, self.base = int(state["count"]), [float(r) for r in state["base"]]

    def _apply(self) -> None:
        for owner, rate in zip(self.owners, self.rates(self.count, self.base), strict=True):
            owner.lr = rate

    def check(self, rule: str, holds: bool, got: Any) -> None:
        """Raises GraphError with the rule where it does not hold."""
        if not holds:
            raise GraphError(f"{type(self).__name__}: {rule}, got {got}")

    def check_count(self, **counts: Any) -> None:
        """Raises GraphError where one is no whole number above 0."""
        for name, value in counts.items():
            whole = isinstance(value, int) and not isinstance(value, bool)
            self.check(f"{name} must be a whole number above 0", whole and value > 0, value)

    def check_number(self, **numbers: Any) -> None:
        """Raises GraphError where one is no finite number."""
        for name, value in numbers.items():
            self.check(f"{name} must be a number", isinstance(value, (int, float)) and math.isfinite(value), value)


def _initial(owner: Owner) -> float:
    """The rate an owner had before any schedule touched it."""
    return float(owner.__dict__.setdefault("initial_lr", owner.lr))


def spread(name: str, values: float | Sequence[float], owners: Sequence[Owner]) -> list[float]:
    """One number for each owner, from one for all or a sequence. Raises GraphError where the length is another."""
    if isinstance(values, (int, float)):
        return [float(values)] * len(owners)
    if len(values) != len(owners):
        raise GraphError(f"{name}: there must be one or {len(owners)} (one for each learning rate), got {len(values)}")
    return [float(v) for v in values]
