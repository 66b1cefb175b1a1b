"""Updates alone: parameters and optimizer state that change by given gradients, interpreted or compiled."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cnncc.builder import Builder
from cnncc.driver import compile_graph
from cnncc.interpret import interpret
from cnncc.ir.types import Type
from cnncc.targets.machine import find_target
from cnncc.train.update import Update

NEW = ".next"


class Updating:
    """`step(gradients)` makes one update of arrays by name; `state` holds them and the optimizer's state."""

    def __init__(self, update: Update, parameters: Mapping[str, np.ndarray], compiled: bool = False) -> None:
        self.update = update
        b = Builder("update")
        trained = update.trained(parameters)
        types = {n: Type.of(parameters[n]) for n in trained}
        weights = {n: b.input(n, t.shape, t.dtype) for n, t in types.items()}
        gradients = {n: b.input(f"d_{n}", t.shape, t.dtype) for n, t in types.items()}
        made = update.append(b, weights, gradients)
        for name, value in made.metrics.items():
            b.output(value, name)
        for name, value in made.new.items():
            b.output(value, name + NEW)
        self.graph = b.finish()
        self.state = {**parameters, **made.initial}
        self._executable = None
        if compiled:
            replaced = {n: n + NEW for n in made.new}
            initial = {n: self.state[n] for n in made.new}
            self._executable = compile_graph(self.graph, find_target("native", 1), state=replaced, initial=initial)

    def step(self, gradients: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One update; gives the metrics."""
        names = {v.name for v in self.graph.inputs}
        feeds = {**{f"d_{n}": g for n, g in gradients.items() if f"d_{n}" in names}, **self.update.hyperparameters()}
        if self._executable is not None:
            result = self._executable.run(feeds)
            self.state.update({n: self._executable.state[n] for n in self._executable.state})
            return dict(result)
        result = interpret(self.graph, {**feeds, **{n: a for n, a in self.state.items() if n in names}})
        self.state.update({n.removesuffix(NEW): a for n, a in result.items() if n.endswith(NEW)})
        return {n: a for n, a in result.items() if not n.endswith(NEW)}
