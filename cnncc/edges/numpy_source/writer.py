"""A graph as a Python module that imports numpy alone: one statement for each operation, in stages named by layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from cnncc.edges.numpy_source.expression import ATOM, UNARY, Expression, SourceMath, number
from cnncc.edges.numpy_source.helpers import Helpers
from cnncc.edges.numpy_source.line import Line, dim_text
from cnncc.edges.numpy_source.names import Names, stage_of
from cnncc.errors import GraphError, UnsupportedError
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ops.registry import lookup

LITERAL = 16  # elements up to which a constant without a name is written out


def to_numpy(graph: Graph) -> str:
    """The graph as flat numpy: a module with one function, ``forward``, or ``step`` where there are gradients.

    The function takes the inputs as arguments and returns a dictionary of the outputs. Parameters (constants that have
    a name or are large, and inputs with a dotted name, as those of a traced module) come as one more argument,
    ``params``, a dictionary by name; `parameters(graph)` are those that the graph knows. Every operation is one
    statement; a comment names each layer. Functions that numpy lacks stand in front, with loops over taps.
    Raises UnsupportedError listing every operation that has no numpy form, with the reason.
    """
    return _Writer(graph).module()


def parameters(graph: Graph) -> dict[str, np.ndarray]:
    """The constants that the function of `to_numpy` takes in `params`."""
    return {v.name: v.data for v in graph.constants if v.data is not None and _is_parameter(v)}


def _is_parameter(value: Value) -> bool:
    if value.data is None:
        return "." in value.name
    return value.data.size > 1 and (not value.name.isdigit() or value.data.size > LITERAL)


class _Writer:
    def __init__(self, graph: Graph):
        self.graph = graph
        self.helpers = Helpers()
        self.lines: list[str] = []
        _check(graph)

    def module(self) -> str:
        """The whole text."""
        self._find_helpers()
        self.names = Names(self.graph, self.helpers.names | set(self.graph.symbols))
        backward = any(stage_of(n)[0] for n in self.graph.nodes)
        inputs = [v for v in self.graph.inputs if not _is_parameter(v)]
        held = [v for v in (*self.graph.inputs, *self.graph.constants) if _is_parameter(v)]
        body = [*self._symbols(), *self._parameters(held), *self._statements(), *self._results()]
        arguments = [*(self.names[v] for v in inputs), *(["params"] if held else [])]
        title = f"{self.graph.name}: {'forward and backward' if backward else 'forward'}, as cnncc.to_numpy prints it."
        head = [f'"""{title}"""', "", *self.helpers.imports(), "import numpy as np", "", ""]
        for function in self.helpers.source():
            head += [function, "", ""]
        head.append(f"def {'step' if backward else 'forward'}({', '.join(arguments)}):")
        described = [f"{self.names[v]}: {_describe(v)}" for v in inputs]
        described += [f'params["{v.name}"]: {_describe(v)}' for v in held]
        notes = ['"""The outputs by name.', "", *described, '"""']
        return "\n".join([*head, *(f"    {line}".rstrip() for line in (*notes, *body))]) + "\n"

    def _find_helpers(self) -> None:
        """Names of helpers are taken before values get theirs."""
        for node in self.graph.nodes:
            self._expression(node, ["x"] * len(node.inputs))

    def _symbols(self) -> Iterator[str]:
        for symbol in self.graph.symbols:
            for value in self.graph.inputs:
                places = [a for a, d in enumerate(value.type.shape) if str(d) == symbol]
                if places:
                    name = self.names[value]
                    name = f'params["{value.name}"]' if _is_parameter(value) else name
                    yield f"{symbol} = {name}.shape[{places[0]}]"
                    break
            else:
                raise GraphError(f"to_numpy: the symbol {symbol} is not the size of an input; fix the shapes")

    def _parameters(self, held: Sequence[Value]) -> Iterator[str]:
        if held:
            yield from ("", "# parameters")
        for value in held:
            yield f'{self.names.name(value)} = params["{value.name}"]'

    def _statements(self) -> Iterator[str]:
        stage: tuple[int, str] | None = None
        for node in self.graph.nodes:
            now = stage_of(node)
            names = [self.names.name(v) for v in node.outputs]
            if now != stage:
                yield ""
                if now[1]:
                    yield f"# {self._title(now, node)}"
            stage = now
            yield f"{', '.join(names)} = {self._expression(node, self._operands(node))}"

    def _title(self, stage: tuple[int, str], node: Node) -> str:
        depth, layer = stage
        if layer.startswith("%"):
            layer = next((self.names[v] for v in self.graph.values() if v.name == layer[1:]), layer)
        return "backward of " * depth + layer + ("" if depth else f": {_shape(self._end(node))}")

    def _end(self, node: Node) -> Value:
        """The result of the stage that starts with a node."""
        at = self.graph.nodes.index(node)
        while at + 1 < len(self.graph.nodes) and stage_of(self.graph.nodes[at + 1]) == stage_of(node):
            at += 1
        return self.graph.nodes[at].outputs[0]

    def _operands(self, node: Node) -> list[str]:
        elementwise = lookup(node.op).elementwise
        values = list(node.operands())
        rank = max((v.type.rank for v in values if not _is_number(v)), default=-1)
        result = []
        for value in node.inputs:
            if value is None:
                result.append("None")
            elif _is_number(value):
                plain = elementwise and value.type.rank <= rank
                result.append(number(value.data, value.type.dtype).text if plain else _literal(value))
            elif value.is_constant and not _is_parameter(value):
                result.append(_literal(value))
            else:
                result.append(self.names[value])
        return result

    def _expression(self, node: Node, operands: Sequence[str]) -> str:
        op = lookup(node.op)
        if op.numpy is not None:
            return op.numpy(Line(node, operands, self.helpers.use))
        assert op.formula is not None
        m = SourceMath(next(v.type.dtype for v in node.operands()), self.helpers.use)
        texts = [
            None if v is None else Expression(o, UNARY if o.startswith("-") else ATOM)
            for v, o in zip(node.inputs, operands, strict=True)
        ]
        made: Expression = op.formula(m, node.attrs, *texts)
        return made.text

    def _results(self) -> Iterator[str]:
        yield from ("", "return {")
        for name, value in zip(self.graph.output_names, self.graph.outputs, strict=True):
            held = value.is_constant and not _is_parameter(value)
            yield f'    "{name}": {_literal(value) if held else self.names[value]},'
        yield "}"


def _is_number(value: Value) -> bool:
    return value.data is not None and value.data.size == 1


def _literal(value: Value) -> str:
    """A constant written out."""
    assert value.data is not None
    dtype = f"np.{value.data.dtype.name}" if value.data.dtype != bool else "bool"
    if value.data.ndim == 0:
        return f"np.{np.dtype(value.data.dtype).name}({number(value.data, value.type.dtype).text})"
    return f"np.array({_nested(value.data, value.type.dtype)}, {dtype})"


def _nested(data: np.ndarray, dtype: str) -> str:
    return number(data, dtype).text if data.ndim == 0 else f"[{', '.join(_nested(d, dtype) for d in data)}]"


def _shape(value: Value) -> str:
    return f"[{', '.join(map(dim_text, value.type.shape))}]"


def _describe(value: Value) -> str:
    return f"{np.dtype(value.type.numpy).name} {_shape(value)}"


def _check(graph: Graph) -> None:
    """Every operation must have a numpy form."""
    missing: dict[str, list[str]] = defaultdict(list)
    for node in graph.nodes:
        reason = _reason(node)
        if reason:
            missing[f"{node.op} ({reason})"].append(node.source or f"%{node.outputs[0].name}")
    if missing:
        lines = [f"  {op}, {len(names)}: {', '.join(names[:8])}" for op, names in missing.items()]
        raise UnsupportedError("to_numpy: these operations have no numpy form:\n" + "\n".join(lines))


def _reason(node: Node) -> str:
    if node.body is not None:
        return "a fused kernel; print the graph before kernels are made"
    if any(v.type.dtype == "bf16" for v in (*node.operands(), *node.outputs)):
        return "numpy has no bfloat16"
    op = lookup(node.op)
    return "" if op.numpy is not None or op.formula is not None else op.no_grad or "its declaration has no numpy line"
