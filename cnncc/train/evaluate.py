"""The model of a training step in evaluation mode, with the step's present parameters. Compiled once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.builder import Builder
from cnncc.errors import GraphError
from cnncc.ir.dims import symbol
from cnncc.ir.graph import Graph
from cnncc.ir.reshape import bind_symbols
from cnncc.ir.types import Type
from cnncc.nn.module import Module
from cnncc.nn.tracing import traced
from cnncc.runtime.arena import aligned

if TYPE_CHECKING:
    from cnncc.train.step import TrainStep

Metric = Callable[[np.ndarray, np.ndarray], float]


class Evaluation:
    """`evaluation(x, y)` gives (loss, output) of a batch: batch norm by its running statistics, no dropout.

    Parameters are inputs of the compiled graph and are read where the step keeps them, so nothing is copied and what
    the step has learnt is what is evaluated.
    """

    def __init__(self, step: TrainStep):
        self.step = step
        self._executables: dict[Any, Any] = {}
        self._frozen: dict[str, np.ndarray] = {}

    def __call__(self, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        """x [N, ...], y as the loss takes it --> the loss, and the model's first output."""
        key = (x.shape[1:], x.dtype, y.shape[1:], y.dtype)
        if key not in self._executables:
            self._executables[key] = self._compiled(x, y)
        executable, names = self._executables[key]
        result = executable.run({"x": x, "y": y, **self._parameters(names)})
        return float(result["loss"]), result["output"]

    def over(self, batches: Iterable[tuple[np.ndarray, np.ndarray]], metrics: Mapping[str, Metric]) -> dict[str, float]:
        """Means over all samples: "loss", and what the metrics make of (output, y) of a batch.

        "accuracy" is among them where outputs [N, C, ...] stand beside integer labels [N, ...].
        """
        sums: dict[str, float] = {}
        count = 0
        for x, y in batches:
            loss, output = self(x, y)
            row = {"loss": loss}
            if y.dtype.kind in "iu" and output.ndim == y.ndim + 1:
                row["accuracy"] = accuracy(output, y)
            row |= {name: float(metric(output, y)) for name, metric in metrics.items()}
            for name, value in row.items():
                sums[name] = sums.get(name, 0.0) + value * len(x)
            count += len(x)
        if not count:
            raise GraphError("validation: there must be at least one batch, got none")
        return {name: value / count for name, value in sums.items()}

    def _parameters(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        executable = self.step.executable
        live = self.step.state_dict() if executable is None else executable.state.arrays
        return {name: live[name] if name in live else self._frozen[name] for name in names}

    def _compiled(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, list[str]]:
        from cnncc.driver import compile_graph

        graph = evaluation_graph(self.step.model, x, set(self.step.state_dict()))
        names = [v.name for v in graph.inputs if v.name != "x"]
        if isinstance(self.step.model, Module):
            self._frozen = {n: aligned(a) for n, a in self.step.model.state_dict().items()}
        b = Builder(graph)
        target = b.input("y", ("N", *y.shape[1:]), Type.of(y).dtype)
        output = graph.outputs[0]
        graph.outputs, graph.output_names = [self.step._loss(b, output, target), output], ["loss", "output"]
        return compile_graph(b.finish(), self.step._target), names


def evaluation_graph(model: Module | Graph, x: np.ndarray, parameters: Iterable[str]) -> Graph:
    """The graph of a model in evaluation mode with input "x" [N, ...] and its parameters as inputs by name."""
    if isinstance(model, Module):
        modes = [(m, m.training) for _, m in model.named_modules()]
        graph = traced(model.eval(), {"x": ("N", *x.shape[1:])}, as_inputs=True, dtype=Type.of(x).dtype).graph
        for module, mode in modes:
            object.__setattr__(module, "training", mode)
        return graph
    graph = model.copy()
    (value,) = graph.inputs
    value.name = "x"
    value.type = value.type.with_(shape=(symbol("N"), *x.shape[1:]))
    for constant in [v for v in graph.constants if v.name in parameters]:
        constant.data = None
        graph.constants.remove(constant)
        graph.inputs.append(constant)
    return bind_symbols(graph, {})


def accuracy(output: np.ndarray, y: np.ndarray) -> float:
    """The share of positions whose largest of output [N, C, ...] along axis 1 is the label y [N, ...]."""
    return float((output.argmax(axis=1) == y).mean())
