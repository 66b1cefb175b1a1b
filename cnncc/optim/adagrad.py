"""Adagrad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cnncc.builder import Builder
from cnncc.ir.graph import Value
from cnncc.optim.base import Optimizer, Scalars, not_negative, present
from cnncc.optim.groups import Group


@dataclass
class Adagrad(Optimizer):
    """torch.optim.Adagrad (Duchi, Hazan and Singer 2011).

    g' = g + weight_decay w;  s' = s + g'^2, at first initial_accumulator_value;
    w' = w - lr / (1 + (t - 1) lr_decay) g' / (sqrt(s') + eps),   t = 1, 2, ... the number of the step.
    """

    lr: float = 1e-2
    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10
    groups: Sequence[Group] = ()

    def __post_init__(self) -> None:
        self.groups = tuple(self.groups)
        names = ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")
        self.check(**{n: not_negative(getattr(self, n)) for n in names})

    def numbers(self) -> dict[str, float]:
        """See `Optimizer`."""
        return {"lr": self.lr, "eps": self.eps, **present(lr_decay=self.lr_decay, weight_decay=self.weight_decay)}

    @property
    def counts(self) -> bool:
        """For the decay of the rate."""
        return bool(self.lr_decay)

    def slots(self) -> dict[str, float]:
        """The sum of squares."""
        return {"sum": self.initial_accumulator_value}

    def coefficients(self, b: Builder, numbers: Scalars, step: Value | None) -> Scalars:
        """The rate of this step."""
        if step is None:
            return numbers
        decay = b.add(1.0, b.mul(b.sub(step, 1.0), numbers["lr_decay"]))
        return {**{n: v for n, v in numbers.items() if n != "lr_decay"}, "lr": b.div(numbers["lr"], decay)}

    def update(self, b: Builder, c: Scalars, w: Value, g: Value, state: Scalars) -> tuple[Value, Scalars]:
        """See the class."""
        if "weight_decay" in c:
            g = b.add(g, b.mul(w, c["weight_decay"]))
        total = b.add(state["sum"], b.mul(g, g))
        return b.sub(w, b.mul(b.div(g, b.add(b.sqrt(total), c["eps"])), c["lr"])), {"sum": total}
