"""separate-outputs: every output of the graph is the result of an operation of its own."""

from __future__ import annotations

from cnncc.builder import Builder
from cnncc.ir.graph import Graph, Value
from cnncc.passes.manager import Context


def separate_outputs(graph: Graph, context: Context) -> None:
    """output x, where x is an input, a constant or an output already --> output to_layout(x), a copy."""
    b = Builder(graph)
    seen: set[Value] = set()
    outputs = []
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        if _source(value).node is None or value in seen or _source(value) in seen:
            value = b.op("to_layout", value, source=f"copy for output {name}")
        seen |= {value, _source(value)}
        outputs.append(value)
    graph.outputs = outputs


def _source(value: Value) -> Value:
    """The value that reshapes lead back to."""
    while value.node is not None and value.node.op == "reshape":
        (value,) = value.node.operands()
    return value
