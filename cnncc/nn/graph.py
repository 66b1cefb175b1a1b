"""A graph as a module: an imported network among layers, with its constants as parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.batch import free_batch
from cnncc.ir.dims import Dim, substitute_shape
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.reshape import bind_attrs
from cnncc.ir.types import Type
from cnncc.nn.module import Module, Parameter
from cnncc.nn.statistics import batch_norm
from cnncc.nn.tensor import Tensor, Trace
from cnncc.ops.registry import lookup


class GraphModule(Module):
    """The layers of a graph (from `cnncc.load_onnx`) as a module that can be trained and put among others.

    Parameters are the graph's floating-point constants of rank 1 or more, under their names (an ONNX file's
    initializers); buffers are the running statistics of its batch norms. In training, batch norms use the statistics
    of the batch and move the running ones by `momentum` towards them (their population variance, as ONNX says), and
    dropout drops; in evaluation the module computes what the graph does.

    output: names of values to end at instead of the graph's outputs; what lies behind them is left out. A graph that
    was exported for one batch size is made one for any.

        backbone = nn.GraphModule(cnncc.load_onnx("resnet18.onnx"), output="flatten_output")
        backbone.freeze("*")
        model = nn.Sequential(backbone, nn.Linear(512, 10))

    Raises GraphError where a name is not a value of the graph, or passes have made kernels of it.
    """

    def __init__(self, graph: Graph, output: str | Sequence[str] | None = None, momentum: float = 0.1):
        super().__init__()
        self.momentum = momentum
        graph = _cut(graph, output)
        if graph.inputs and all(v.type.rank and isinstance(v.type.shape[0], int) for v in graph.inputs):
            graph = free_batch(graph)
        self.graph = graph
        self._fixed_statistics: set[Node] = set()
        statistics = {v for n in graph.nodes if n.op == "batch_norm" for v in n.inputs[3:]}
        for value in graph.constants:
            if value.data is None or not value.type.rank or value.type.dtype not in ("f32", "f64"):
                continue
            if value in statistics:
                self.register_buffer(value.name, np.array(value.data))
            else:
                self.register_parameter(value.name, Parameter(np.array(value.data)))

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the graph's inputs, in the order in which `forward` takes them."""
        return tuple(v.name for v in self.graph.inputs)

    def freeze(self, *patterns: str) -> GraphModule:
        """As `Module.freeze`; a batch norm whose scale and shift are frozen keeps its running statistics."""
        super().freeze(*patterns)
        for node in self.graph.nodes:
            own = [self._parameters.get(v.name) for v in node.inputs[1:3] if v is not None]
            if node.op == "batch_norm" and all(p is not None and not p.requires_grad for p in own):
                self._fixed_statistics.add(node)
        return self

    def to_graph(self) -> Graph:
        """A copy of the graph with the present parameters and statistics as its constants."""
        copy = self.graph.copy()
        state = self.state_dict()
        for value in copy.constants:
            if value.name in state:
                value.data = state[value.name]
        return copy

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The graph's outputs. Raises GraphError where shapes do not fit."""
        if len(inputs) != len(self.graph.inputs):
            raise GraphError(
                f"{self.graph.name}: inputs are {', '.join(self.input_names) or 'none'}, got {len(inputs)} tensors"
            )
        trace = inputs[0].trace
        sizes = _sizes(self.graph, inputs)
        made: dict[Value, Tensor] = dict(zip(self.graph.inputs, inputs, strict=True))
        for value in self.graph.constants:
            item = self._parameters.get(value.name, self._buffers.get(value.name))
            assert value.data is not None
            made[value] = trace.constant(value.data, value.name) if item is None else trace.value(item)
        for node in self.graph.nodes:
            made.update(zip(node.outputs, self._append(trace, node, made, sizes), strict=True))
        results = tuple(made[v] for v in self.graph.outputs)
        return results[0] if len(results) == 1 else results

    def _append(self, trace: Trace, node: Node, made: dict[Value, Tensor], sizes: dict[str, Dim]) -> Sequence[Tensor]:
        """The results of a node, made again in another graph; batch norm and dropout in their training form."""
        xs = [None if v is None else made[v] for v in node.inputs]
        if self.training and node.op == "batch_norm" and node not in self._fixed_statistics:
            names = [None if v is None else v.name for v in node.inputs[3:]]
            running = [self._buffers.get(n) if n is not None else None for n in names]
            if all(r is not None for r in running):
                x, gamma, beta = xs[:3]
                assert x is not None
                return (batch_norm(x, gamma, beta, running, node.attrs.eps, self.momentum, unbiased=False),)
        if self.training and node.op == "dropout":
            assert xs[0] is not None
            return (trace.dropout(xs[0], node.attrs.p),)
        try:
            attrs = bind_attrs(node.attrs, sizes)
            op = lookup(node.op)
            types = op.infer_types(attrs, [None if x is None else x.value.type for x in xs])
        except GraphError as error:
            raise GraphError(f"{node.where}: {error}") from None
        graph = trace.builder.graph
        names_ = [graph.fresh_name(v.name) for v in node.outputs]
        copy = Node(node.op, [None if x is None else x.value for x in xs], attrs, types, names_, node.source)
        return [Tensor(v, trace) for v in graph.add_node(copy).outputs]

    def extra_repr(self) -> str:
        return f"{self.graph.name}, {len(self.graph.nodes)} operations"


def _cut(graph: Graph, output: str | Sequence[str] | None) -> Graph:
    """A copy of the graph that ends at the named values, its constants under their own names."""
    copy = graph.copy()
    if any(n.body is not None for n in copy.nodes):
        raise GraphError(f"{graph.name}: kernels cannot be trained; give the graph from before passes ran")
    if output is None:
        return copy
    named = {v.name: v for v in copy.values()} | dict(zip(copy.output_names, copy.outputs, strict=True))
    wanted = (output,) if isinstance(output, str) else tuple(output)
    unknown = [n for n in wanted if n not in named]
    if unknown:
        import difflib

        close = difflib.get_close_matches(unknown[0], named)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise GraphError(f"{graph.name}: there is no value '{unknown[0]}'{hint}")
    copy.outputs, copy.output_names = [named[n] for n in wanted], list(wanted)
    copy.tidy()
    copy.inputs = [v for v in copy.inputs if copy.uses(v)]
    return copy


def _sizes(graph: Graph, inputs: Sequence[Tensor]) -> dict[str, Dim]:
    """What each symbol of the graph is in the types of the inputs."""
    sizes: dict[str, Dim] = {}
    for value, tensor in zip(graph.inputs, inputs, strict=True):
        own, given = value.type, tensor.value.type
        _check_type(graph, value, given)
        for axis, (d, e) in enumerate(zip(own.shape, given.shape, strict=True)):
            if isinstance(d, int) or not d.is_Symbol:
                continue
            if sizes.setdefault(d.name, e) != e:
                raise GraphError(f"input '{value.name}' axis {axis}: {d} is {sizes[d.name]} elsewhere, got {e}")
    for value, tensor in zip(graph.inputs, inputs, strict=True):
        wanted = substitute_shape(value.type.shape, sizes)
        if wanted != tensor.shape:
            text = "x".join(map(str, value.type.shape)), "x".join(map(str, tensor.shape))
            raise GraphError(f"{graph.name}: input '{value.name}' must be {text[0]}, got {text[1]}")
    return sizes


def _check_type(graph: Graph, value: Value, given: Type) -> None:
    if given.dtype != value.type.dtype or given.rank != value.type.rank:
        raise GraphError(f"{graph.name}: input '{value.name}' must be {value.type}, got {given}")
