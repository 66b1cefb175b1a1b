"""Reverse-mode differentiation: a forward graph and a scalar --> a graph with gradients, in the same IR.

The driver knows no operation. Each op's rule (`grad` in the op table) gives the gradients of a node's operands from
those of its results as new graph operations; it may leave them at a broadcast shape. The driver walks the nodes
backwards, sums the contributions of several uses, and brings every gradient to its value's own shape:

    y = f(x, ...)   -->   dx = sum over the uses of x of (dL/dy)(dy/dx)          (L the scalar, dx short for dL/dx)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnncc.builder import Builder
from cnncc.errors import GraphError, UnsupportedError
from cnncc.ir.dims import shape_text
from cnncc.ir.dtype import is_float
from cnncc.ir.graph import Graph, Node, Value, rebuild
from cnncc.ops.registry import lookup

Name = str | Value
Losses = Name | Sequence[Name] | Mapping[Name, float]


class GradRule:
    """What a gradient rule sees: the node, the gradients of its results, and a builder that appends operations."""

    def __init__(self, b: Builder, node: Node, dys: tuple[Value | None, ...], needed: Sequence[bool]):
        self.b = b
        self.node = node
        self.inputs = node.inputs
        self.outputs = node.outputs
        self.attrs = node.attrs
        self.dys = dys
        self._needed = tuple(needed)

    @property
    def dy(self) -> Value | None:
        """The gradient of the first result."""
        return self.dys[0]

    def needs(self, k: int) -> bool:
        """Whether operand k needs a gradient."""
        return self._needed[k]


def grad(
    graph: Graph, wrt: Sequence[Name] | None = None, of: Losses | None = None, *, keep_outputs: bool = False
) -> Graph:
    """The graph that computes the gradients of one scalar, or of a sum of several.

    wrt: names (or values) of inputs, constants or intermediate results; None: every floating-point input.
    of: name of a scalar output (or any scalar value); several: the gradients are those of their sum, weighted where
    a mapping gives weights; None: the only output. Nothing flows back through `stop_gradient`.
    The result has the same inputs, and outputs ``grad_<name>`` in the order of `wrt`, after the outputs of `graph`
    where `keep_outputs`. Raises GraphError where names are unknown or `of` is no floating-point scalar,
    UnsupportedError naming every operation in between that has no gradient.
    """
    tape = _Tape(graph)
    seeds: dict[Value, Value] = {}
    for name, weight in _losses(graph, of):
        target = tape.find(name)
        type_ = target.type
        if not is_float(type_.dtype) or any(d != 1 for d in type_.shape):
            raise GraphError(
                f"%{target.name}: gradients are of a floating-point scalar, got {type_}; reduce it "
                "(reduce_sum, reduce_mean), or use vjp, which takes the gradient of the result as an input"
            )
        seed = tape.b.constant(np.full([1] * type_.rank, weight, type_.numpy))
        seeds[target] = seed if target not in seeds else tape.b.add(seeds[target], seed)
    return tape.finish(_default(graph, wrt), seeds, keep_outputs)


def value_and_grad(graph: Graph, wrt: Sequence[Name] | None = None, of: Losses | None = None) -> Graph:
    """`grad` with the outputs of the graph in front of the gradients."""
    return grad(graph, wrt, of, keep_outputs=True)


def vjp(
    graph: Graph,
    wrt: Sequence[Name] | None = None,
    of: Sequence[Name] | None = None,
    *,
    keep_outputs: bool = False,
) -> Graph:
    """Gradients from gradients: like `grad` for results of any shape, each with a new input ``d_<name>`` for its own.

    of: names of outputs (or any values); None: every floating-point output. An input ``d_<name>`` that the graph has
    already is used. The gradients are those of the sum of all results times their ``d_<name>``.
    """
    tape = _Tape(graph)
    chosen = [n for n, v in _outputs(graph) if is_float(v.type.dtype)] if of is None else list(of)
    seeds: dict[Value, Value] = {}
    for name in chosen:
        target = tape.find(name)
        if not is_float(target.type.dtype):
            raise GraphError(f"%{target.name}: gradients are of floating-point values, got {target.type}")
        label = "d_" + (name if isinstance(name, str) else name.name)
        given = next((v for v in tape.graph.inputs if v.name == label), None)
        type_ = target.type.plain
        if given is not None and given.type != type_:
            raise GraphError(f"input '{label}' must have the type of its value, {type_}, got {given.type}")
        seed = given if given is not None else tape.graph.add_input(label, type_)
        seeds[target] = seed if target not in seeds else tape.b.add(seeds[target], seed)
    return tape.finish(_default(graph, wrt), seeds, keep_outputs)


def _losses(graph: Graph, of: Losses | None) -> list[tuple[Name, float]]:
    """What is differentiated, with weights."""
    if of is None:
        return [(_only_output(graph), 1.0)]
    if isinstance(of, (str, Value)):
        return [(of, 1.0)]
    if not len(of):
        raise GraphError(f"{graph.name}: say which output to differentiate (of=...), got none")
    return [(n, float(w)) for n, w in of.items()] if isinstance(of, Mapping) else [(n, 1.0) for n in of]


def _default(graph: Graph, wrt: Sequence[Name] | None) -> list[Name]:
    return [v for v in graph.inputs if is_float(v.type.dtype)] if wrt is None else list(wrt)


def _outputs(graph: Graph) -> list[tuple[str, Value]]:
    return list(zip(graph.output_names, graph.outputs, strict=True))


def _only_output(graph: Graph) -> str:
    if len(graph.outputs) != 1:
        raise GraphError(f"{graph.name}: say which output to differentiate (of=...), there are {graph.output_names}")
    return graph.output_names[0]


class _GradBuilder(Builder):
    """A builder whose nodes carry the name of the node that they differentiate."""

    source = ""

    def op(self, name: str, *operands: Any, source: str = "", hint: str = "", **attributes: Any) -> Any:
        return super().op(name, *operands, source=source or self.source, hint=hint, **attributes)


class _Tape:
    """A copy of the graph that gradients are appended to."""

    def __init__(self, graph: Graph):
        self.original = graph
        self.graph, self.copies = rebuild(graph)
        self.b = _GradBuilder(self.graph)
        self.grads: dict[Value, Value] = {}

    def find(self, name: Name) -> Value:
        """The copy of a value of the graph, given itself or by name (public names of outputs first)."""
        if isinstance(name, Value):
            if name not in self.copies:
                raise GraphError(f"%{name.name} is not a value of {self.original.name}")
            return self.copies[name]
        for public, value in _outputs(self.graph):
            if public == name:
                return value
        for value in self.graph.values():
            if value.name == name:
                return value
        inputs = ", ".join(v.name for v in self.graph.inputs)
        raise GraphError(
            f"{self.original.name}: there is no value '{name}'; inputs are {inputs}, outputs "
            f"{', '.join(self.graph.output_names)}"
        )

    def finish(self, wrt: Sequence[Name], seeds: dict[Value, Value], keep_outputs: bool) -> Graph:
        """Append the gradients, and make them outputs."""
        targets = [self._variable(name) for name in wrt]
        self._backward([v for _, v in targets], seeds)
        if not keep_outputs:
            self.graph.outputs, self.graph.output_names = [], []
        for label, value in targets:
            found = self.grads.get(value)
            self.graph.add_output(self._zeros(value) if found is None else found, "grad_" + label)
        self.graph.tidy()
        return self.b.finish()

    def _variable(self, name: Name) -> tuple[str, Value]:
        value = self.find(name)
        if not is_float(value.type.dtype):
            raise GraphError(f"%{value.name}: only floating-point values have gradients, got {value.type}")
        return name if isinstance(name, str) else name.name, value

    def _zeros(self, value: Value) -> Value:
        """The gradient of a value that the scalar does not depend on."""
        result: Value = self.b.expand(self.b.constant(np.zeros((), value.type.numpy)), shape=value.type.shape)
        return result

    def _backward(self, wrt: Sequence[Value], seeds: dict[Value, Value]) -> None:
        active = _dependents(self.graph, wrt)
        path = _path(self.graph, active, seeds)
        _check_rules(path)
        for value, seed in seeds.items():
            if value in active:
                self._add(value, seed)
        for node in reversed(path):
            dys = tuple(self.grads.get(v) for v in node.outputs)
            if all(d is None for d in dys):
                continue  # rules of its users gave nothing
            self.b.source = f"grad of {node.source or '%' + node.outputs[0].name}"
            self._apply(node, dys, active)
        self.b.source = ""

    def _apply(self, node: Node, dys: tuple[Value | None, ...], active: set[Value]) -> None:
        rule = lookup(node.op).grad
        assert rule is not None
        needed = [v is not None and v in active for v in node.inputs]
        try:
            contributions = rule(GradRule(self.b, node, dys, needed))
        except GraphError as error:
            raise GraphError(f"gradient of {node.where}: {error}") from None
        assert len(contributions) == len(node.inputs), f"{node.op}: a gradient per operand"
        for value, contribution, wanted in zip(node.inputs, contributions, needed, strict=True):
            if value is not None and wanted and contribution is not None:
                self._add(value, contribution)

    def _add(self, value: Value, contribution: Value) -> None:
        d = self._fit(contribution, value)
        known = self.grads.get(value)
        self.grads[value] = total = d if known is None else self.b.add(known, d)
        if total.node is not None and total.name.isdigit():  # made here: gradients are named after their values
            total.name = self.graph.fresh_name(f"d_{value.name}")

    def _fit(self, d: Value, value: Value) -> Value:
        """A gradient at a shape that the value broadcasts to (or that broadcasts to the value's) --> the value's."""
        wanted, have = value.type.shape, d.type.shape
        assert d.type.dtype == value.type.dtype, f"gradient of {value!r} has type {d.type}"
        extra, missing = max(len(have) - len(wanted), 0), max(len(wanted) - len(have), 0)
        aligned = (*(1,) * extra, *wanted[missing:])
        axes = tuple(a for a, (h, w) in enumerate(zip(have, aligned, strict=True)) if a < extra or (w == 1 and h != 1))
        if axes:
            d = self.b.reduce_sum(d, axes=axes, keepdims=not extra)
            if extra and d.type.shape != wanted:
                d = self.b.reshape(d, shape=wanted)
        if d.type.shape != wanted:
            d = self.b.expand(d, shape=wanted)
        assert d.type.shape == wanted, f"gradient of {value!r} has shape {shape_text(d.type.shape)}"
        return d


def _dependents(graph: Graph, wrt: Sequence[Value]) -> set[Value]:
    """Floating-point values that depend on some of `wrt` through floating-point values."""
    active = set(wrt)
    for node in graph.nodes:
        if any(v in active for v in node.operands()):
            active.update(v for v in node.outputs if is_float(v.type.dtype))
    return active


def _path(graph: Graph, active: set[Value], seeds: dict[Value, Value]) -> list[Node]:
    """Nodes between `wrt` and the values that are differentiated, in order."""
    wanted = {v for v in seeds if v in active}
    path = []
    for node in reversed(graph.nodes):
        if any(v in wanted for v in node.outputs):
            path.append(node)
            wanted.update(v for v in node.operands() if v in active)
    return path[::-1]


def _check_rules(path: Sequence[Node]) -> None:
    missing = []
    for node in path:
        if node.body is not None:
            missing.append(f"{node.where}: it is a fused kernel; differentiate before kernels are made")
        elif lookup(node.op).grad is None:
            missing.append(f"{node.where}: {lookup(node.op).no_grad}")
    if missing:
        raise UnsupportedError("these operations have no gradient:\n  " + "\n  ".join(missing))
