"""Adam, and with decoupled weight decay AdamW."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cnncc.builder import Builder
from cnncc.ir.graph import Value
from cnncc.optim.base import Optimizer, Scalars, below_one, not_negative, present
from cnncc.optim.groups import Group


@dataclass
class Adam(Optimizer):
    """torch.optim.Adam (Kingma and Ba 2015; amsgrad: Reddi, Kale and Kumar 2018).

    g' = g + weight_decay w;  m' = m + (1 - beta1) (g' - m);  v' = beta2 v + (1 - beta2) g'^2;
    w' = w - lr / (1 - beta1^t) m' / (sqrt(v' / (1 - beta2^t)) + eps),   t = 1, 2, ... the number of the step
    (amsgrad: the largest v' so far in place of v').
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    groups: Sequence[Group] = ()

    def __post_init__(self) -> None:
        self.groups, self.betas = tuple(self.groups), tuple(self.betas)  # type: ignore[assignment]  # two of them, checked next
        self.check(
            lr=not_negative(self.lr),
            betas=("two numbers", len(self.betas) == 2),
            eps=not_negative(self.eps),
            weight_decay=not_negative(self.weight_decay),
        )
        self.check(betas=("at least 0 and below 1", all(below_one(beta)[1] for beta in self.betas)))

    def numbers(self) -> dict[str, float]:
        """See `Optimizer`."""
        beta1, beta2 = self.betas
        return {
            "lr": self.lr,
            "beta1": beta1,
            "beta2": beta2,
            "eps": self.eps,
            **present(weight_decay=self.weight_decay),
        }

    def structure(self) -> tuple[Any, ...]:
        """Which terms there are."""
        return (*self.numbers(), self.amsgrad)

    @property
    def counts(self) -> bool:
        """For the bias corrections."""
        return True

    def slots(self) -> dict[str, float]:
        """Both moments of the gradient, and the largest second one."""
        return dict.fromkeys(("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if self.amsgrad else ())), 0.0)

    def coefficients(self, b: Builder, numbers: Scalars, step: Value | None) -> Scalars:
        """Bias corrections, for steps of the first moment and for the root of the second."""
        lr, beta1, beta2 = (numbers[n] for n in ("lr", "beta1", "beta2"))
        size = b.div(lr, b.sub(1.0, b.pow(beta1, step)))
        root = b.sqrt(b.sub(1.0, b.pow(beta2, step)))
        return {
            "gain1": b.sub(1.0, beta1), "beta2": beta2, "gain2": b.sub(1.0, beta2), "size": size,
            "scale": b.div(1.0, root), "eps": numbers["eps"], **self.decay(b, numbers),
        }  # fmt: skip

    def decay(self, b: Builder, numbers: Scalars) -> Scalars:
        """The factor of the weight in the gradient."""
        return {n: v for n, v in numbers.items() if n == "weight_decay"}

    def decayed(self, b: Builder, c: Scalars, w: Value, g: Value) -> tuple[Value, Value]:
        """Weight and gradient after the decay."""
        return w, (b.add(g, b.mul(w, c["weight_decay"])) if "weight_decay" in c else g)

    def update(self, b: Builder, c: Scalars, w: Value, g: Value, state: Scalars) -> tuple[Value, Scalars]:
        """See the class."""
        w, g = self.decayed(b, c, w, g)
        m = b.add(state["exp_avg"], b.mul(b.sub(g, state["exp_avg"]), c["gain1"]))
        v = b.add(b.mul(state["exp_avg_sq"], c["beta2"]), b.mul(b.mul(g, g), c["gain2"]))
        after = {"exp_avg": m, "exp_avg_sq": v}
        if self.amsgrad:
            v = after["max_exp_avg_sq"] = b.max(state["max_exp_avg_sq"], v)
        below = b.add(b.mul(b.sqrt(v), c["scale"]), c["eps"])
        return b.sub(w, b.mul(b.div(m, below), c["size"])), after


@dataclass
class AdamW(Adam):
    """torch.optim.AdamW (Loshchilov and Hutter 2019): Adam on w (1 - lr weight_decay), with gradients without decay."""

    weight_decay: float = 1e-2

    def decay(self, b: Builder, numbers: Scalars) -> Scalars:
        """What is left of a weight."""
        decay = numbers.get("weight_decay")
        return {} if decay is None else {"kept": b.sub(1.0, b.mul(numbers["lr"], decay))}

    def decayed(self, b: Builder, c: Scalars, w: Value, g: Value) -> tuple[Value, Value]:
        """Weight and gradient after the decay."""
        return (b.mul(w, c["kept"]) if "kept" in c else w), g
