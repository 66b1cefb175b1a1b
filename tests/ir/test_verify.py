"""The verifier finds every kind of broken graph, and names the node."""

from __future__ import annotations

import pytest

import cnncc
from cnncc.builder import Builder
from cnncc.errors import VerifyError
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.layout import channels
from cnncc.ir.types import Type
from cnncc.ir.verify import verify
from cnncc.passes import PASSES, Context, Step, run_passes

KERNEL = """
graph g(%x: f32[1, 16, 2, 2]) {
  %y: f32[1, 16, 2, 2] = kernel(%a=%x) {
    %b: f32[1, 16, 2, 2] = relu(%a)
    return %b
  }
  %z: f32[1, 16, 2, 2] = tanh(%y) @ "last"
  return %z
}
"""


def make() -> Graph:
    b = Builder("g")
    x = b.input("x", (2, 3))
    y = b.relu(x)
    b.output(b.add(y, y), "sum")
    return b.finish()


def test_good_graphs_pass():
    verify(make())
    verify(cnncc.parse(KERNEL))


def test_use_before_definition():
    graph = make()
    graph.nodes.reverse()
    with pytest.raises(VerifyError, match="defined before use, got %1"):
        verify(graph)


def test_operand_from_nowhere():
    graph = make()
    graph.nodes[0].inputs = (Value("stray", Type("f32", (2, 3))),)
    with pytest.raises(VerifyError, match=r"relu %1: operands must be defined before use, got %stray"):
        verify(graph)


def test_names_are_taken_once():
    graph = make()
    graph.nodes[0].output.name = "x"
    with pytest.raises(VerifyError, match=r"%x: every value needs a name of its own"):
        verify(graph)


def test_types_are_inferred_again():
    graph = make()
    graph.nodes[0].output.type = Type("f32", (3, 2))
    with pytest.raises(VerifyError, match=r"relu %1: types must be f32\[2, 3\], got f32\[3, 2\]"):
        verify(graph)
    graph = make()
    graph.inputs[0].type = Type("bool", (2, 3))
    with pytest.raises(VerifyError, match="relu %1"):
        verify(graph)


def test_number_of_results():
    graph = make()
    node = graph.nodes[0]
    graph.nodes[0] = Node("relu", node.inputs, node.attrs, [node.output.type] * 2, ["p", "q"])
    node.drop()
    with pytest.raises(VerifyError, match="relu"):
        verify(graph)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_users_are_counted(count):
    graph = make()
    add = graph.nodes[1]
    users = graph.nodes[0].output.users
    users[add] = count  # it reads the value twice
    with pytest.raises(VerifyError, match="missing from the users of %1"):
        verify(graph)


def test_outputs():
    graph = make()
    graph.add_output(Value("stray", Type("f32", ())))
    with pytest.raises(VerifyError, match="output 'stray': not defined"):
        verify(graph)
    graph = make()
    graph.add_output(graph.inputs[0], "sum")
    with pytest.raises(VerifyError, match="output names must differ, got sum, sum"):
        verify(graph)
    graph = make()
    graph.output_names.append("more")
    with pytest.raises(VerifyError, match="every output needs a name"):
        verify(graph)


def test_unknown_operation():
    graph = make()
    graph.nodes[0].op = "rleu"
    with pytest.raises(VerifyError, match="no operation called 'rleu'"):
        verify(graph)


def test_bodies_of_kernels():
    graph = cnncc.parse(KERNEL)
    body = graph.nodes[0].body
    assert body is not None
    body.nodes[0].output.type = Type("f32", (1, 16, 2, 3))
    with pytest.raises(VerifyError, match="relu %b"):
        verify(graph)

    graph = cnncc.parse(KERNEL)
    body = graph.nodes[0].body
    assert body is not None
    body.inputs[0].type = body.inputs[0].type.with_(layout=channels(16))
    with pytest.raises(VerifyError, match="operands and the inputs of the body must have the same types"):
        verify(graph)

    graph = cnncc.parse(KERNEL)
    graph.nodes[0].output.type = graph.nodes[0].output.type.with_(layout=channels(16))
    with pytest.raises(VerifyError, match=r"must have the body's type f32\[1, 16, 2, 2\], got .* aBcd16b"):
        verify(graph)

    graph = cnncc.parse(KERNEL)
    body = graph.nodes[0].body
    assert body is not None
    body.add_output(body.inputs[0], "more")
    with pytest.raises(VerifyError, match="as many results as its body, got 1 and 2"):
        verify(graph)


def test_a_failing_pass_is_named_with_those_before_it():
    def damage(graph: Graph, context: Context) -> None:
        graph.nodes[0].output.type = Type("f32", (7,))

    with pytest.raises(VerifyError, match=r"^damage \(after remove-dead, canonicalize\) left a graph .*relu"):
        run_passes(make(), [PASSES["remove-dead"], PASSES["canonicalize"], Step("damage", damage)], Context())


def test_passes_work_on_a_copy():
    graph = make()
    before = str(graph)
    run_passes(graph, [PASSES["separate-outputs"], PASSES["propose-kernels"]], Context())
    assert str(graph) == before


def test_types_found_right_are_inferred_again_only_where_something_changed(monkeypatch):
    graph, known = make(), {}
    verify(graph, known)
    inferred = []
    monkeypatch.setattr("cnncc.ir.verify.verify_types", inferred.append)
    verify(graph, known)
    assert inferred == []
    node = graph.nodes[1]
    node.outputs[0].type = Type("f32", (7, 7))
    verify(graph, known)
    assert inferred == [node]
