"""ONNX import: shapes that are fixed, symbolic, computed, or contradict each other."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from cnncc.edges.onnx_import import UnsupportedOperators, load_onnx
from cnncc.errors import GraphError
from cnncc.interpret import interpret
from cnncc.ir.parser import parse
from cnncc.onnx_backend import needed_inputs
from tests.edges.onnx_models import INT64, info, model, node
from tests.tolerances import assert_close


def flatten_by_shape(reshape_inputs=("a", "target")):
    """x.reshape(x.shape[0], -1) as torch's older exporter writes it."""
    return [
        node("Relu", ["x"], ["a"]),
        node("Shape", ["a"], ["s"]),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Unsqueeze", ["n", "axes"], ["n1"]),
        node("Concat", ["n1", "rest"], ["target"], axis=0),
        node("Reshape", list(reshape_inputs), ["y"], name="flatten"),
    ]


FLATTEN = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}


def test_shape_subgraph_with_symbolic_batch():
    graph = load_onnx(model(flatten_by_shape(), {"x": ("N", 3, 4, 5)}, ["y"], FLATTEN))
    assert [n.op for n in graph.nodes] == ["relu", "reshape"]
    assert str(graph.outputs[0].type) == "f32[N, 60]"


def test_shape_arithmetic_with_symbolic_sizes():
    """Resize to twice the size by computed sizes; the symbols stay formulas."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Slice", ["s", "two", "four", "zero"], ["hw"]),
        node("Mul", ["hw", "two"], ["hw2"]),
        node("Slice", ["s", "zero", "two", "zero"], ["nc"]),
        node("Concat", ["nc", "hw2"], ["sizes"], axis=0),
        node("Resize", ["x", "", "", "sizes"], ["y"], mode="nearest"),
        node("Cast", ["s"], ["f"], to=onnx.TensorProto.FLOAT),
        node("Div", ["f", "half"], ["g"]),
        node("Floor", ["g"], ["h"]),
        node("Cast", ["h"], ["i"], to=INT64),
        node("Expand", ["one", "i"], ["z"]),
    ]
    constants = {"zero": np.array([0]), "two": np.array([2]), "four": np.array([4]),
                 "half": np.array(2, np.float32), "one": np.ones((1, 1, 1, 1), np.float32)}  # fmt: skip
    graph = load_onnx(model(nodes, {"x": (4, 2, "H", "W")}, ["y", "z"], constants))
    assert str(graph.outputs[0].type) == "f32[4, 2, 2*H, 2*W]"
    assert str(graph.outputs[1].type) == "f32[2, 1, floor(H/2), floor(W/2)]"


def test_sizes_as_numbers_at_run_time():
    """x / batch: the symbol is read from the input's shape."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Cast", ["n"], ["f"], to=onnx.TensorProto.FLOAT),
        node("Div", ["x", "f"], ["y"]),
    ]
    graph = load_onnx(model(nodes, {"x": ("N", 2)}, ["y", "s"], {"zero": np.array(0)}))
    for n in (1, 5):
        results = interpret(graph, {"x": np.ones((n, 2), np.float32)})
        assert_close(results["y"], np.full((n, 2), 1 / n, np.float32), "elementwise")
        assert results["s"].tolist() == [n, 2]


def test_shapes_fix_symbols():
    m = model([node("Add", ["x", "y"], ["z"])], {"x": ("N", "C"), "y": ("N", 1)}, ["z"])
    assert str(load_onnx(m, {"x": (4, 3)}).outputs[0].type) == "f32[4, 3]"
    assert str(load_onnx(m, {"x": (None, 3)}).outputs[0].type) == "f32[N, 3]"
    assert str(load_onnx(m, {"x": ("batch", 3)}).outputs[0].type) == "f32[batch, 3]"
    assert str(load_onnx(m, {"x": (4, 3)}).inputs[1].type) == "f32[4, 1]"


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        ({"x": (4, 3), "y": (5, 1)}, "symbol N must be one number, got 4 from input 'x' and 5 from input 'y'"),
        ({"x": (4,)}, "rank 2, got shape .* of rank 1"),
        ({"y": (4, 2)}, "axis 1 is 1 in the model, got 2"),
        ({"q": (4, 2)}, "names q; the inputs are x, y"),
        ({"x": (-1, 3)}, "numbers of at least 0"),
    ],
)
def test_shapes_that_contradict(shapes, match):
    m = model([node("Add", ["x", "y"], ["z"])], {"x": ("N", "C"), "y": ("N", 1)}, ["z"])
    with pytest.raises(GraphError, match=match):
        load_onnx(m, shapes)


