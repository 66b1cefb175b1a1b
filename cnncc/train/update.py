"""From gradients to new parameters and optimizer state, as graph operations: accumulation, clipping, the update itself.

Hyperparameters come in one array, `HYPER`. The optimizer's step counter is state (`COUNT`) where the update depends on
it, and counts the updates made so far.

Gradients of k batches are accumulated in two graphs on one state: the step adds to the sums (``<parameter>.grad``) and
leaves the parameters alone, and after every k-th a second graph makes the update from the sums. So a batch costs one
reading and writing of the sums more, but no update that is thrown away, as it would in a single graph that decides;
and the second graph, which has no forward and backward pass, compiles in no time. A batch counts with its number of
samples: for a loss that is a mean over the batch, k batches of any sizes make the update of all of them in one batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real

import numpy as np

from cnncc.builder import Builder
from cnncc.errors import GraphError
from cnncc.ir.graph import Graph, Value
from cnncc.optim.base import Optimizer, Scalars
from cnncc.optim.groups import Group, assign, find_group

HYPER = "hyperparameters"
COUNT = "optimizer.step"
SIZE = "batch_size"  # input of a step that accumulates: the number of samples in its batch
SUM = ".grad"  # suffix of the sum of a parameter's gradients, each times its number of samples
SAMPLES, BATCHES = "accumulated.samples", "accumulated.batches"  # how many are in the sums
_TORCH_EPSILON = 1e-6  # torch.nn.utils.clip_grad_norm_ adds it to the norm


@dataclass(frozen=True)
class Updated:
    """What an update adds to a graph: new values by the name of the state that they replace, the first values of the
    state that is the update's own, and scalars worth showing. second: where the step accumulates, the graph of the
    update proper, whose outputs are not set yet, and what was added there (all its state is in `initial` here)."""

    new: dict[str, Value] = field(default_factory=dict)
    initial: dict[str, np.ndarray] = field(default_factory=dict)
    metrics: dict[str, Value] = field(default_factory=dict)
    second: tuple[Graph, Updated] | None = None


class Update:
    """An optimizer with what happens to gradients before it.

    accumulate: so many batches make one update (see the module). clip_value: gradients are cut off at plus and minus
    this. clip_norm: then, where the norm of all gradients together is larger, they are scaled to it; the norm before is
    the metric "gradient_norm". Both limits are for the accumulated gradients.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        accumulate: int = 1,
    ) -> None:
        for name, limit in (("clip_norm", clip_norm), ("clip_value", clip_value)):
            if limit is not None and not limit > 0:
                raise GraphError(f"{name} must be a number above 0, got {limit}")
        if not isinstance(accumulate, int) or accumulate < 1:
            raise GraphError(f"accumulate must be a whole number above 0, got {accumulate}")
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.accumulate = accumulate
        self._compiled: list[tuple[Group | None, tuple[object, ...]]] = []

    def trained(self, names: Iterable[str]) -> list[str]:
        """The parameters that no group of the optimizer freezes. Raises GraphError for groups that match none."""
        groups = assign(self.optimizer.groups, names)
        return [n for n, group in groups.items() if group is None or not group.frozen]

    def feeds(self, samples: int) -> dict[str, np.ndarray]:
        """The run-time inputs of a step on a batch of so many samples."""
        return self.hyperparameters() if self.accumulate == 1 else {SIZE: np.array(samples, np.float64)}

    def hyperparameters(self) -> dict[str, np.ndarray]:
        """The run-time inputs of the update. Raises GraphError where a hyperparameter changed that is compiled in."""
        numbers: list[float] = []
        for group, structure in self._compiled:
            rule = self.optimizer.of_group(group)
            if rule.structure() != structure:
                raise GraphError(
                    f"{type(rule).__name__}: terms of the update are fixed when the step is compiled (zero or not "
                    f"counts); they were {structure}, got {rule.structure()}; make a new TrainStep "
                    "and load this one's state"
                )
            numbers += rule.numbers().values()
        if not all(isinstance(n, Real) and math.isfinite(n) for n in numbers):
            raise GraphError(
                f"{type(self.optimizer).__name__}: hyperparameters must be finite numbers, got {self.optimizer}"
            )
        return {HYPER: np.array(numbers, np.float64)}

    def append(self, b: Builder, parameters: Mapping[str, Value], gradients: Mapping[str, Value]) -> Updated:
        """Add to a step's graph what it does with its gradients: the update of the parameters, or the accumulation."""
        if self.accumulate == 1:
            return self._append_update(b, parameters, gradients)
        second = self._second(parameters)
        sums = _append_sums(b, gradients)
        return Updated(sums.new, {**sums.initial, **second[1].initial}, second=second)

    def _second(self, parameters: Mapping[str, Value]) -> tuple[Graph, Updated]:
        """The graph that makes the update from accumulated gradients, and empties the sums."""
        b = Builder("update")
        own = {n: b.input(n, v.type.shape, v.type.dtype) for n, v in parameters.items()}
        share = b.div(1.0, b.input(SAMPLES, (), "f64"))
        means = {}
        for name, w in own.items():
            total = b.input(name + SUM, w.type.shape, w.type.dtype)
            means[name] = b.mul(total, b.cast(share, dtype=w.type.dtype))
        result = self._append_update(b, own, means)
        result.new[BATCHES] = b.mul(b.input(BATCHES, (), "i64"), 0)
        return b.graph, result

    def _append_update(self, b: Builder, parameters: Mapping[str, Value], gradients: Mapping[str, Value]) -> Updated:
        members = [
            (group, [n for n in parameters if find_group(self.optimizer.groups, n) is group])
            for group in (*self.optimizer.groups, None)
        ]
        rules = [(self.optimizer.of_group(group), group, names) for group, names in members if names]
        self._compiled = [(group, rule.structure()) for rule, group, _ in rules]
        result = Updated()
        gradients = self._clipped(b, gradients, result)
        hyper = b.input(HYPER, (sum(len(rule.numbers()) for rule, _, _ in rules),), "f64")
        step = _count(b, result) if any(rule.counts for rule, _, _ in rules) else None
        at = 0
        for rule, _, names in rules:
            numbers = {n: b.slice(hyper, starts=(at + k,), ends=(at + k + 1,)) for k, n in enumerate(rule.numbers())}
            at += len(numbers)
            coefficients = rule.coefficients(b, numbers, step if rule.counts else None)
            rounded: dict[str, Scalars] = {}
            for name in names:
                w = parameters[name]
                dtype = w.type.dtype
                if dtype not in rounded:
                    rounded[dtype] = {n: b.reshape(b.cast(v, dtype=dtype), shape=()) for n, v in coefficients.items()}
                state = {s: b.input(f"{name}.{s}", w.type.shape, dtype) for s in rule.slots()}
                result.initial.update({f"{name}.{s}": _filled(w, v) for s, v in rule.slots().items()})
                result.new[name], after = rule.update(b, rounded[dtype], w, gradients[name], state)
                result.new.update({f"{name}.{s}": v for s, v in after.items()})
        return result

    def _clipped(self, b: Builder, gradients: Mapping[str, Value], result: Updated) -> Mapping[str, Value]:
        if self.clip_value is not None:
            limit = self.clip_value
            gradients = {n: b.clip(g, low=-limit, high=limit) for n, g in gradients.items()}
        if self.clip_norm is None or not gradients:
            return gradients
        norm = global_norm(b, list(gradients.values()))
        result.metrics["gradient_norm"] = norm
        scale = b.min(b.div(self.clip_norm, b.add(norm, _TORCH_EPSILON)), 1.0)
        return {n: b.mul(g, b.cast(scale, dtype=g.type.dtype)) for n, g in gradients.items()}


