"""cnncc.compile as a whole: kinds of models, symbolic sizes, errors, what is promised of every compiled model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cnncc
from cnncc import nn
from cnncc.builder import Builder
from cnncc.errors import GraphError, UnsupportedError
from cnncc.interpret import interpret
from cnncc.ir.graph import Graph
from cnncc.kernels.inspect import imports
from cnncc.ops.winograd_matrices import transform_weights
from tests.tolerances import assert_close

RNG = np.random.default_rng(0)


def small_net(batch: int | str = 1, size: int | str = 12) -> Graph:
    """A graph with a convolution, a residual block with silu, pooling, a concat and a dense layer (fixed sizes)."""
    b = Builder("small")
    x = b.input("x", (batch, 3, size, size))

    def conv(v, oc, k, **window):
        fan = v.type.shape[1] * k * k
        w = (RNG.standard_normal((oc, v.type.shape[1], k, k)) / np.sqrt(fan)).astype(np.float32)
        return b.add(b.conv(v, w, **window), RNG.standard_normal((oc, 1, 1)).astype(np.float32))

    y = b.relu(conv(x, 16, 3, pads=1))
    z = b.add(conv(y, 16, 3, pads=1), y)
    z = b.mul(z, b.sigmoid(z))
    z = b.concat(z, conv(y, 32, 1), axis=1)
    z = b.max_pool(z, kernel=(2, 2), strides=(2, 2))
    b.output(b.reduce_mean(z, axes=(2, 3), keepdims=False), "features")
    b.output(z, "map")
    return b.finish()


@pytest.mark.parametrize("threads", [1, 2])
def test_equals_the_interpreter(threads: int) -> None:
    graph = small_net()
    exe = cnncc.compile(graph, threads=threads)
    x = RNG.standard_normal((1, 3, 12, 12)).astype(np.float32)
    expected = interpret(graph, {"x": x})
    for name, array in exe.run({"x": x}).items():
        assert_close(array, expected[name], "network")


def test_symbolic_batch_runs_any_size() -> None:
    graph = small_net("N")
    exe = cnncc.compile(graph)
    assert exe.inputs[0].shape == ("N", 3, 12, 12)
    for batch in (1, 2, 7, 64):
        x = RNG.standard_normal((batch, 3, 12, 12)).astype(np.float32)
        assert_close(exe.run({"x": x})["map"], interpret(graph, {"x": x})["map"], "network")


def test_other_symbols_are_specialised_on_first_use() -> None:
    graph = small_net("N", "H")
    exe = cnncc.compile(graph)
    for batch, size in ((1, 8), (2, 8), (1, 14)):
        x = RNG.standard_normal((batch, 3, size, size)).astype(np.float32)
        assert_close(exe.run({"x": x})["features"], interpret(graph, {"x": x})["features"], "network")
    assert len(exe.made) == 2, "one per spatial size; the batch stays symbolic"


def test_contradicting_symbols_name_both_places() -> None:
    b = Builder()
    b.output(b.add(b.input("a", ("N", 4)), b.input("b", ("N", 4))), "y")
    graph = b.finish()
    with pytest.raises(GraphError, match=r"N is 2 at input 'a' axis 0, but 3 at input 'b' axis 0"):
        cnncc.compile(graph, shapes={"a": (2, 4), "b": (3, 4)})
    with pytest.raises(GraphError, match=r"b: dimension 0 must be N = 2 .*dimension 0 of a.*got 3"):
        cnncc.compile(graph).run({"a": np.zeros((2, 4), np.float32), "b": np.zeros((3, 4), np.float32)})


def test_shapes_fix_a_symbolic_batch() -> None:
    exe = cnncc.compile(small_net("N"), shapes={"x": (2, 3, 12, 12)})
    assert exe.inputs[0].shape == (2, 3, 12, 12)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"target": "avx3"}, UnsupportedError, "target must be native"),
        ({"accuracy": "perfect"}, UnsupportedError, "accuracy must be"),
        ({"threads": 0}, UnsupportedError, "threads must be at least 1"),
        ({"shapes": {"y": (1, 3, 12, 12)}}, GraphError, "there is no input 'y'"),
        ({"shapes": {"x": (1, 4, 12, 12)}}, GraphError, "axis 1: must be 3, got 4"),
        ({"shapes": {"x": (1, 3, 12)}}, GraphError, "rank must be 4"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        cnncc.compile(small_net("N"), **arguments)


def test_kernels_allocate_nothing() -> None:
    exe = cnncc.compile(small_net("N"), threads=2)
    for symbol, data in exe.program.kernels.items():
        assert "TVMBackendAllocWorkspace" not in imports(data), symbol


def test_report_and_dump(tmp_path: Path) -> None:
    exe = cnncc.compile(small_net(), dump=tmp_path)
    assert not [row for row in exe.report().rows if row.fallback]
    assert "conv" in str(exe.report())
    names = [p.name for p in sorted(tmp_path.glob("*.cnn"))]
    assert names[0] == "00-remove-stop-gradients.cnn"
    assert names[-1].endswith("choose-tiles.cnn")
    text = (tmp_path / names[-1]).read_text()
    assert 'algorithm="' in text


def test_concat_is_written_in_place() -> None:
    exe = cnncc.compile(small_net())
    assert not [row for row in exe.report().rows if row.ops == "concat"]


def test_output_that_is_an_input_or_returned_twice() -> None:
    b = Builder()
    x = b.input("x", (2, 3))
    y = b.relu(x)
    for name, value in (("same", x), ("a", y), ("b", y), ("view", b.reshape(y, shape=(3, 2)))):
        b.output(value, name)
    graph = b.finish()
    array = RNG.standard_normal((2, 3)).astype(np.float32)
    results = cnncc.compile(graph).run({"x": array})
    for name, expected in interpret(graph, {"x": array}).items():
        np.testing.assert_array_equal(results[name], expected)


def test_empty_dimensions_give_empty_results() -> None:
    b = Builder()
    x = b.input("x", (0, 3, 4, 4))
    b.output(b.relu(b.conv(x, np.ones((2, 3, 3, 3), np.float32))), "y")
    y = cnncc.compile(b.finish()).run({"x": np.zeros((0, 3, 4, 4), np.float32)})["y"]
    assert y.shape == (0, 2, 2, 2)


def test_float64_runs() -> None:
    b = Builder()
    x = b.input("x", (1, 3, 6, 6), "f64")
    w = RNG.standard_normal((4, 3, 3, 3))
    b.output(b.tanh(b.conv(x, w, pads=1)), "y")
    graph = b.finish()
    array = RNG.standard_normal((1, 3, 6, 6))
    assert_close(cnncc.compile(graph).run({"x": array})["y"], interpret(graph, {"x": array})["y"], "conv")


def test_modules_compile_with_shapes() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    x = RNG.standard_normal((2, 3, 9, 9)).astype(np.float32)
    assert_close(cnncc.compile(net, shapes=("N", 3, 9, 9))(x), net(x), "network")


@pytest.mark.parametrize("accuracy", ["strict", "default", "fast"])
def test_accuracy_policies(accuracy: str) -> None:
    b = Builder()
    x = b.input("x", (1, 32, 28, 28))
    w = (RNG.standard_normal((32, 32, 3, 3)) / 17).astype(np.float32)
    b.output(b.conv(x, w, pads=1), "y")
    graph = b.finish()
    exe = cnncc.compile(graph, accuracy=accuracy)
    (row,) = (r for r in exe.report().rows if "conv" in r.ops)
    assert ("winograd" in row.algorithm) == (accuracy != "strict")
    array = RNG.standard_normal((1, 32, 28, 28)).astype(np.float32)
    kind = "conv" if accuracy == "strict" else "winograd"
    assert_close(exe.run({"x": array})["y"], interpret(graph, {"x": array})["y"], kind)


def test_weights_for_winograd_are_made_where_they_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of output channels at a time, the last one padded; to the same bits as at once."""
    b = Builder("wide")
    x = b.input("x", (1, 32, 28, 28))
    w = RNG.standard_normal((88, 32, 3, 3)).astype(np.float32)
    b.output(b.conv(x, w, pads=(1, 1, 1, 1)), "y")
    graph, feeds = b.finish(), {"x": RNG.standard_normal((1, 32, 28, 28)).astype(np.float32)}
    expected = cnncc.compile(graph).run(feeds)["y"]
    made: list[int] = []

    def transform(w: np.ndarray, m: int) -> np.ndarray:
        made.append(len(w))
        return transform_weights(w, m)

    monkeypatch.setattr("cnncc.ops.winograd.transform_weights", transform)
    monkeypatch.setattr("cnncc.assemble._SLICE", 1)
    exe = cnncc.compile(graph)
    assert any(row.algorithm.startswith("winograd") for row in exe.report().rows)
    np.testing.assert_array_equal(exe.run(feeds)["y"], expected)
    block = made[0]
    assert block in (4, 8, 16, 32)
    assert made == [block] * (88 // block) + [88 % block] * (88 % block > 0)
