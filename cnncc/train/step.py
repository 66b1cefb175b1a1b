"""TrainStep: one call is one update of the parameters, which live in the compiled program and change in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cnncc.autodiff import value_and_grad
from cnncc.builder import Builder
from cnncc.driver import Progress, compile_graph
from cnncc.errors import GraphError
from cnncc.ir.dims import symbol
from cnncc.ir.graph import Graph, Value
from cnncc.ir.types import Type
from cnncc.losses import Loss, find_loss
from cnncc.nn.module import Module
from cnncc.nn.tracing import traced
from cnncc.optim import Optimizer
from cnncc.passes.manager import Context
from cnncc.passes.pooling import order_pools
from cnncc.targets.machine import find_target
from cnncc.targets.target import Target
from cnncc.train.update import Update

NEW = ".next"  # suffix of the output that replaces a state input


class TrainStep:
    """`step(x, y)` runs forward, loss, backward and the optimizer's update, and returns {"loss": float}.

    model: a cnncc.nn module, or a Graph (from ONNX: its floating-point constants of rank 1 or more are trained).
    loss: a name ("cross_entropy"), a record of cnncc.losses, or a function (builder, output, target) -> scalar value.
    optimizer: cnncc.optim.SGD(...); its `lr` may be changed between steps, which compiles nothing.
    clip_norm, clip_value: bounds of the gradients (see `cnncc.train.update.Update`).

    The first call fixes the shapes except the batch, and compiles; another batch size compiles nothing.
    """

    def __init__(
        self,
        model: Module | Graph,
        loss: str | Loss | Callable[[Builder, Any, Any], Value],
        optimizer: Optimizer,
        target: str | Target = "native",
        threads: int | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ):
        self.model = model
        self.optimizer = optimizer
        self._update = Update(optimizer, clip_norm, clip_value)
        self._loss = find_loss(loss)
        self._target = find_target(target, threads)
        self._executable: Any = None
        self.graph: Graph | None = None  # the whole step as it was compiled, before any pass
        self._restored: dict[str, np.ndarray] = {}
        self._signature: tuple[Any, ...] = ()
        self.progress = Progress()

    def __call__(self, x: Any, y: Any) -> dict[str, float]:
        """One update on a batch: x [N, ...], y [N, ...] (labels for cross_entropy). Raises GraphError where shapes
        differ from the first batch's in more than N."""
        x, y = np.asarray(x), np.asarray(y)
        self.prepare(x, y)
        result = self._executable.run(self.feeds(x, y))
        return {name: float(value) for name, value in result.items()}

    def prepare(self, x: np.ndarray, y: np.ndarray) -> None:
        """Compile for batches like this one, where that is not done yet; no step is made. Raises GraphError where the
        step is compiled for others."""
        signature = (x.shape[1:], x.dtype, y.shape[1:], y.dtype)
        if self._executable is None:
            self._compile(x, y)
            self._signature = signature
        elif signature != self._signature:
            raise GraphError(f"step: batches must be like the first one, {self._signature}, got {signature}")

    def feeds(self, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        """The inputs of the step's graph that are not state, by name, with the hyperparameters as they are now."""
        return {"x": x, "y": y, **self._update.feeds()}

    @property
    def executable(self) -> Any:
        """The compiled step, None before the first call."""
        return self._executable

    def state_dict(self) -> dict[str, np.ndarray]:
        """Parameters and buffers under torch's names, optimizer state as ``<parameter>.<slot>`` beside them."""
        if self._executable is None:
            return {**self._initial_parameters(), **self._restored}
        return {name: self._executable.state[name] for name in self._executable.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave. Raises GraphError for names and shapes that do not fit."""
        if self._executable is None:
            self._restored = {k: np.asarray(v) for k, v in state.items()}
            return
        for name, array in state.items():
            self._executable.state[name] = array

    def sync(self) -> Module | Graph:
        """The model with the trained parameters: the module itself (updated), or a new graph."""
        state = self.state_dict()
        if isinstance(self.model, Module):
            own = self.model.state_dict()
            self.model.load_state_dict({**own, **{k: v for k, v in state.items() if k in own}})
            return self.model
        graph = self.model.copy()
        for value in graph.constants:
            if value.name in state:
                value.data = state[value.name]
        return graph

    # -- building the step --------------------------------------------------------------------------------------------

    def _initial_parameters(self) -> dict[str, np.ndarray]:
        if isinstance(self.model, Module):
            return self.model.state_dict()
        return {v.name: v.data for v in _trainable(self.model) if v.data is not None}

    def _compile(self, x: np.ndarray, y: np.ndarray) -> None:
        graph, trained, updates = self._forward(x)
        trained = self._update.trained(trained)
        arrays = self._initial_parameters()
        b = Builder(graph)
        target = b.input("y", ("N", *y.shape[1:]), Type.of(y).dtype)
        (output,) = graph.outputs[:1]
        loss = self._loss(b, output, target, {v.name: v for v in graph.inputs if v.name in trained})
        graph.outputs, graph.output_names = [loss, *updates.values()], ["loss", *(n + NEW for n in updates)]
        order_pools(graph, Context())  # before it is differentiated: the gradients then have the smaller image as well
        both = value_and_grad(graph, wrt=trained, of="loss")
        gradients = dict(zip(trained, both.outputs[len(graph.outputs) :], strict=True))
        outputs = list(zip(both.outputs[: len(graph.outputs)], graph.output_names, strict=True))
        b = Builder(both)
        inputs = {v.name: v for v in both.inputs}
        made = self._update.append(b, {n: inputs[n] for n in trained}, gradients)
        outputs += [(value, name) for name, value in made.metrics.items()]
        outputs += [(value, name + NEW) for name, value in made.new.items()]
        initial = {**{n: arrays[n] for n in (*trained, *updates)}, **made.initial}
        both.outputs, both.output_names = [v for v, _ in outputs], [n for _, n in outputs]
        initial = {n: np.asarray(self._restored.get(n, a)) for n, a in initial.items()}
        frozen = [v for v in both.inputs if v.name in arrays and v.name not in initial]
        _freeze(both, frozen, arrays)
        self.graph = both
        replaced = {n.removesuffix(NEW): n for n in both.output_names if n.endswith(NEW)}
        self._executable = compile_graph(both, self._target, progress=self.progress, state=replaced, initial=initial)

    def _forward(self, x: np.ndarray) -> tuple[Graph, list[str], dict[str, Value]]:
        """The forward graph with parameters as inputs, names of what is trained, new values of buffers."""
        if isinstance(self.model, Module):
            found = traced(self.model.train(), {"x": ("N", *x.shape[1:])}, as_inputs=True, dtype=Type.of(x).dtype)
            names = {v.name for v in found.graph.inputs}
            trained = [n for n, p in self.model.named_parameters() if p.requires_grad and n in names]
            return found.graph, trained, found.updates
        if len(self.model.inputs) != 1:
            raise GraphError(f"{self.model.name}: a graph to train has one input, got {len(self.model.inputs)}")
        graph = self.model.copy()
        trained = [v.name for v in _trainable(graph)]
        (value,) = graph.inputs
        value.name = "x"
        value.type = value.type.with_(shape=(symbol("N"), *x.shape[1:]))
        for constant in _trainable(graph):
            constant.data = None
            graph.constants.remove(constant)
            graph.inputs.append(constant)
        return _inferred(graph), trained, {}


def _trainable(graph: Graph) -> list[Value]:
    """Floating-point constants that look like parameters: of rank 1 or more, and not a statistic of a batch norm."""
    statistics = {v for n in graph.nodes if n.op == "batch_norm" for v in n.inputs[3:]}
    return [v for v in graph.constants if v.type.rank and v.type.dtype in ("f32", "f64") and v not in statistics]


def _inferred(graph: Graph) -> Graph:
    from cnncc.ir.reshape import bind_symbols

    return bind_symbols(graph, {})


def _freeze(graph: Graph, values: Sequence[Value], arrays: Mapping[str, np.ndarray]) -> None:
    for value in values:
        graph.inputs.remove(value)
        value.data = arrays[value.name]
        graph.constants.append(value)
