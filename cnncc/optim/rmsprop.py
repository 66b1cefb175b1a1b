"""RMSprop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cnncc.builder import Builder
from cnncc.ir.graph import Value
from cnncc.optim.base import Optimizer, Scalars, not_negative, present
from cnncc.optim.groups import Group


@dataclass
class RMSprop(Optimizer):
    """torch.optim.RMSprop (Hinton's lecture 6e; centered: Graves 2013).

    g' = g + weight_decay w;  s' = alpha s + (1 - alpha) g'^2;  centered: a' = a + (1 - alpha) (g' - a), else a' = 0;
    step = g' / (sqrt(s' - a'^2) + eps);  with momentum step = buffer' = momentum buffer + step;  w' = w - lr step.
    """

    lr: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False
    groups: Sequence[Group] = ()

    def __post_init__(self) -> None:
        self.groups = tuple(self.groups)
        self.check(**{n: not_negative(getattr(self, n)) for n in ("lr", "alpha", "eps", "weight_decay", "momentum")})

    def numbers(self) -> dict[str, float]:
        """See `Optimizer`."""
        terms = present(weight_decay=self.weight_decay, momentum=self.momentum)
        return {"lr": self.lr, "alpha": self.alpha, "eps": self.eps, **terms}

    def structure(self) -> tuple[Any, ...]:
        """Which terms there are."""
        return (*self.numbers(), self.centered)

    def slots(self) -> dict[str, float]:
        """Averages of squares and (centered) gradients, and the velocity."""
        optional = {"grad_avg": self.centered, "momentum_buffer": self.momentum}
        return dict.fromkeys(("square_avg", *(n for n, wanted in optional.items() if wanted)), 0.0)

    def coefficients(self, b: Builder, numbers: Scalars, step: Value | None) -> Scalars:
        """The numbers, and 1 - alpha."""
        return {**numbers, "gain": b.sub(1.0, numbers["alpha"])}

    def update(self, b: Builder, c: Scalars, w: Value, g: Value, state: Scalars) -> tuple[Value, Scalars]:
        """See the class."""
        if "weight_decay" in c:
            g = b.add(g, b.mul(w, c["weight_decay"]))
        square = b.add(b.mul(state["square_avg"], c["alpha"]), b.mul(b.mul(g, g), c["gain"]))
        after = {"square_avg": square}
        if self.centered:
            mean = b.add(state["grad_avg"], b.mul(b.sub(g, state["grad_avg"]), c["gain"]))
            after["grad_avg"] = mean
            square = b.sub(square, b.mul(mean, mean))
        step = b.div(g, b.add(b.sqrt(square), c["eps"]))
        if "momentum" in c:
            step = after["momentum_buffer"] = b.add(b.mul(state["momentum_buffer"], c["momentum"]), step)
        return b.sub(w, b.mul(step, c["lr"])), after
