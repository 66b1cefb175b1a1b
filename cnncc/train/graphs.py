"""The graphs of training: forward, loss, backward and update in one; loss and metrics alone; outputs alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnncc.autodiff import value_and_grad
from cnncc.builder import Builder
from cnncc.errors import GraphError
from cnncc.ir.dtype import is_float
from cnncc.ir.graph import Graph, Value
from cnncc.ir.types import Type
from cnncc.losses import Loss
from cnncc.nn.module import Module
from cnncc.nn.tracing import Traced, in_mode, traced
from cnncc.passes.manager import Context
from cnncc.passes.pooling import order_pools
from cnncc.train.batch import BatchTypes
from cnncc.train.metrics import Metric
from cnncc.train.update import Update, Updated

NEW = ".next"  # suffix of the output that replaces a state input
LOSS = "loss"


@dataclass(frozen=True)
class Measures:
    """What is computed from outputs and targets: the loss, and metrics by name."""

    loss: Loss
    metrics: Mapping[str, Metric]

    def append(
        self, b: Builder, outputs: Sequence[Value], targets: Sequence[Value], trained: Mapping[str, Value]
    ) -> dict[str, Value]:
        """Scalars by name, the loss first. Functions get a value, or a tuple where there are several, None for none."""
        output, target = _one_or_all(outputs), _one_or_all(targets)
        made = {LOSS: self.loss(b, output, target, trained)}
        made.update({name: metric(b, output, target) for name, metric in self.metrics.items()})
        for name, value in made.items():
            if value.type.shape != () or not is_float(value.type.dtype):
                raise GraphError(f"{name} must be a floating-point scalar, got {value.type}; reduce it (reduce_mean)")
        return made


@dataclass(frozen=True)
class StepGraph:
    """A graph with what it takes and gives.

    feeds: names of the batch's inputs, in order. measured: of the outputs that are loss and metrics. initial: first
    values of its state; replaced: state --> the output that replaces it. second: where the step accumulates gradients,
    the graph on the same state that makes the update from them.
    """

    graph: Graph
    feeds: tuple[str, ...]
    measured: tuple[str, ...] = ()
    initial: Mapping[str, np.ndarray] = field(default_factory=dict)
    replaced: Mapping[str, str] = field(default_factory=dict)
    second: StepGraph | None = None


def training_graph(
    module: Module,
    types: BatchTypes,
    arrays: Mapping[str, np.ndarray],
    measures: Measures,
    update: Update,
) -> StepGraph:
    """One step. `arrays`: the present parameters and buffers of the module, and the state of its random numbers."""
    found, feeds = _trace(module, types, arrays, training=True)
    graph = found.graph
    trained = _trained(module, graph, update)
    if not trained:
        raise GraphError(f"{graph.name}: there is no parameter to train; all are frozen or without effect")
    scalars, targets = _measure(graph, types, measures, arrays, trained)
    values = {**scalars, **{name + NEW: value for name, value in found.updates.items()}}
    graph.outputs, graph.output_names = list(values.values()), list(values)
    order_pools(graph, Context())  # before it is differentiated: the gradients then have the smaller image as well
    both = value_and_grad(graph, wrt=trained, of=LOSS)
    gradients = dict(zip(trained, both.outputs[len(values) :], strict=True))
    outputs = dict(zip(values, both.outputs, strict=False))
    inputs = {v.name: v for v in both.inputs}
    made = update.append(Builder(both), {n: inputs[n] for n in trained}, gradients)
    replaced = _set_outputs(both, outputs, made)
    initial = {**{n: arrays[n] for n in (*trained, *found.updates)}, **made.initial}
    fix(both, {n: a for n, a in arrays.items() if n not in initial})
    second = None
    if made.second is not None:
        second = StepGraph(made.second[0], (), replaced=_set_outputs(made.second[0], {}, made.second[1]))
    return StepGraph(both, (*feeds, *targets), tuple(scalars), initial, replaced, second)


def _set_outputs(graph: Graph, outputs: Mapping[str, Value], made: Updated) -> dict[str, str]:
    """Make what an update gives outputs, behind others; gives state --> the output that replaces it."""
    whole = {**outputs, **made.metrics, **{name + NEW: value for name, value in made.new.items()}}
    graph.outputs, graph.output_names = list(whole.values()), list(whole)
    return {n.removesuffix(NEW): n for n in whole if n.endswith(NEW)}


def evaluation_graph(
    module: Module, types: BatchTypes, arrays: Mapping[str, np.ndarray], measures: Measures, update: Update
) -> StepGraph:
    """Loss, metrics and the model's outputs in evaluation mode."""
    found, feeds = _trace(module, types, arrays, training=False)
    graph = found.graph
    scalars, targets = _measure(graph, types, measures, arrays, _trained(module, graph, update))
    clash = [n for n in graph.output_names if n in scalars]
    names = [f"output.{n}" if clash else n for n in graph.output_names]
    graph.outputs, graph.output_names = [*scalars.values(), *graph.outputs], [*scalars, *names]
    return StepGraph(graph, (*feeds, *targets), tuple(scalars))


def prediction_graph(module: Module, types: BatchTypes, arrays: Mapping[str, np.ndarray]) -> StepGraph:
    """The model's outputs in evaluation mode."""
    found, feeds = _trace(module, types, arrays, training=False)
    return StepGraph(found.graph, feeds)


def fix(graph: Graph, arrays: Mapping[str, np.ndarray]) -> None:
    """Inputs with the names of some arrays --> constants."""
    for value in [v for v in graph.inputs if v.name in arrays]:
        graph.inputs.remove(value)
        value.data = arrays[value.name]
        graph.constants.append(value)


def _trace(module: Module, types: BatchTypes, arrays: Iterable[str], training: bool) -> tuple[Traced, tuple[str, ...]]:
    """The forward graph with parameters and buffers as inputs, after the batch's, whose names are given too."""
    taken = set(arrays)
    feeds = _names("x", types.inputs, taken)
    with in_mode(module, training):
        return traced(module, dict(zip(feeds, types.inputs, strict=True)), as_inputs=True), feeds


def _trained(module: Module, graph: Graph, update: Update) -> list[str]:
    """Names of the graph's inputs that are parameters to train."""
    names = {v.name for v in graph.inputs}
    return update.trained([n for n, p in module.named_parameters() if p.requires_grad and n in names])


def _measure(
    graph: Graph, types: BatchTypes, measures: Measures, arrays: Iterable[str], trained: Iterable[str]
) -> tuple[dict[str, Value], tuple[str, ...]]:
    inputs = {v.name: v for v in graph.inputs}
    names = _names("y", types.targets, {*arrays, *inputs})
    b = Builder(graph)
    targets = [b.input(name, t.shape, t.dtype) for name, t in zip(names, types.targets, strict=True)]
    return measures.append(b, graph.outputs, targets, {n: inputs[n] for n in trained}), names


def _names(hint: str, types: Sequence[Type], taken: Iterable[str]) -> tuple[str, ...]:
    """A name for each, different from all parameters and buffers (imported ones may be called x)."""
    names = [hint] if len(types) == 1 else [f"{hint}{k}" for k in range(len(types))]
    while not set(names).isdisjoint(taken):
        names = [n + "_" for n in names]
    return tuple(names)


def _one_or_all(values: Sequence[Value]) -> Any:
    return None if not values else values[0] if len(values) == 1 else tuple(values)
