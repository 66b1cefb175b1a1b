"""Penalties: losses of the trained parameters, to be added to another loss."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from cnncc.builder import Builder
from cnncc.errors import GraphError
from cnncc.ir.graph import Value
from cnncc.losses.base import Loss, Parameters


@dataclass(frozen=True)
class _Penalty(Loss):
    scale: float
    match: str | tuple[str, ...] = "*"

    def __call__(self, b: Builder, output: Any, target: Any, parameters: Parameters | None = None) -> Value:
        """See `Loss`. Raises GraphError where no parameter has such a name."""
        patterns = (self.match,) if isinstance(self.match, str) else self.match
        chosen = [v for n, v in (parameters or {}).items() if any(fnmatchcase(n, m) for m in patterns)]
        if not chosen:
            names = ", ".join(parameters or ()) or "none"
            raise GraphError(
                f"{type(self).__name__}: match must name trained parameters, got {self.match!r} of {names}"
            )
        total = self.of(b, chosen[0])
        for value in chosen[1:]:
            total = b.add(total, self.of(b, value))
        return b.mul(total, self.scale)

    def of(self, b: Builder, w: Value) -> Value:
        """The penalty of one parameter, without the scale."""
        raise NotImplementedError


@dataclass(frozen=True)
class L1Penalty(_Penalty):
    """scale times the sum of |w| over the trained parameters that match ("*.weight", or several patterns)."""

    def of(self, b: Builder, w: Value) -> Value:
        """sum |w|."""
        return b.reduce_sum(b.abs(w), keepdims=False)


@dataclass(frozen=True)
class L2Penalty(_Penalty):
    """scale times the sum of w^2 over the trained parameters that match; for plain SGD a weight_decay of 2 scale."""

    def of(self, b: Builder, w: Value) -> Value:
        """sum w^2."""
        return b.reduce_sum(b.square(w), keepdims=False)
