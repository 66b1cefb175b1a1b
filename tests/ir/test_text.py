"""Text and back: exact round trips, and errors that point at the place."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import cnncc
from cnncc.autodiff import value_and_grad
from cnncc.builder import Builder
from cnncc.errors import ParseError
from cnncc.interpret import interpret
from cnncc.ir.analysis import structurally_equal
from cnncc.ir.dims import symbol
from cnncc.ir.graph import Graph
from cnncc.ir.printer import INLINE, digest
from cnncc.passes import INFERENCE, Context, run_passes
from cnncc.targets.machine import AVX512
from tests.graphs import random_feeds, random_graph


def constants(graph: Graph) -> dict[str, np.ndarray]:
    """What lies beside the text: constants by name, those in bodies of kernels too."""
    found = {v.name: v.data for v in graph.constants if v.data is not None}
    for node in graph.nodes:
        if node.body is not None:
            found.update(constants(node.body))
    return found


def check_round_trip(graph: Graph) -> None:
    """The text reads back to an equal graph, and prints again as the same text."""
    text = str(graph)
    back = cnncc.parse(text, constants(graph))
    assert str(back) == text
    assert structurally_equal(back, graph)
    assert [n.source for n in back.nodes] == [n.source for n in graph.nodes]


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_round_trip(seed):
    graph = random_graph(seed, "N" if seed % 2 else 2)
    check_round_trip(graph)
    feeds = random_feeds(graph, {"N": 2})
    back = interpret(cnncc.parse(str(graph), constants(graph)), feeds)
    for name, array in interpret(graph, feeds).items():
        assert np.array_equal(back[name], array)


@pytest.mark.parametrize("seed", range(6))
def test_laid_out_kernels_round_trip(seed):
    """After all passes: bodies, layouts, tile records."""
    laid = run_passes(random_graph(seed, "N" if seed % 2 else 1), INFERENCE, Context(AVX512))
    assert any(n.body is not None for n in laid.nodes)
    check_round_trip(laid)


def test_backward_graphs_round_trip():
    b = Builder("train")
    x, w = b.input("x", ("N", 2, 7, 7)), b.input("w", (3, 2, 3, 3))
    b.output(b.reduce_mean(b.relu(b.conv(x, w, strides=2, pads=1)), keepdims=False), "loss")
    check_round_trip(value_and_grad(b.finish(), wrt=["x", "w"], of="loss"))


def test_names_and_sources_of_any_kind():
    b = Builder('a "graph"\n')
    x = b.input("input/0 (ünï)", ("batch size", 2))
    y = b.op("relu", x, source="layer\t1 # not a comment", hint="%odd")
    b.output(y, "return")
    b.output(b.op("tanh", y, hint="none"), "")
    graph = b.finish()
    check_round_trip(graph)


@pytest.mark.parametrize(
    "array",
    [
        np.array([0.0, -0.0, 1e-45, 3.4e38, np.inf, -np.inf], np.float32),
        np.array([1 / 3, 5e-324, 1e308]),
        np.array([np.nan], np.float32),
        np.array([65504, 6e-8], np.float16),
        np.array([0.1, -3e38], ml_dtypes.bfloat16),
        np.array([-(2**63), 2**63 - 1]),
        np.array([2**64 - 1], np.uint64),
        np.array([[True], [False]]),
        np.array(7, np.int8),
        np.zeros((0, 3), np.float32),
    ],
    ids=str,
)
def test_small_constants_are_exact(array):
    b = Builder()
    b.output(b.constant(array, "c"), "y")
    (back,) = cnncc.parse(str(b.finish())).constants
    assert back.data is not None
    assert back.data.dtype == array.dtype
    assert back.data.shape == array.shape
    assert back.data.tobytes() == array.tobytes()


def test_large_constants_are_given_by_digest():
    data = np.arange(INLINE + 1, dtype=np.float32)
    b = Builder()
    b.output(b.constant(data, "c"), "y")
    text = str(b.finish())
    assert f"sha256:{digest(data)}" in text
    assert cnncc.parse(text, {"c": data}).constants[0].data is data
    with pytest.raises(ParseError, match="give constants="):
        cnncc.parse(text)
    with pytest.raises(ParseError, match="does not have digest"):
        cnncc.parse(text, {"c": data + 1})


def test_attributes_at_their_default_are_not_printed():
    b = Builder()
    x, w = b.input("x", (1, 4, 5, 5)), b.input("w", (4, 2, 3, 3))
    y = b.conv(x, w, strides=(1, 1), pads=[1, 1], dilations=1, groups=np.int64(2))
    b.output(b.clip(y, low=np.float64(0.5)))
    text = str(b.finish())
    assert "conv(%x, %w, pads=(1, 1, 1, 1), groups=2)" in text
    assert "low=0.5)" in text


def test_what_people_write_becomes_canonical():
    graph = cnncc.parse(
        """
        # a comment, and short forms of attributes
        graph g(%x: f32[N, 1, 4, 4]) {
          const %w: f32[1, 1, 3, 3] = splat(0.5)   # nine times
          const %b: f32[1] = random(3)
          %y: f32[N, 1, 4, 4] = conv(%x, %w, pads=1)
          %z: f32[N, 1, 4, 4] = add(%y, %b) @ "layer one"
          return %z as "out"
        }
        """
    )
    assert graph.nodes[0].attrs.pads == (1, 1, 1, 1)
    assert np.all(graph.constants[0].data == 0.5)
    assert graph.nodes[1].source == "layer one"
    assert graph.output_names == ["out"]


def test_symbols_with_names_of_words():
    n = symbol("infer")
    b = Builder()
    b.output(b.reshape(b.input("x", (n, 2)), shape=(n, 1, 2)))
    check_round_trip(b.finish())


HEAD = "graph g(%x: f32[2, 3]) {\n"
ERRORS = [
    # text, the message, the words from the caret on
    ("grph g() { return }", "expected 'graph'", "grph"),
    ("graph g(%x: f31[2]) { return %x }", "expected an element type", "f31"),
    ("graph g(%x: f32[2, -3]) { return %x }", "must not be negative, got -3", "-3"),
    ("graph g(%x: f32[2, 1.5]) { return %x }", "a dimension must be a number", "1.5"),
    ("graph g(%x: f32[2, 3] abC4c) { return %x }", "one letter for each of the 2 axes", "abC4c"),
    ("graph g(%x: f32[2, 3] aB1b) { return %x }", "by at least 2", "aB1b"),
    ("graph g(%x: f32[2], %x: f32[2]) { return %x }", "%x is defined already", "x: f32[2])"),
    ("graph g() { const %c: f32[2] = [1.0] return %c }", "%c needs 2 numbers, got 1", "[1.0]"),
    ("graph g() { const %c: f32[N] = [1.0] return %c }", "must be numbers, got f32[N]", "[1.0]"),
    ("graph g() { const %c: u8[1] = [256] return %c }", "must be numbers of u8", "[256]"),
    ("graph g() { const %c: f32[1] = random(x) return %c }", "a seed of at least 0", "random"),
    ('graph g(%"\\q": f32[1]) { return }', "follows the rules of JSON", '"\\q"'),
    (HEAD + "  %y: f32[2, 3] = relu(%z)\n  return %y\n}", "%z is not defined", "z)"),
    (HEAD + "  %y: f32[2, 3] = rleu(%x)\n  return %y\n}", "did you mean relu", "rleu"),
    (HEAD + "  %y: f32[2, 4] = relu(%x)\n  return %y\n}", "types must be f32[2, 3], got f32[2, 4]", "relu"),
    (HEAD + "  %y: f32[2, 3] = relu(%x, %x)\n  return %y\n}", "takes operands (x), got 2", "relu"),
    (HEAD + "  %y: f32[2, 3] = relu(none)\n  return %y\n}", "needs operand x", "relu"),
    (HEAD + "  %y: f32[2, 3] = relu(%x, alpha=1)\n  return %y\n}", "unknown attribute alpha", "relu"),
    (HEAD + "  %y: f32[2, 3] = softmax(%x, axis=0.5)\n  return %y\n}", "axis must be a whole number", "softmax"),
    (HEAD + "  %y: f32[2, 3] = softmax(%x, axis=[)\n  return %y\n}", "expected a number", "["),
    (HEAD + "  %y: f32[3, 2] = transpose(%x, perm=(0, 0))\n  return %y\n}", "perm", "transpose"),
    (HEAD + "  %y: f32[2, 3], %y: f32[2, 3] = relu(%x)\n  return %y\n}", "%y is defined already", "y: f32[2, 3] = "),
    (HEAD + "  y = relu(%x)\n  return %y\n}", "expected a value, 'const' or 'return'", "y = relu"),
    (HEAD + "  %y: f32[2, 3] = relu(%x\n  return %y\n}", "expected ','", "return"),
    (HEAD + "  return %x\n", "expected ','", ""),
    (HEAD + "  return %x\n}\ngraph h() { return }", "nothing may follow the graph", "graph h"),
]


@pytest.mark.parametrize(("text", "message", "at"), ERRORS, ids=[m for _, m, _ in ERRORS])
def test_errors_point_at_the_place(text, message, at):
    with pytest.raises(ParseError) as caught:
        cnncc.parse(text)
    error = caught.value
    assert message in str(error)
    _, shown, caret = str(error).rsplit("\n", 2)
    assert text.splitlines()[error.line - 1] in shown if at else True
    assert shown[caret.index("^") :].startswith(at)
    assert caret.index("^") - 2 == error.column - 1
    assert f"line {error.line}, column {error.column}" in str(error)


def test_any_truncation_is_a_parse_error():
    text = str(run_passes(random_graph(3), INFERENCE, Context(AVX512)))
    data = constants(run_passes(random_graph(3), INFERENCE, Context(AVX512)))
    for end in range(0, len(text.rstrip("}")), 7):
        with pytest.raises(ParseError):
            cnncc.parse(text[:end], data)
