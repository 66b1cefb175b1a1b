"""Optimizers: how a parameter, its gradient and its state make the next parameter and state, as graph operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cnncc.builder import Builder
from cnncc.errors import GraphError
from cnncc.ir.graph import Value


class Optimizer(Protocol):
    """An update rule. `lr` may change from step to step without a new compilation."""

    lr: float

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the state arrays a parameter needs, each of its shape and zero at first."""
        ...

    def update(
        self, b: Builder, lr: Value, w: Value, g: Value, state: dict[str, Value]
    ) -> tuple[Value, dict[str, Value]]:
        """The next parameter and state."""
        ...


@dataclass
class SGD:
    """torch.optim.SGD.

    g' = g + weight_decay w;  v' = momentum v + g';  w' = w - lr v'  (Nesterov: w' = w - lr (g' + momentum v')).
    """

    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.lr < 0 or self.momentum < 0 or self.weight_decay < 0:
            raise GraphError(f"SGD: lr, momentum and weight_decay must not be negative, got {self}")
        if self.nesterov and self.momentum == 0:
            raise GraphError("SGD: nesterov needs a momentum above 0")

    @property
    def slots(self) -> tuple[str, ...]:
        """One velocity with momentum, otherwise nothing."""
        return ("momentum_buffer",) if self.momentum else ()

    def update(
        self, b: Builder, lr: Value, w: Value, g: Value, state: dict[str, Value]
    ) -> tuple[Value, dict[str, Value]]:
        """See the class."""
        if self.weight_decay:
            g = b.add(g, b.mul(w, self.weight_decay))
        if not self.momentum:
            return b.sub(w, b.mul(g, lr)), {}
        v = b.add(b.mul(state["momentum_buffer"], self.momentum), g)
        step = b.add(g, b.mul(v, self.momentum)) if self.nesterov else v
        return b.sub(w, b.mul(step, lr)), {"momentum_buffer": v}
