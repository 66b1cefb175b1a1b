"""What every loss is: a record that appends operations to a graph; sums and multiples of losses are losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from cnncc.builder import Builder
from cnncc.errors import GraphError
from cnncc.ir.dims import Dim
from cnncc.ir.dtype import is_float
from cnncc.ir.graph import Value

Reduction = Literal["mean", "sum", "none"]
Parameters = Mapping[str, Value]


class Loss:
    """A scalar of the model's output, the target, and the trained parameters by name.

    `a + b` is the sum of two losses on the same output and target, `0.5 * a` a multiple of one.
    """

    def __call__(self, b: Builder, output: Any, target: Any, parameters: Parameters | None = None) -> Value:
        """Append the loss to a graph. A training step gives the parameters that it trains."""
        raise NotImplementedError

    def __add__(self, other: Any) -> Loss:
        return Sum(self, as_loss(other)) if callable(other) else NotImplemented

    def __radd__(self, other: Any) -> Loss:
        return Sum(as_loss(other), self) if callable(other) else NotImplemented

    def __mul__(self, factor: float) -> Loss:
        return Scaled(self, float(factor)) if isinstance(factor, (int, float)) else NotImplemented

    __rmul__ = __mul__


@dataclass(frozen=True)
class Record(Loss):
    """A loss that is a function of output and target with options: the fields are the function's keywords."""

    function: ClassVar[Callable[..., Value]]

    def __call__(self, b: Builder, output: Any, target: Any, parameters: Parameters | None = None) -> Value:
        """See `Loss`. Raises GraphError where there is not one output and one target."""
        for what, value in (("output", output), ("target", target)):
            if not isinstance(value, Value):
                count = 0 if value is None else len(value)
                raise GraphError(
                    f"{type(self).__name__}: there must be one {what}, got {count}; "
                    "a function (builder, output, target) may choose among several"
                )
        return type(self).function(b, output, target, **{f.name: getattr(self, f.name) for f in fields(self)})


@dataclass(frozen=True)
class Sum(Loss):
    """Two losses added."""

    first: Loss
    second: Loss

    def __call__(self, b: Builder, output: Any, target: Any, parameters: Parameters | None = None) -> Value:
        """See `Loss`."""
        parts = [part(b, output, target, parameters) for part in (self.first, self.second)]
        return b.add(*parts)


@dataclass(frozen=True)
class Scaled(Loss):
    """A loss times a number."""

    loss: Loss
    factor: float

    def __call__(self, b: Builder, output: Any, target: Any, parameters: Parameters | None = None) -> Value:
        """See `Loss`."""
        return b.mul(self.loss(b, output, target, parameters), self.factor)


@dataclass(frozen=True)
class Function(Loss):
    """A function (builder, output, target) -> scalar of the caller's."""

    function: Callable[[Builder, Any, Any], Value]

    def __call__(self, b: Builder, output: Any, target: Any, parameters: Parameters | None = None) -> Value:
        """See `Loss`."""
        return self.function(b, output, target)


def as_loss(loss: Loss | Callable[[Builder, Any, Any], Value]) -> Loss:
    """A loss, or a function of the caller's as one."""
    return loss if isinstance(loss, Loss) else Function(loss)


def reduced(b: Builder, values: Value, reduction: str) -> Value:
    """All values, their sum or their mean. Raises GraphError for another reduction."""
    if reduction == "none":
        return values
    if reduction not in ("mean", "sum"):
        raise GraphError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    return b.op(f"reduce_{reduction}", values, keepdims=False)


def check_same(name: str, output: Value, target: Value) -> None:
    """Raises GraphError where a target has another shape than the output: it would be broadcast against it."""
    if output.type.shape != target.type.shape:
        raise GraphError(f"{name}: the target must have the output's shape, got {target.type} for {output.type}")


def like(b: Builder, target: Value, output: Value) -> Value:
    """A target in the output's dtype."""
    return target if target.type.dtype == output.type.dtype else b.cast(target, dtype=output.type.dtype)


def check_float(name: str, output: Value) -> None:
    """Raises GraphError where an output is no floating-point value."""
    if not is_float(output.type.dtype):
        raise GraphError(f"{name}: the output must be floating point, got {output.type}")


def extent(name: str, dim: Dim) -> int:
    """A number of classes. Raises GraphError where it is not known."""
    if not isinstance(dim, int):
        raise GraphError(f"{name}: the number of classes must be known, got {dim}")
    return dim
