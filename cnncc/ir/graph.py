"""The graph: typed values in single-assignment form, operations in topological order.

Graphs are built with `cnncc.Builder`, rewritten by passes (which copy first) and never change once handed out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnncc.ir.types import Type


@dataclass(frozen=True)
class Rows:
    """The elements of a constant that are made a few at a time: `make(begin, end)` gives those of a part of the first
    axis. A kernel's weights are made where they stay; as a whole, in another layout, they may be most of the memory
    that a compilation takes."""

    type: Type
    make: Callable[[int, int], np.ndarray]


class Value:
    """One value: a graph input, a constant (`held` is set), or a result of `node`."""

    __slots__ = ("held", "index", "name", "node", "type", "users")

    def __init__(
        self,
        name: str,
        type: Type,
        node: Node | None = None,
        index: int = 0,
        data: np.ndarray | Rows | None = None,
    ):
        self.name = name
        self.type = type
        self.node = node
        self.index = index
        self.held = data
        self.users: Counter[Node] = Counter()  # how often each node reads it

    @property
    def data(self) -> np.ndarray | None:
        """The elements of a constant."""
        if isinstance(self.held, Rows):
            self.held = self.held.make(0, int(self.held.type.shape[0]))
        return self.held

    @data.setter
    def data(self, array: np.ndarray) -> None:
        self.held = array

    @property
    def is_constant(self) -> bool:
        """Whether the value is known at compile time."""
        return self.held is not None

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


class Node:
    """One operation. Optional operands that are absent are None. `source` is the node's name in the user's model."""

    __slots__ = ("attrs", "body", "inputs", "op", "outputs", "source")

    def __init__(
        self,
        op: str,
        inputs: Iterable[Value | None],
        attrs: Any,
        types: Iterable[Type],
        names: Iterable[str],
        source: str = "",
        body: Graph | None = None,
    ):
        self.op = op
        self.inputs: tuple[Value | None, ...] = tuple(inputs)
        self.attrs = attrs
        self.source = source
        self.body = body
        self.outputs = tuple(Value(n, t, self, i) for i, (n, t) in enumerate(zip(names, types, strict=True)))
        for value in self.inputs:
            if value is not None:
                value.users[self] += 1

    @property
    def output(self) -> Value:
        """The only result."""
        (value,) = self.outputs
        return value

    @property
    def where(self) -> str:
        """How messages name the node: the op and the name users know it by."""
        return f"{self.op} '{self.source}'" if self.source else f"{self.op} %{self.outputs[0].name}"

    def operands(self) -> Iterator[Value]:
        """The inputs that are present."""
        return (v for v in self.inputs if v is not None)

    def replace_input(self, old: Value, new: Value) -> None:
        """Read `new` wherever the node read `old`."""
        self.inputs = tuple(new if v is old else v for v in self.inputs)
        new.users[self] += old.users.pop(self)

    def drop(self) -> None:
        """Stop being a user of the operands."""
        for value in self.operands():
            value.users.pop(self, None)

    def __repr__(self) -> str:
        return f"<{self.where}>"


class Graph:
    """A graph: inputs, nodes in an order in which every operand is defined before use, outputs with public names.

    `constants` are the values known at compile time, in first-use order once `tidy` has run.
    """

    def __init__(self, name: str = "graph"):
        self.name = name
        self.inputs: list[Value] = []
        self.constants: list[Value] = []
        self.nodes: list[Node] = []
        self.outputs: list[Value] = []
        self.output_names: list[str] = []
        self._names: set[str] = set()

    # -- building -------------------------------------------------------------------------------------------------

    def fresh_name(self, hint: str = "") -> str:
        """An unused value name: the hint itself, the hint with a number, or the next number."""
        if hint and hint not in self._names:
            self._names.add(hint)
            return hint
        k = len(self._names)
        while (name := f"{hint}_{k}" if hint else str(k)) in self._names:
            k += 1
        self._names.add(name)
        return name

    def add_input(self, name: str, type: Type) -> Value:
        """A new graph input; its name is public and stays exact."""
        value = Value(self.fresh_name(name), type)
        self.inputs.append(value)
        return value

    def add_constant(self, data: np.ndarray | Rows, name: str = "") -> Value:
        """A new constant. The array is not copied and must not change afterwards."""
        value = Value(self.fresh_name(name), data.type if isinstance(data, Rows) else Type.of(data), data=data)
        self.constants.append(value)
        return value

    def add_node(self, node: Node, at: int | None = None) -> Node:
        """Insert a node made with names from `fresh_name`, at a position or at the end."""
        self.nodes.insert(len(self.nodes) if at is None else at, node)
        return node

    def add_copy(self, node: Node, inner: dict[Value, Value], types: Sequence[Type] | None = None) -> Node:
        """A copy of another graph's node, its operands looked up in `inner`, which takes its results; `types`: theirs
        where those differ."""
        made = Node(
            node.op,
            [None if v is None else inner[v] for v in node.inputs],
            node.attrs,
            types or [v.type for v in node.outputs],
            [self.fresh_name(v.name) for v in node.outputs],
            node.source,
            None if node.body is None else node.body.copy(),
        )
        inner.update(zip(node.outputs, made.outputs, strict=True))
        return self.add_node(made)

    def add_output(self, value: Value, name: str | None = None) -> None:
        """Make a value an output, under its own or a public name."""
        self.outputs.append(value)
        self.output_names.append(value.name if name is None else name)

    # -- reading --------------------------------------------------------------------------------------------------

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the symbolic dimensions of the inputs."""
        from cnncc.ir.dims import symbols_of

        return symbols_of(d for v in self.inputs for d in v.type.shape)

    def values(self) -> Iterator[Value]:
        """Inputs, constants, then results in order."""
        yield from self.inputs
        yield from self.constants
        for node in self.nodes:
            yield from node.outputs

    def uses(self, value: Value) -> int:
        """How often a value is read, by nodes and as an output."""
        return sum(value.users.values()) + sum(v is value for v in self.outputs)

    def __str__(self) -> str:
        from cnncc.ir.printer import print_graph

        return print_graph(self)

    def to_networkx(self) -> Any:
        """The graph as a networkx.MultiDiGraph: nodes are Node and Value objects, edges follow the data."""
        from cnncc.ir.analysis import to_networkx

        return to_networkx(self)

    # -- changing (passes only) -------------------------------------------------------------------------------------

    def replace(self, old: Value, new: Value) -> None:
        """Every user of `old`, outputs included, reads `new` instead."""
        for node in list(old.users):
            node.replace_input(old, new)
        self.outputs = [new if v is old else v for v in self.outputs]

    def tidy(self) -> None:
        """Remove nodes and constants that no output needs, and sort the nodes topologically (stable)."""
        live: set[Node] = set()
        stack = [v.node for v in self.outputs if v.node is not None]
        while stack:
            node = stack.pop()
            if node not in live:
                live.add(node)
                for v in node.inputs:
                    if v is not None and v.node is not None and v.node not in live:
                        stack.append(v.node)
        for node in self.nodes:
            if node not in live:
                node.drop()
        self._sort([n for n in self.nodes if n in live])
        order: dict[Value, None] = {}
        for node in self.nodes:
            for v in node.inputs:
                if v is not None and v.held is not None:
                    order[v] = None
        order.update((v, None) for v in self.outputs if v.is_constant)
        self.constants = list(order)
        self._names = {v.name for v in self.values()}

    def _sort(self, nodes: list[Node]) -> None:
        if _in_order(nodes):
            self.nodes = nodes
            return
        done: set[Node] = set()
        self.nodes = []
        for root in nodes:
            stack = [root]
            while stack:
                node = stack[-1]
                if node in done:
                    stack.pop()
                    continue
                missing = [v.node for v in node.operands() if v.node is not None and v.node not in done]
                if missing:
                    stack.extend(reversed(missing))
                    continue
                done.add(node)
                self.nodes.append(node)
                stack.pop()

    def copy(self) -> Graph:
        """A copy that shares only constant arrays. Bodies of kernels are copied too."""
        return rebuild(self)[0]


def _in_order(nodes: Sequence[Node]) -> bool:
    """Whether every operand comes before its readers, as it nearly always does."""
    done: set[Node] = set()
    for node in nodes:
        for v in node.inputs:
            if v is not None and v.node is not None and v.node not in done:
                return False
        done.add(node)
    return True


def rebuild(graph: Graph, types: Mapping[Value, Type] | None = None) -> tuple[Graph, dict[Value, Value]]:
    """Copy a graph, value by value; returns the copy and old --> new values. `types` replaces types of values."""
    types = types or {}
    result = Graph(graph.name)
    new: dict[Value, Value] = {}
    for value in graph.inputs:
        new[value] = result.add_input(value.name, types.get(value, value.type))
    for value in graph.constants:
        assert value.held is not None
        new[value] = copied = result.add_constant(value.held, value.name)
        copied.type = types.get(value, value.type)
    for node in graph.nodes:
        result.add_copy(node, new, [types.get(v, v.type) for v in node.outputs])
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        result.add_output(new[value], name)
    return result, new
