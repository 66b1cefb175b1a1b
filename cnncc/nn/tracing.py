"""From a module to a graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.dtype import short_name
from cnncc.ir.graph import Graph, Value
from cnncc.ir.types import Type
from cnncc.nn.module import Module
from cnncc.nn.tensor import RANDOM, Tensor, Trace


@dataclass
class Traced:
    """A traced module: the graph, and (for training) new values of buffers by dotted name."""

    graph: Graph
    updates: dict[str, Value]


def trace(module: Module, shapes: Any, dtype: str = "f32") -> Graph:
    """The graph of a module for inputs of the given shapes, parameters as constants.

    shapes: {"x": (1, 3, 224, 224)}, a sequence of shapes, or one shape; a string is a symbolic dimension ("N"). Types
    and arrays may stand for shapes.
    """
    return traced(module, shapes, as_inputs=False, dtype=dtype).graph


def traced(module: Module, shapes: Any, as_inputs: bool, dtype: str = "f32") -> Traced:
    """As `trace`; with as_inputs, parameters and buffers are graph inputs under their dotted names."""
    named = _named(module, shapes)
    context = Trace(module, type(module).__name__, as_inputs)
    inputs = []
    for name, spec in named.items():
        shape, kind = spec, dtype
        if isinstance(spec, np.ndarray):
            shape, kind = spec.shape, short_name(spec.dtype)
        elif isinstance(spec, Type):
            shape, kind = spec.shape, spec.dtype
        inputs.append(Tensor(context.builder.input(name, shape, kind), context))
    result = module(*inputs)
    outputs = result if isinstance(result, (tuple, list)) else (result,)
    for k, tensor in enumerate(outputs):
        if not isinstance(tensor, Tensor):
            raise GraphError(f"{type(module).__name__}.forward must return tensors, got {type(tensor).__name__}")
        context.builder.output(tensor.value, "output" if len(outputs) == 1 else f"output{k}")
    return Traced(context.builder.finish(), context.updates)


@contextlib.contextmanager
def in_mode(module: Module, training: bool) -> Iterator[None]:
    """Inside, the module is in evaluation mode, or in training mode: what is in evaluation mode within a module in
    training mode stays so. Afterwards it is as it was."""
    before = [(m, m.training) for _, m in module.named_modules()]
    if module.training != training:
        module.train(training)
    if not training:
        module.eval()
    try:
        yield
    finally:
        for m, mode in before:
            object.__setattr__(m, "training", mode)


def run(module: Module, arrays: Sequence[np.ndarray]) -> Any:
    """Trace a module for some arrays and run it with the interpreter; in training mode its buffers move."""
    from cnncc.interpret import interpret

    found = traced(module, list(arrays), as_inputs=False)
    graph, count = found.graph, len(found.graph.outputs)
    moved = {name: value for name, value in found.updates.items() if name != RANDOM}
    graph.outputs, graph.output_names = [*graph.outputs, *moved.values()], [*graph.output_names, *moved]
    results = list(interpret(graph, dict(zip((v.name for v in graph.inputs), arrays, strict=True))).values())
    if moved:
        module.load_state_dict({**module.state_dict(), **dict(zip(moved, results[count:], strict=True))})
    return results[0] if count == 1 else tuple(results[:count])


def _named(module: Module, shapes: Any) -> Mapping[str, Any]:
    if isinstance(shapes, Mapping):
        return shapes
    if shapes is None:
        raise GraphError(f"{type(module).__name__}: a module needs shapes={{'x': (1, 3, 224, 224)}} for its inputs")
    if all(isinstance(d, (int, str)) for d in shapes):
        shapes = [shapes]
    names = module.input_names
    if len(names) < len(shapes):
        names = tuple(f"x{k}" for k in range(len(shapes))) if len(shapes) > 1 else ("x",)
    return dict(zip(names, shapes, strict=False))
