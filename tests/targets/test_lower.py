"""Lowering of kernel bodies: values that several operations read are computed once, in whatever layout."""

from __future__ import annotations

import numpy as np
import pytest

import cnncc
from cnncc.interpret import interpret
from cnncc.ir.dims import symbol
from cnncc.ir.graph import Graph, Node
from cnncc.passes import INFERENCE, Context, run_passes
from cnncc.passes.alternatives import alternatives
from cnncc.targets.lower import lower_kernel
from cnncc.targets.machine import AVX512, native
from tests.tolerances import assert_close


def gates(count: int, make) -> Graph:
    """x sigmoid(x), `count` times over, behind `make(b, x)`: every value has two readers."""
    b = cnncc.Builder()
    y = make(b, b.input("x", ("N", 16, 6, 6)))
    for _ in range(count):
        y = b.mul(y, b.sigmoid(y))
    b.output(y, "y")
    return b.finish()


MAKERS = {
    "conv": lambda b, x: b.conv(x, np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32), pads=1),
    "max_pool": lambda b, x: b.max_pool(x, kernel=3, pads=1),
    "alone": lambda b, x: x,
    "reduce": lambda b, x: b.reduce_sum(x, axes=(1,)),
}


def kernel(graph: Graph) -> Node:
    laid = run_passes(graph, INFERENCE, Context(AVX512))
    return max((n for n in laid.nodes if n.body is not None), key=lambda n: len(n.body.nodes))


@pytest.mark.parametrize("name", MAKERS)
def test_code_grows_with_the_operations_not_with_the_paths(name):
    sizes = [len(str(lower_kernel(kernel(gates(count, MAKERS[name])), AVX512).func)) for count in (1, 2, 7)]
    assert sizes[2] - sizes[1] < 6 * (sizes[1] - sizes[0]) + 1000


@pytest.mark.parametrize("name", MAKERS)
def test_results(name):
    graph = gates(3, MAKERS[name])
    x = np.random.default_rng(1).standard_normal((2, 16, 6, 6)).astype(np.float32)
    assert_close(cnncc.compile(graph, threads=1)(x), interpret(graph, {"x": x})["y"], "winograd")


def test_an_anchor_whose_result_is_read_twice():
    """Pooling's result is an expression with names of its own, which must not be written down twice."""
    b = cnncc.Builder()
    y = b.max_pool(b.input("x", (1, 3, 9, 9)), kernel=3, strides=2)
    b.output(b.mul(y, b.add(y, y)), "y")
    graph = b.finish()
    x = np.random.default_rng(1).standard_normal((1, 3, 9, 9)).astype(np.float32)
    assert_close(cnncc.compile(graph, threads=1)(x), interpret(graph, {"x": x})["y"], "elementwise")


def test_what_is_read_in_front_of_a_move_and_behind_it():
    """t is read at the result's index and, by the transpose, elsewhere: it is not one element."""
    b = cnncc.Builder()
    t = b.tanh(b.input("x", (1, 2, 5, 5)))
    b.output(b.add(b.mul(t, t), b.transpose(t, perm=(0, 1, 3, 2))), "y")
    graph = b.finish()
    x = np.random.default_rng(1).standard_normal((1, 2, 5, 5)).astype(np.float32)
    assert_close(cnncc.compile(graph, threads=1)(x), interpret(graph, {"x": x})["y"], "elementwise")


def test_a_symbol_known_by_its_multiples_only():
    """Heads of a symbolic batch: no argument of the kernel has the batch itself as a dimension."""
    b, batch = cnncc.Builder(), symbol("N")
    x = b.reshape(b.input("x", (batch, 4, 5, 6)), shape=(4 * batch, 5, 6))
    x = b.transpose(x, perm=(0, 2, 1))
    b.output(b.reshape(b.mul(x, x), shape=(2 * batch, 12, 5)), "y")
    graph = b.finish()
    executable = cnncc.compile(graph, threads=1)
    for n in (1, 3):
        array = np.random.default_rng(n).standard_normal((n, 4, 5, 6)).astype(np.float32)
        assert_close(executable(array), interpret(graph, {"x": array})["y"], "elementwise")


