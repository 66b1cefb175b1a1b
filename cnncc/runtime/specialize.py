"""Models with symbolic sizes other than the batch: compiled for each size on first use, a limited number kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.dims import symbols_of
from cnncc.ir.graph import Graph
from cnncc.ir.reshape import bind_shapes
from cnncc.runtime.executable import Argument, Executable

KEPT = 8


def open_symbols(graph: Graph) -> frozenset[str]:
    """Symbols that kernels cannot keep symbolic: all but one that is only ever the leading dimension of inputs."""
    leading = {s for v in graph.inputs for s in symbols_of(v.type.shape[:1])}
    inner = {s for v in graph.inputs for s in symbols_of(v.type.shape[1:])}
    batch = sorted(leading - inner)[:1]
    return frozenset((leading | inner) - set(batch))


class Specializing:
    """Looks like an Executable; holds one per combination of sizes, the KEPT most recently used ones."""

    def __init__(self, graph: Graph, build: Callable[[Graph], Executable]):
        self.graph = graph
        self._build = build
        self._open = open_symbols(graph)
        self._made: OrderedDict[tuple[int, ...], Executable] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def inputs(self) -> tuple[Argument, ...]:
        """Inputs with symbolic sizes by name."""
        return tuple(Argument(v.name, _shape(v.type.shape), v.type.numpy.name) for v in self.graph.inputs)

    @property
    def outputs(self) -> tuple[Argument, ...]:
        """Outputs with symbolic sizes as formulas."""
        pairs = zip(self.graph.outputs, self.graph.output_names, strict=True)
        return tuple(Argument(name, _shape(v.type.shape), v.type.numpy.name) for v, name in pairs)

    def specialized(self, shapes: Mapping[str, tuple[int, ...]]) -> Executable:
        """The executable for input shapes, compiled on first use. Raises GraphError where shapes do not fit."""
        fixed: dict[str, list[int | str]] = {}
        key: list[int] = []
        for value in self.graph.inputs:
            if value.name not in shapes:
                raise GraphError(
                    f"input '{value.name}' is missing; inputs are {', '.join(v.name for v in self.graph.inputs)}"
                )
            given = shapes[value.name]
            if len(given) != value.type.rank:
                raise GraphError(f"input '{value.name}': rank must be {value.type.rank}, got {len(given)}")
            row: list[int | str] = []
            for size, dim in zip(given, value.type.shape, strict=True):
                symbolic = not isinstance(dim, int) and not set(symbols_of([dim])) & self._open
                row.append(str(dim) if symbolic else size)
                key.append(0 if symbolic else size)
            fixed[value.name] = row
        with self._lock:
            executable = self._made.get(tuple(key))
            if executable is None:
                executable = self._build(bind_shapes(self.graph, fixed))
                self._made[tuple(key)] = executable
                while len(self._made) > KEPT:
                    self._made.popitem(last=False)
            self._made.move_to_end(tuple(key))
        return executable

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """As Executable.run."""
        return self.specialized({k: tuple(np.shape(v)) for k, v in feeds.items()}).run(feeds)

    def __call__(self, *arrays: Any, out: Any = None) -> Any:
        """As Executable.__call__."""
        names = [v.name for v in self.graph.inputs]
        if len(arrays) != len(names):
            raise GraphError(f"the model takes {len(names)} inputs ({', '.join(names)}), got {len(arrays)}")
        return self.specialized({k: tuple(np.shape(v)) for k, v in zip(names, arrays, strict=True)})(*arrays, out=out)

    @property
    def made(self) -> tuple[Executable, ...]:
        """The executables kept, least recently used first."""
        return tuple(self._made.values())

    def __getattr__(self, name: str) -> Any:
        if name in ("save", "report", "peak_memory", "memory", "profile", "program", "state", "clone"):
            sizes = ", ".join(sorted(self._open))
            raise GraphError(
                f"{name}: the model is compiled for each size on first use, because of its symbols {sizes}; "
                "fix them (shapes=...), or ask the executable of one size: exe.specialized({'input': shape})"
            )
        raise AttributeError(f"Specializing has no attribute {name!r}")


def _shape(shape: tuple[Any, ...]) -> tuple[int | str, ...]:
    return tuple(d if isinstance(d, int) else str(d) for d in shape)
