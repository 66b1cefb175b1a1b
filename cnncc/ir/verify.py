"""The invariants of the IR, checked after every pass."""

from __future__ import annotations

from typing import Any

from cnncc.errors import GraphError, VerifyError
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ops.registry import lookup

Known = dict[Node, tuple[Any, ...]]


def verify(graph: Graph, known: Known | None = None) -> None:
    """Raise VerifyError where a value is used before it is defined, a name is taken twice, or a type is wrong.

    known: what types of nodes depended on when they were last found right; those that are as they were then are not
    inferred again.
    """
    known = {} if known is None else known
    defined: set[Value] = set()
    names: set[str] = set()

    def enter(value: Value) -> None:
        if value.name in names:
            raise VerifyError(f"%{value.name}: every value needs a name of its own, got this one twice")
        names.add(value.name)
        defined.add(value)

    for value in (*graph.inputs, *graph.constants):
        enter(value)
    for node in graph.nodes:
        for operand in node.operands():
            if operand not in defined:
                raise VerifyError(f"{node.where}: operands must be defined before use, got %{operand.name}")
            if operand.users.get(node) != node.inputs.count(operand):
                raise VerifyError(f"{node.where}: missing from the users of %{operand.name}")
        if node.body is not None:
            _verify_body(node, node.body, known)
        else:
            state = (node.op, node.attrs, *(v and v.type for v in node.inputs), *(v.type for v in node.outputs))
            if known.get(node) != state:
                verify_types(node)
                known[node] = state
        for value in node.outputs:
            enter(value)
    if len(graph.outputs) != len(graph.output_names):
        raise VerifyError(f"every output needs a name, got {len(graph.outputs)} and {len(graph.output_names)} names")
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        if value not in defined:
            raise VerifyError(f"output '{name}': not defined in the graph")
    if len(set(graph.output_names)) != len(graph.output_names):
        raise VerifyError(f"output names must differ, got {', '.join(graph.output_names)}")


def verify_types(node: Node) -> None:
    """Raise VerifyError where the types of a node's results are not those that its op infers from its operands."""
    if node.body is not None:
        _verify_body(node, node.body, {})
        return
    try:
        expected = lookup(node.op).infer_types(node.attrs, [None if v is None else v.type for v in node.inputs])
    except GraphError as error:
        raise VerifyError(f"{node.where}: {error}") from None
    actual = [v.type for v in node.outputs]
    if len(expected) != len(actual) or any(
        (e.dtype, e.shape) != (a.dtype, a.shape) for e, a in zip(expected, actual, strict=True)
    ):
        raise VerifyError(
            f"{node.where}: types must be {', '.join(map(str, expected))}, got {', '.join(map(str, actual))}"
        )


def _verify_body(node: Node, body: Graph, known: Known) -> None:
    verify(body, known)
    operands = [v for v in node.inputs if v is not None]
    if [v.type for v in operands] != [v.type for v in body.inputs]:
        raise VerifyError(f"{node.where}: operands and the inputs of the body must have the same types")
    if len(node.outputs) != len(body.outputs):
        raise VerifyError(
            f"{node.where}: must have as many results as its body, got {len(node.outputs)} and {len(body.outputs)}"
        )
    for value, inner in zip(node.outputs, body.outputs, strict=True):
        if value.type != inner.type:
            raise VerifyError(f"{node.where}: result must have the body's type {inner.type}, got {value.type}")
