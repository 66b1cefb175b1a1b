"""What every optimizer is: hyperparameters, and how a parameter, its gradient and its state make the next ones.

Hyperparameters are numbers in float64, as in PyTorch, and inputs of the compiled step: changing one compiles nothing.
What follows from them and the step counter alone (bias corrections, say) is computed in float64 once a step, and
rounded to the parameters' dtype where it meets them. Only what changes the update's form (a momentum or none) is fixed
when the step is compiled; `structure` says what that is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from numbers import Real
from typing import Any

from cnncc.builder import Builder
from cnncc.errors import GraphError
from cnncc.ir.graph import Value
from cnncc.optim.groups import Group

Scalars = dict[str, Value]


class Optimizer:
    """An update rule. Subclasses are dataclasses whose fields are the hyperparameters, `lr` and `groups` among them."""

    lr: float
    groups: Sequence[Group]

    def numbers(self) -> dict[str, float]:
        """The hyperparameters that the update reads at run time, by name; always the same names for one structure."""
        raise NotImplementedError

    def structure(self) -> tuple[Any, ...]:
        """What the compiled update depends on: it may not change once a step is compiled."""
        return tuple(self.numbers())

    @property
    def counts(self) -> bool:
        """Whether the update depends on the number of the step."""
        return False

    def slots(self) -> dict[str, float]:
        """The state arrays a parameter needs, each of its shape, with the number they are filled with at first."""
        return {}

    def coefficients(self, b: Builder, numbers: Scalars, step: Value | None) -> Scalars:
        """What `update` multiplies with, from the numbers and the step's number (1, 2, ...), all float64 [1]."""
        return numbers

    def update(self, b: Builder, c: Scalars, w: Value, g: Value, state: Scalars) -> tuple[Value, Scalars]:
        """The next parameter and state; the coefficients are scalars of the parameter's dtype."""
        raise NotImplementedError

    def of_group(self, group: Group | None) -> Optimizer:
        """The optimizer with a group's hyperparameters. Raises GraphError where it has none of that name."""
        if group is None or not group.overrides:
            return self
        names = [f.name for f in fields(self) if f.name != "groups"]  # type: ignore[arg-type]  # optimizers are dataclasses
        if not set(group.overrides) <= set(names):
            raise GraphError(f"{group!r}: hyperparameters of {type(self).__name__} are {', '.join(names)}")
        return replace(self, groups=(), **group.overrides)  # type: ignore[type-var]  # optimizers are dataclasses

    def owners(self, name: str) -> list[Optimizer | Group]:
        """What has a hyperparameter of its own: groups that override it, in order, then the optimizer itself."""
        return [*(g for g in self.groups if name in g.overrides), self]

    def check(self, **ranges: tuple[Any, bool]) -> None:
        """Raises GraphError naming the rule of the first hyperparameter that breaks its own: (rule, holds)."""
        for name, (rule, holds) in ranges.items():
            if not holds:
                raise GraphError(f"{type(self).__name__}: {name} must be {rule}, got {getattr(self, name)}")


def not_negative(value: Any) -> tuple[str, bool]:
    """For `Optimizer.check`."""
    return "a number that is not negative", isinstance(value, Real) and math.isfinite(value) and float(value) >= 0


def below_one(value: Any) -> tuple[str, bool]:
    """For `Optimizer.check`."""
    return "at least 0 and below 1", isinstance(value, Real) and 0 <= float(value) < 1


def present(**numbers: float) -> Mapping[str, float]:
    """The numbers that are not zero: a term with a zero factor is left out of the update."""
    return {name: value for name, value in numbers.items() if value}