def global_norm(b: Builder, values: list[Value]) -> Value:
    """sqrt(sum of squares of all elements of all values), a scalar; of the widest dtype among them."""
    dtype = "f64" if any(v.type.dtype == "f64" for v in values) else "f32"
    parts = [b.cast(b.reduce_sum(b.square(v), keepdims=False), dtype=dtype) for v in values]
    joined = b.concat(*(b.reshape(p, shape=(1,)) for p in parts), axis=0)
    return b.sqrt(b.reduce_sum(joined, keepdims=False))


def _append_sums(b: Builder, gradients: Mapping[str, Value]) -> Updated:
    """Add the gradients, times the number of samples, to the sums; the first batch replaces what is there."""
    result = Updated()
    size, batches, samples = b.input(SIZE, (), "f64"), b.input(BATCHES, (), "i64"), b.input(SAMPLES, (), "f64")
    first = b.equal(batches, 0)
    result.new[SAMPLES] = b.where(first, size, b.add(samples, size))
    result.new[BATCHES] = b.add(batches, 1)
    result.initial.update({SAMPLES: np.zeros(()), BATCHES: np.zeros((), np.int64)})
    sizes: dict[str, Value] = {}
    for name, g in gradients.items():
        dtype = g.type.dtype
        weighted = b.mul(g, sizes.setdefault(dtype, b.cast(size, dtype=dtype)))
        total = b.input(name + SUM, g.type.shape, dtype)
        result.new[name + SUM] = b.where(first, weighted, b.add(total, weighted))
        result.initial[name + SUM] = _filled(g, 0.0)
    return result


def _filled(like: Value, number: float) -> np.ndarray:
    return np.full(tuple(int(d) for d in like.type.shape), number, like.type.numpy)


def _count(b: Builder, result: Updated) -> Value:
    """The number of this step (from 1), float64 [1]; the counter is state."""
    after = b.add(b.input(COUNT, (), "i64"), 1)
    result.new[COUNT] = after
    result.initial[COUNT] = np.zeros((), np.int64)
    return b.cast(b.reshape(after, shape=(1,)), dtype="f64")
