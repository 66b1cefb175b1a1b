"""Early stopping: which epoch was best on the validation data, and when to give up waiting for a better one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cnncc.errors import GraphError


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the validation error has not improved for `patience` epochs.

    monitor: a validation metric; what is better is less, except of "accuracy" and those in `higher`. None: accuracy
    where there is one (of two epochs with the same, the one with less loss is better), else loss. least: by how much
    it must improve to count.
    """

    patience: int = 10
    monitor: str | None = None
    least: float = 0.0
    higher: bool = False

    def __post_init__(self) -> None:
        if self.patience < 1 or self.least < 0:
            raise GraphError(f"EarlyStopping: patience must be at least 1 and least at least 0, got {self}")


@dataclass
class Best:
    """The best epoch so far. `score`: what was compared, least is best."""

    rule: EarlyStopping
    epoch: int | None = None
    score: tuple[float, ...] = ()
    waited: int = 0

    def update(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Whether this epoch is the best one so far."""
        score = self._score(metrics)
        better = self.epoch is None or score[0] < self.score[0] - self.rule.least
        better = better or (len(score) > 1 and score[0] == self.score[0] and score[1] < self.score[1])
        if better:
            self.epoch, self.score, self.waited = epoch, score, 0
        else:
            self.waited += 1
        return better

    @property
    def exhausted(self) -> bool:
        """Whether there were `patience` epochs without improvement."""
        return self.waited >= self.rule.patience

    def _score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        name = self.rule.monitor
        if name is None:
            if "accuracy" in metrics:
                return (round(-metrics["accuracy"], 6), metrics["loss"])  # equal shares differ in the last bits
            return (metrics["loss"],)
        if name not in metrics:
            raise GraphError(f"EarlyStopping: monitor must be one of {', '.join(metrics)}, got {name!r}")
        return (-metrics[name] if self.rule.higher or name == "accuracy" else metrics[name],)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {"epoch": self.epoch, "score": list(self.score), "waited": self.waited}

    def load(self, data: Mapping[str, Any]) -> None:
        """Take back what `to_dict` gave."""
        self.epoch, self.score, self.waited = data["epoch"], tuple(data["score"]), data["waited"]