@pytest.mark.parametrize("reduce", ["softmax", "log_softmax", "reduce_max", "reduce_min", "argmax"])
def test_a_reduction_behind_a_formula_with_names(reduce: str):
    """The maximum names its operand three times, and tanh is an expression with names of its own."""
    b = cnncc.Builder()
    t = b.tanh(b.input("x", (3, 64)))
    axis = {"axes": (1,)} if reduce.startswith("reduce_") else {"axis": 1}
    b.output(b.op(reduce, t, **axis), "y")
    graph = b.finish()
    x = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    assert_close(cnncc.compile(graph, threads=1)(x), interpret(graph, {"x": x})["y"], "elementwise")


@pytest.mark.parametrize(("channels", "layout"), [(32, "aBcd16b"), (20, "aBcd16b"), (3, "plain")])
def test_an_average_pool_computes_what_stands_before_it(channels, layout):
    """Between convolutions in blocks of channels, whole or ragged, and alone in row-major layout."""
    rng = np.random.default_rng(0)
    b = cnncc.Builder()
    x = b.input("x", ("N", channels, 9, 8))
    w = rng.standard_normal((channels, channels, 3, 3)).astype(np.float32)
    shift = b.input("t", (channels, 1, 1))
    scale = rng.standard_normal((1, channels, 1, 1)).astype(np.float32)
    y = x
    if layout != "plain":
        y = b.conv(x, w, pads=1)
        b.output(b.conv(y, w), "z")  # a second reader, or the convolution would take what stands before the pool
    y = b.average_pool(b.exp(b.add(b.mul(y, scale), shift)), kernel=2, strides=2)
    b.output(b.conv(y, w) if layout != "plain" else y, "y")
    graph = b.finish()
    exe = cnncc.compile(graph, threads=1)
    (row,) = (r for r in exe.report().rows if "average_pool" in r.ops)
    assert (row.ops, row.algorithm.split("_")[0], row.layouts) == ("mul+add+exp+average_pool", "pool", layout)
    feeds = {"x": rng.standard_normal((2, channels, 9, 8)).astype(np.float32) / 9, "t": np.ones((channels, 1, 1), "f4")}
    assert_close(exe.run(feeds)["y"], interpret(graph, feeds)["y"], "winograd")


@pytest.mark.parametrize("channels", [20, 40])
@pytest.mark.parametrize("batch", [1, "N"])
def test_channels_that_are_no_whole_blocks_stay_in_blocks(channels: int, batch: int | str) -> None:
    """Squeeze and excitation: mean, two products, a gate; its padding is computed too, and nothing changes layout."""
    rng = np.random.default_rng(2)

    def weights(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(shape[1] * shape[-1] ** 2))

    b = cnncc.Builder()
    wide = b.relu(b.conv(b.input("x", (batch, 16, 14, 14)), b.constant(weights(channels, 16, 3, 3)), pads=1))
    gate = b.reduce_mean(wide, axes=(2, 3))
    gate = b.relu(b.conv(gate, b.constant(weights(16, channels, 1, 1))))
    gate = b.sigmoid(b.conv(gate, b.constant(weights(channels, 16, 1, 1))))
    b.output(b.conv(b.mul(wide, gate), b.constant(weights(32, channels, 3, 3)), pads=1), "y")
    graph = b.finish()
    exe = cnncc.compile(graph, target=AVX512 if native().vector_bits == 512 else "native", threads=1)
    changed = [row for row in exe.report().rows if row.ops == "to_layout"]
    assert len(changed) <= 2  # those of the input and of the output
    for count in (1,) if batch == 1 else (1, 3):
        x = rng.standard_normal((count, 16, 14, 14)).astype(np.float32)
        assert_close(exe(x), interpret(graph, {"x": x})["y"], "winograd")


@pytest.mark.parametrize(("op", "offered"), [("relu", True), ("sigmoid", True), ("reciprocal", False)])
def test_operations_that_could_make_padding_infinite_stay_plain(op: str, offered: bool) -> None:
    """1 / x of padding that is zero is infinite, and 0 times that is not 0."""
    b = cnncc.Builder()
    b.output(getattr(b, op)(b.input("x", (1, 20, 8, 8))), "y")
    context = Context(AVX512)
    graph = run_passes(b.finish(), INFERENCE[: [step.name for step in INFERENCE].index("choose")], context)
    (node,) = graph.nodes
    assert any(way.results[0] for way in alternatives(node, AVX512, context)) == offered