@pytest.mark.parametrize(
    ("op", "attributes"), [("Add", {}), ("Concat", {"axis": 1}), ("Mul", {})], ids=["Add", "Concat", "Mul"]
)
def test_contradicting_symbols_are_both_named(op, attributes):
    m = model([node(op, ["x", "y"], ["z"], name="join", **attributes)], {"x": ("N", 3), "y": ("M", 3)}, ["z"])
    with pytest.raises(GraphError, match=rf"{op} 'join': .* must be equal, got (N and M|M and N)"):
        load_onnx(m)
    assert load_onnx(m, {"x": (2, 3), "y": (2, 3)}).outputs[0].type.shape[0] == 2


def test_a_symbol_against_a_number():
    m = model([node("Add", ["x", "w"], ["z"], name="n")], {"x": ("N", 3)}, ["z"], {"w": np.ones((4, 3), np.float32)})
    with pytest.raises(GraphError, match=r"Add 'n': .*got N and 4"):
        load_onnx(m)


def test_dimensions_without_names_become_what_they_meet():
    nodes = [node("Add", ["x", "y"], ["s"]), node("Conv", ["s", "w"], ["z"])]
    inputs = {"x": (None, None, None, 8), "y": ("N", None, 8, 8)}
    graph = load_onnx(model(nodes, inputs, ["z"], {"w": np.ones((4, 3, 3, 3), np.float32)}))
    assert [str(v.type) for v in graph.inputs] == ["f32[N, 3, 8, 8]", "f32[N, 3, 8, 8]"]
    assert str(graph.outputs[0].type) == "f32[N, 4, 6, 6]"


def test_question_marks_are_no_names():
    graph = load_onnx(model([node("Relu", ["x"], ["y"])], {"x": ("?", "?")}, ["y"]))
    assert len(graph.symbols) == 2


def test_symbols_print_and_parse_whatever_they_are_called():
    graph = load_onnx(model([node("Relu", ["x"], ["y"])], {"x": ("lambda", "Max", "2B", "batch size", "über")}, ["y"]))
    assert str(parse(str(graph))) == str(graph)


def test_different_parameters_never_share_a_symbol():
    graph = load_onnx(model([node("Relu", ["x"], ["y"])], {"x": ("a.b", "a_b", "a b")}, ["y"]))
    assert len(graph.symbols) == 3


def test_unknown_rank_needs_a_shape():
    m = model([node("Relu", ["x"], ["y"])], {"x": None}, ["y"])
    with pytest.raises(GraphError, match="'x': the model does not say its shape"):
        load_onnx(m)
    assert load_onnx(m, {"x": ("N", 3)}).outputs[0].type.shape[1] == 3


def test_a_constant_input_takes_the_place_of_an_input():
    inputs = [info("x", (2, 6)), info("shape", (2,), INT64)]
    m = model([node("Reshape", ["x", "shape"], ["y"], name="r")], inputs, ["y"])
    with pytest.raises(UnsupportedOperators, match="from input 'shape'") as error:
        load_onnx(m)
    assert needed_inputs(error.value) == ("shape",)
    graph = load_onnx(m, constants={"shape": np.array([3, -1])})
    assert [v.name for v in graph.inputs] == ["x"]
    assert graph.outputs[0].type.shape == (3, 4)
