"""TrainStep: one call is one update of the parameters, which live in the compiled program and change in place."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.builder import Builder
from cnncc.driver import Progress, compile, compile_graph
from cnncc.errors import GraphError
from cnncc.ir.graph import Graph, Value
from cnncc.losses import Loss, find_loss
from cnncc.nn.graph import GraphModule
from cnncc.nn.init import new_random
from cnncc.nn.module import Module
from cnncc.nn.tensor import RANDOM
from cnncc.nn.tracing import in_mode, trace
from cnncc.optim import Optimizer
from cnncc.runtime.state import State
from cnncc.targets.machine import find_target
from cnncc.targets.target import Target
from cnncc.train.batch import Batch, BatchTypes
from cnncc.train.graphs import (
    Measures,
    StepGraph,
    evaluation_graph,
    fix,
    prediction_graph,
    training_graph,
)
from cnncc.train.metrics import Metric, find_metrics
from cnncc.train.update import BATCHES, HYPER, Update

if TYPE_CHECKING:
    from cnncc.runtime.executable import Executable


class TrainStep:
    """`step(x, y)` runs forward, loss, backward and the optimizer's update, and returns {"loss": float, ...}.

    model: a cnncc.nn module (its modes are as under `train()`; what was put into evaluation mode inside of it stays
        there), or a Graph from ONNX, which is trained as `cnncc.nn.GraphModule(graph)`.
    loss: a name ("cross_entropy"), a record of cnncc.losses, or a function (builder, output, target) -> scalar value;
        where there are several outputs or targets it gets tuples.
    optimizer: cnncc.optim.SGD(...); its hyperparameters may be changed between steps, which compiles nothing.
    clip_norm, clip_value: bounds of the gradients. accumulate: so many batches make one update. See
        `cnncc.train.update` for both.
    metrics: what is returned beside the loss: "accuracy", "top5", ... (`cnncc.train.metrics`), or functions like a
        loss; a mapping gives them names.
    seed: of dropout; left out, drawn from the generator that `cnncc.nn.manual_seed` seeds.

    x is an array, a tuple of them or a dict by the names of the model's inputs; y an array, a tuple, or None. The first
    call fixes the shapes except the batch, and compiles; another batch size compiles nothing.
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
        accumulate: int = 1,
        *,
        metrics: Sequence[str | Metric] | Mapping[str, str | Metric] = (),
        seed: int | None = None,
    ):
        check_arguments(model, optimizer)
        self.model = model
        self.module = GraphModule(model) if isinstance(model, Graph) else model
        self.optimizer = optimizer
        self.progress = Progress()
        self._update = Update(optimizer, clip_norm, clip_value, accumulate)
        self._measures = Measures(find_loss(loss), find_metrics(metrics))
        self._target = find_target(target, threads)
        self._random = new_random(seed)
        self._executable: Executable | None = None
        self._second: Executable | None = None  # makes the update from accumulated gradients, on the same state
        self._made: StepGraph | None = None
        self._types: BatchTypes | None = None
        self._others: dict[str, tuple[StepGraph, Executable]] = {}
        self._arrays: dict[str, np.ndarray] = {}  # what is not in the executable's state

    def __call__(self, x: Any, y: Any = None) -> dict[str, float]:
        """One update on a batch: x [N, ...], y [N, ...] (labels for cross_entropy). Raises GraphError where shapes
        differ from the first batch's in more than N."""
        self.prepare(x, y)
        return self.run(self.feeds(x, y))

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, float]:
        """A step on what `feeds` gave. Equal feeds on equal state give equal bits."""
        assert self._executable is not None, "call prepare first"
        if self._second is None:
            return _scalars(self._executable.run(feeds))
        results = self._executable.run({name: array for name, array in feeds.items() if name != HYPER})
        if self._executable.state[BATCHES] >= self._update.accumulate:
            results.update(self._second.run({HYPER: feeds[HYPER]}))
        return _scalars(results)

    def prepare(self, x: Any, y: Any = None) -> None:
        """Compile for batches like this one, where that is not done yet; no step is made. Raises GraphError where the
        step is compiled for others."""
        self._batch(x, y)
        if self._executable is None:
            self._compile()

    def feeds(self, x: Any, y: Any = None) -> dict[str, np.ndarray]:
        """The inputs of the step's graphs that are not state, by name, with the hyperparameters as they are now."""
        assert self._made is not None, "call prepare first"
        batch = self._batch(x, y)
        more = self._update.feeds(len(batch.inputs[0]))
        return {**self._named(self._made, batch), **more, **self._update.hyperparameters()}

    def evaluate(self, x: Any, y: Any = None) -> dict[str, float]:
        """Loss and metrics of a batch in evaluation mode, with the present parameters; updates nothing."""
        return self.assess(x, y)[0]

    def assess(self, x: Any, y: Any = None) -> tuple[dict[str, float], Any]:
        """`evaluate`, and the model's output (a tuple where it has several) with it."""
        batch = self._batch(x, y)
        made, executable = self._other("assess")
        results = executable.run(self._named(made, batch))
        measured = _scalars({name: results.pop(name) for name in made.measured})
        return measured, _one_or_all(results)

    def predict(self, x: Any) -> Any:
        """The model's output on a batch in evaluation mode, with the present parameters; a tuple where it has several.

        It runs on the parameters where they lie. `compile_inference` gives something faster that stays as it is.
        """
        inputs = Batch.of(x, None, self.module.input_names).inputs
        if self._types is None:
            self._types = BatchTypes(Batch(inputs, ()).types.inputs, ())
        made, executable = self._other("predict")
        return _one_or_all(executable.run(self._named(made, Batch(inputs, ()))))

    @property
    def graph(self) -> Graph | None:
        """The whole step as it was compiled, before any pass; None before."""
        return None if self._made is None else self._made.graph

    @property
    def update_graph(self) -> Graph | None:
        """Where gradients are accumulated: the update that follows some of the steps. Else it is part of `graph`."""
        return None if self._made is None or self._made.second is None else self._made.second.graph

    @property
    def executable(self) -> Executable | None:
        """The compiled step, None before the first call."""
        return self._executable

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all that a run continues from: parameters and buffers under torch's names, optimizer state as
        ``<parameter>.<slot>`` and the state of dropout's random numbers beside them."""
        state = {**self.module.state_dict(), **{name: array.copy() for name, array in self._arrays.items()}}
        if self._executable is not None:
            state.update(self._executable.state)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave, or the parameters and buffers of a torch module alone.

        Frozen parameters are constants of the compiled step: where they differ, the next call compiles. Raises
        GraphError listing the names and shapes that do not fit, and parameters and buffers that are missing.
        """
        given = {name: _array(value) for name, value in state.items()}
        self._check(given)
        live = {} if self._executable is None else self._executable.state
        changed = {n: a for n, a in given.items() if n not in live}
        if self._executable is not None and any(not _same(self._value(n), a) for n, a in changed.items()):
            self._arrays = {**self.state_dict(), **given}
            self._executable, self._made = None, None
            self._others = {}
            return
        self._arrays.update(changed)
        if self._executable is None:
            self._others = {}  # they hold the former values as constants
        for name in given:
            if name in live:
                live[name] = given[name]

    def sync(self) -> Module | Graph:
        """The model with the trained parameters: the module itself (updated), or a new graph."""
        state = self.state_dict()
        own = self.module.state_dict()
        self.module.load_state_dict({name: state[name] for name in own})
        return self.module.to_graph() if isinstance(self.model, Graph) else self.model

    # -- afterwards ----------------------------------------------------------------------------------------------------

    def inference_graph(self) -> Graph:
        """The model in evaluation mode with the present parameters as constants, for `cnncc.compile` and
        `cnncc.to_onnx`; the batch is symbolic. The module gets the parameters, too (`sync`)."""
        model = self.sync()
        if isinstance(model, Graph):
            return model
        if self._types is None:
            raise GraphError(f"{type(model).__name__}: run a step first, which tells the shapes of the inputs")
        names = self.module.input_names
        if len(names) < len(self._types.inputs):
            names = ("x",) if len(self._types.inputs) == 1 else tuple(f"x{k}" for k in range(len(self._types.inputs)))
        with in_mode(model, training=False):
            return trace(model, dict(zip(names, self._types.inputs, strict=False)))

    def compile_inference(self, **options: Any) -> Executable:
        """The trained model compiled for inference (batch norms folded, weights packed); options as `cnncc.compile`."""
        options.setdefault("target", self._target)
        return compile(self.inference_graph(), **options)

    def to_onnx(self, path: str | os.PathLike[str] | None = None) -> Any:
        """The trained model as an ONNX model, as `cnncc.to_onnx`."""
        from cnncc.edges.onnx_export import to_onnx

        return to_onnx(self.inference_graph(), path)

    # -- compilation ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _named(made: StepGraph, batch: Batch) -> dict[str, np.ndarray]:
        return dict(zip(made.feeds, (*batch.inputs, *batch.targets), strict=True))

    def _batch(self, x: Any, y: Any) -> Batch:
        batch = Batch.of(x, y, self.module.input_names)
        types = batch.types
        if self._types is None or (self._executable is None and self._types.inputs == types.inputs):
            self._types = types
        elif types != self._types:
            raise GraphError(f"step: batches must be like the first one, {self._types}, got {types}")
        return batch

    def _all(self) -> dict[str, np.ndarray]:
        """Parameters, buffers and the random state as they are now."""
        return {RANDOM: self._random, **self.state_dict()}

    def _compile(self) -> None:
        assert self._types is not None
        self._others = {}
        arrays = self._all()
        names = (*self.module.state_dict(), RANDOM)
        made = training_graph(self.module, self._types, {n: arrays[n] for n in names}, self._measures, self._update)
        unknown = [n for n in self._arrays if n not in made.initial and n not in names]
        if unknown:
            raise GraphError(f"load_state_dict: the model and its optimizer have no {', '.join(unknown)}")
        initial = {name: np.asarray(self._arrays.get(name, a), a.dtype) for name, a in made.initial.items()}
        for name, array in made.initial.items():
            if initial[name].shape != array.shape:
                raise GraphError(f"load_state_dict: {name}: shape must be {array.shape}, got {initial[name].shape}")
        state = None if made.second is None else State(initial)
        self._executable, self._second = (
            None
            if g is None
            else compile_graph(
                g.graph, self._target, progress=self.progress, state=g.replaced, initial=initial, shared=state
            )
            for g in (made, made.second)
        )
        self._made = made
        self._arrays = {n: a for n, a in self._arrays.items() if n not in initial}

    def _other(self, kind: str) -> tuple[StepGraph, Executable]:
        """The executable for evaluation or prediction, on the state of the step's."""
        if kind not in self._others:
            assert self._types is not None
            arrays = self._all()
            if kind == "assess":
                made = evaluation_graph(self.module, self._types, arrays, self._measures, self._update)
            else:
                made = prediction_graph(self.module, self._types, arrays)
            shared = None if self._executable is None else self._executable.state
            fix(made.graph, {n: a for n, a in arrays.items() if shared is None or n not in shared})
            self._others[kind] = made, compile_graph(made.graph, self._target, progress=self.progress, shared=shared)
        return self._others[kind]

    def _value(self, name: str) -> np.ndarray | None:
        return self._arrays.get(name, self.module.state_dict().get(name))

    def _check(self, given: Mapping[str, np.ndarray]) -> None:
        own: dict[str, Any] = dict(self.module.state_dict())
        problems = [f"missing {n}" for n in own if n not in given]
        if self._executable is not None:
            own.update(self._executable.state)
            problems += [f"unexpected {n}" for n in given if n not in own and n != RANDOM]
        for name, array in given.items():
            if name in own and array.shape != own[name].shape:
                problems.append(f"{name}: shape must be {own[name].shape}, got {array.shape}")
        if problems:
            raise GraphError(f"load_state_dict: {'; '.join(problems)}")


def check_arguments(model: Any, optimizer: Any) -> None:
    """Raises GraphError where a step cannot be made of these, with what to give instead."""
    if not isinstance(model, (Module, Graph)):
        raise GraphError(
            "a training step's model must be a cnncc.nn module or a graph (an ONNX file: cnncc.load_onnx(path, "
            f"training=True); a torch module: its ONNX export), got {type(model).__name__}"
        )
    if not isinstance(optimizer, Optimizer):
        got = optimizer.__name__ if isinstance(optimizer, type) else repr(optimizer)
        raise GraphError(f"a training step's optimizer must be e.g. cnncc.optim.SGD(lr=0.1), got {got}")


def _scalars(results: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: float(value) for name, value in results.items()}


def _one_or_all(results: Mapping[str, np.ndarray]) -> Any:
    arrays = tuple(results.values())
    return arrays[0] if len(arrays) == 1 else arrays


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)


def _same(old: np.ndarray | None, new: np.ndarray) -> bool:
    return old is not None and old.dtype == new.dtype and bool(np.array_equal(old, new, equal_nan=True))
