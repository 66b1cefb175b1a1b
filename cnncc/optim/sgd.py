"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cnncc.builder import Builder
from cnncc.errors import GraphError
from cnncc.ir.graph import Value
from cnncc.optim.base import Optimizer, Scalars, not_negative, present
from cnncc.optim.groups import Group


@dataclass
class SGD(Optimizer):
    """torch.optim.SGD.

    g' = g + weight_decay w;  v' = momentum v + (1 - dampening) g' (at first v' = g');
    w' = w - lr v'  (Nesterov: w' = w - lr (g' + momentum v')).
    """

    lr: float = 0.01
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    groups: Sequence[Group] = ()

    def __post_init__(self) -> None:
        self.groups = tuple(self.groups)
        self.check(
            lr=not_negative(self.lr), momentum=not_negative(self.momentum), weight_decay=not_negative(self.weight_decay)
        )
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise GraphError(
                f"SGD: nesterov needs a momentum above 0 and no dampening, got {self.momentum} and {self.dampening}"
            )

    def numbers(self) -> dict[str, float]:
        """See `Optimizer`."""
        damped = {"dampening": self.dampening} if self.counts else {}
        return {"lr": self.lr, **present(momentum=self.momentum, weight_decay=self.weight_decay), **damped}

    def structure(self) -> tuple[Any, ...]:
        """Which terms there are."""
        return (*self.numbers(), self.nesterov)

    @property
    def counts(self) -> bool:
        """The first step has no dampening."""
        return bool(self.momentum and self.dampening)

    def slots(self) -> dict[str, float]:
        """One velocity with momentum, otherwise nothing."""
        return {"momentum_buffer": 0.0} if self.momentum else {}

    def coefficients(self, b: Builder, numbers: Scalars, step: Value | None) -> Scalars:
        """The factor of the gradient in the velocity."""
        if step is None:
            return numbers
        gain = b.where(b.equal(step, 1.0), b.constant([1.0], dtype="f64"), b.sub(1.0, numbers["dampening"]))
        return {**{n: v for n, v in numbers.items() if n != "dampening"}, "gain": gain}

    def update(self, b: Builder, c: Scalars, w: Value, g: Value, state: Scalars) -> tuple[Value, Scalars]:
        """See the class."""
        if "weight_decay" in c:
            g = b.add(g, b.mul(w, c["weight_decay"]))
        if not self.momentum:
            return b.sub(w, b.mul(g, c["lr"])), {}
        v = b.add(b.mul(state["momentum_buffer"], c["momentum"]), b.mul(g, c["gain"]) if "gain" in c else g)
        step = b.add(g, b.mul(v, c["momentum"])) if self.nesterov else v
        return b.sub(w, b.mul(step, c["lr"])), {"momentum_buffer": v}
