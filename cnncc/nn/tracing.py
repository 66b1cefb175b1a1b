"""From a module to a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.dtype import short_name
from cnncc.ir.graph import Graph, Value
from cnncc.nn.module import Module
from cnncc.nn.tensor import Tensor, Trace


@dataclass
class Traced:
    """A traced module: the graph, and (for training) new values of buffers by dotted name."""

    graph: Graph
    updates: dict[str, Value]


def trace(module: Module, shapes: Any, dtype: str = "f32") -> Graph:
    """The graph of a module for inputs of the given shapes, parameters as constants.

    shapes: {"x": (1, 3, 224, 224)}, a sequence of shapes, or one shape; a string is a symbolic dimension ("N").
    """
    return traced(module, shapes, as_inputs=False, dtype=dtype).graph


def traced(module: Module, shapes: Any, as_inputs: bool, dtype: str = "f32") -> Traced:
    """As `trace`; with as_inputs, parameters and buffers are graph inputs under their dotted names."""
    named = _named(module, shapes)
    context = Trace(module, type(module).__name__, as_inputs)
    inputs = []
    for name, spec in named.items():
        shape, kind = (spec.shape, short_name(spec.dtype)) if isinstance(spec, np.ndarray) else (spec, dtype)
        inputs.append(Tensor(context.builder.input(name, shape, kind), context))
    result = module(*inputs)
    outputs = result if isinstance(result, (tuple, list)) else (result,)
    for k, tensor in enumerate(outputs):
        if not isinstance(tensor, Tensor):
            raise GraphError(f"{type(module).__name__}.forward must return tensors, got {type(tensor).__name__}")
        context.builder.output(tensor.value, "output" if len(outputs) == 1 else f"output{k}")
    return Traced(context.builder.finish(), context.updates)


def run(module: Module, arrays: Sequence[np.ndarray]) -> Any:
    """Trace a module for some arrays and run it with the interpreter."""
    from cnncc.interpret import interpret

    graph = traced(module, list(arrays), as_inputs=False).graph
    results = interpret(graph, dict(zip((v.name for v in graph.inputs), arrays, strict=True)))
    values = tuple(results.values())
    return values[0] if len(values) == 1 else values


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
