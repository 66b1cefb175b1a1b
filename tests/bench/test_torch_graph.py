"""Graphs as torch modules: every rule against the numpy references, biases and gates in one call, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import cnncc
from cnncc.bench.systems import MissingError
from cnncc.builder import Builder
from cnncc.interpret import interpret
from cnncc.ir.graph import Graph
from cnncc.ir.types import Type
from tests import zoo
from tests.ops.harness import Case, all_cases
from tests.tolerances import assert_close

torch = pytest.importorskip("torch")

from cnncc.bench.systems.torch_graph import to_module  # noqa: E402
from cnncc.bench.systems.torch_rules import RULES  # noqa: E402

BEYOND = "gather-3"  # indices outside the operand, which torch refuses
CASES = [case for case in all_cases() if case.op.name in RULES and str(case) != BEYOND]


def run(graph: Graph, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The module's results."""
    with torch.inference_mode():
        made = to_module(graph)(*[torch.from_numpy(feeds[v.name]) for v in graph.inputs])
    return [y.numpy() for y in (made if isinstance(made, tuple) else (made,))]


def calls(graph: Graph) -> list[str]:
    """Names of the functions that the module calls."""
    return [n.target.__name__ for n in to_module(graph).graph.nodes if n.op == "call_function"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rules_agree_with_the_references(case: Case):
    b, feeds, operands = Builder(), {}, []
    for k, array in enumerate(case.arrays()):
        if array is not None:
            feeds[f"x{k}"] = array
        operands.append(None if array is None else b.input(f"x{k}", array.shape, Type.of(array).dtype))
    b.output(b.op(case.op.name, *operands, **vars(case.attrs)), "y")
    graph = b.finish()
    try:
        (found,) = run(graph, feeds)
    except MissingError:
        return  # torch has no such thing: the next test says where that may be
    expected = interpret(graph, feeds)["y"]
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert_close(found, expected, "reduction" if case.kind == "elementwise" else case.kind)


def test_few_samples_are_refused():
    """The rules decline what torch lacks, and nothing else."""
    refused = set()
    for case in CASES:
        b = Builder()
        operands = [
            None if a is None else b.input(f"x{k}", a.shape, Type.of(a).dtype) for k, a in enumerate(case.arrays())
        ]
        b.output(b.op(case.op.name, *operands, **vars(case.attrs)))
        try:
            to_module(b.finish())
        except MissingError:
            refused.add(case.op.name)
    assert refused <= {"conv_transpose", "max_pool", "average_pool", "lrn", "slice", "pad", "resize"}


def test_biases_and_gates_are_one_call():
    b = Builder()
    x = b.input("x", (2, 4, 6, 6))
    rng = np.random.default_rng(0)
    w, bias = (b.constant(rng.standard_normal(s).astype(np.float32)) for s in ((8, 4, 3, 3), (8,)))
    y = b.add(b.conv(x, w, pads=(1, 1, 1, 1)), b.reshape(bias, shape=(8, 1, 1)))
    y = b.mul(y, b.sigmoid(y))
    y = b.reshape(b.reduce_mean(y, axes=(2, 3)), shape=(2, 8))
    dense, more = (b.constant(rng.standard_normal(s).astype(np.float32)) for s in ((5, 8), (5,)))
    b.output(b.add(b.matmul(y, dense, transpose_w=True), more), "y")
    graph = b.finish()
    assert calls(graph) == ["conv2d", "silu", "mean", "reshape", "linear"]
    feeds = {"x": rng.standard_normal((2, 4, 6, 6)).astype(np.float32)}
    assert_close(run(graph, feeds)[0], interpret(graph, feeds)["y"], "conv")


def test_what_has_two_readers_stays_apart():
    b = Builder()
    x = b.input("x", (1, 4, 5, 5))
    w, bias = b.constant(np.ones((4, 4, 1, 1), np.float32)), b.constant(np.ones((1, 4, 1, 1), np.float32))
    y, s = b.conv(x, w), b.sigmoid(x)
    b.output(b.add(y, bias), "a")
    b.output(b.add(b.mul(x, s), b.add(y, s)), "b")
    graph = b.finish()
    assert calls(graph).count("add") == 3
    assert "silu" not in calls(graph)
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 4, 5, 5)).astype(np.float32)}
    for found, expected in zip(run(graph, feeds), interpret(graph, feeds).values(), strict=True):
        assert_close(found, expected, "conv")


def test_constants_are_computed_once_and_weights_are_parameters():
    b = Builder()
    x = b.input("x", (1, 4))
    w = b.constant(np.arange(4, dtype=np.float32))
    b.output(b.mul(x, b.exp(b.neg(w))), "y")
    graph = b.finish()
    assert calls(graph) == ["mul"]
    (parameter,) = to_module(graph).parameters()
    np.testing.assert_allclose(parameter.numpy(), np.exp(-np.arange(4)), rtol=1e-6)


def test_unknown_operations_are_all_named():
    b = Builder()
    x = b.input("x", (3, 4))
    b.output(b.cumsum(b.mul(x, b.mod(x, x)), axis=1))
    with pytest.raises(MissingError, match="does not know cumsum, mod; give module:function instead"):
        to_module(b.finish())


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "shufflenetv2", "unet", "convnext_tiny"])
def test_networks_that_were_files(name):
    size = zoo.NETS[name].small
    path, feeds = zoo.export(name, size=size), zoo.inputs(name, size=size)
    found = run(cnncc.load_onnx(path, {k: a.shape for k, a in feeds.items()}), feeds)
    for y, expected in zip(found, zoo.reference(path, feeds).values(), strict=True):
        assert np.abs(y - expected).max() <= 1e-4 * np.abs(expected).max()
