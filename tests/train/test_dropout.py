"""Dropout in the graph: known bits, the same bits whatever the threads and layouts, distribution, gradients, modes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import cnncc
from cnncc import nn, optim
from cnncc.autodiff import vjp
from cnncc.builder import Builder
from cnncc.errors import GraphError
from cnncc.interpret import interpret
from cnncc.ir.graph import Graph
from cnncc.ops.math import NumpyMath
from cnncc.ops.random import philox
from cnncc.train import TrainStep

KEY = np.array([3, 5, 0], np.uint32)


def words(*values: int) -> tuple[np.ndarray, ...]:
    return tuple(np.full(1, v, np.uint32) for v in values)


# The published test vectors of Random123 (kat_vectors, philox4x32 with 10 rounds): counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_philox_has_its_published_bits(counter, key, result):
    made = philox(NumpyMath(), words(*counter), words(*key), lambda w: w)
    assert tuple(int(w[0]) for w in made) == result


def graph_of(shape: tuple[int | str, ...], p: float, axes: int = 0, dtype: str = "f32") -> Graph:
    b = Builder("dropout")
    x, key = b.input("x", shape, dtype), b.input("key", (3,), "u32")
    b.output(b.dropout_train(b.mul(x, 2.0), key, p=p, stream=1, axes=axes), "y")
    return b.finish()


@pytest.mark.parametrize("target", ["native", "avx2", "generic"])
@pytest.mark.parametrize(("shape", "axes"), [((3, 5, 7, 9), 0), ((2, 19, 4, 6), 2), ((1000,), 0)])
def test_compiled_bits_equal_the_reference(target, shape, axes):
    graph = graph_of(("N", *shape[1:]) if len(shape) > 1 else shape, 0.3, axes)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = interpret(graph, {"x": x, "key": KEY})["y"]
    for threads in (1, 2):
        exe = cnncc.compile(graph, target=target, threads=threads)
        np.testing.assert_array_equal(exe.run({"x": x, "key": KEY})["y"], expected)


def test_a_layout_between_convolutions_changes_no_bits():
    """Dropout in the blocked layout of the convolutions around it drops the elements that it drops alone."""
    b = Builder("layers")
    x, key = b.input("x", ("N", 16, 9, 9)), b.input("key", (3,), "u32")
    eye = np.zeros((16, 16, 3, 3), np.float32)
    eye[range(16), range(16), 1, 1] = 1
    y = b.dropout_train(b.conv(x, eye, pads=1), key, p=0.5, stream=7)
    b.output(b.conv(y, eye, pads=1), "y")
    graph = b.finish()
    feed = {"x": np.random.default_rng(0).uniform(1, 2, (3, 16, 9, 9)).astype(np.float32), "key": KEY}
    exe = cnncc.compile(graph, threads=1, accuracy="strict")
    assert any("Bcd" in str(r.layouts) or "16b" in str(r) for r in exe.report().rows)
    np.testing.assert_array_equal(exe.run(feed)["y"] == 0, interpret(graph, feed)["y"] == 0)


def masks(p: float, count: int, step: int = 0, shape: tuple[int, ...] = (64, 64)) -> np.ndarray:
    graph = graph_of(shape, p)
    exe = cnncc.compile(graph, threads=1)
    ones = np.ones(shape, np.float32)
    return np.stack(
        [exe.run({"x": ones, "key": np.array([9, 1, step + k], np.uint32)})["y"] != 0 for k in range(count)]
    )


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_distribution(p):
    """Frequencies within five standard deviations: of all elements, of each over the steps, of pairs of neighbours."""
    kept = masks(p, 200)
    sigma = np.sqrt(p * (1 - p))
    assert abs(kept.mean() - (1 - p)) < 5 * sigma / np.sqrt(kept.size)
    assert np.abs(kept.mean(0) - (1 - p)).max() < 5.5 * sigma / np.sqrt(len(kept))
    centred = kept - (1 - p)
    for axis in itertools.product((0, 1), repeat=3):
        if any(axis):
            moved = np.roll(centred, axis, (0, 1, 2))
            assert abs((centred * moved).mean()) < 5 * sigma**2 / np.sqrt(kept.size), axis


def test_seeds_streams_and_steps_differ():
    x = np.ones((50, 50), np.float32)
    found = set()
    for seed, stream, step in ((1, 1, 0), (2, 1, 0), (1, 2, 0), (1, 1, 1)):
        b = Builder("one")
        b.output(b.dropout_train(b.input("x", x.shape), b.input("key", (3,), "u32"), p=0.5, stream=stream), "y")
        found.add(interpret(b.finish(), {"x": x, "key": np.array([seed, 0, step], np.uint32)})["y"].tobytes())
    assert len(found) == 4


def test_whole_channels_fall_together():
    y = interpret(graph_of((8, 32, 5, 5), 0.5, 2), {"x": np.ones((8, 32, 5, 5), np.float32), "key": KEY})["y"]
    per_channel = (y != 0).reshape(256, -1)
    assert np.all(per_channel.all(1) | ~per_channel.any(1))
    assert 0.3 < per_channel[:, 0].mean() < 0.7


def test_the_gradient_uses_the_mask_of_the_forward_pass():
    graph = vjp(graph_of((40, 30), 0.4), ["x"], keep_outputs=True)
    x = np.ones((40, 30), np.float32)
    result = cnncc.compile(graph, threads=1).run({"x": x, "key": KEY, "d_y": x})
    np.testing.assert_array_equal(result["y"], result["grad_x"])
    assert 0 < (result["y"] == 0).sum() < x.size


def test_probabilities_are_checked():
    with pytest.raises(GraphError, match=r"from 0 to 1, got 1\.5"):
        nn.Dropout(1.5)
    b = Builder()
    x, key = b.input("x", (3,)), b.input("key", (2,), "u32")
    with pytest.raises(GraphError, match=r"key must be u32\[3\]"):
        b.dropout_train(x, key)


X = np.random.default_rng(0).standard_normal((32, 4, 6, 6)).astype(np.float32)


class Outputs(nn.Module):
    """Trains one scale, so that the loss shows the mask: sum of kept elements."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.scale = layer, nn.Parameter(np.ones(1, np.float32))

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return self.layer(x * x.trace.value(self.scale))


def mean_step(layer: nn.Module, seed: int | None = 0, threads: int = 1) -> TrainStep:
    return TrainStep(
        Outputs(layer),
        lambda b, o, t: b.reduce_mean(b.mul(o, t), keepdims=False),
        optim.SGD(lr=0.0),
        threads=threads,
        seed=seed,
    )


def test_every_step_has_a_mask_of_its_own_and_a_seed_repeats_them():
    weights = np.random.default_rng(1).standard_normal(X.shape).astype(np.float32)
    runs = [
        [step(X, weights)["loss"] for _ in range(4)]
        for step in (mean_step(nn.Dropout(0.5)), mean_step(nn.Dropout(0.5)), mean_step(nn.Dropout(0.5), 1))
    ]
    assert runs[0] == runs[1] != runs[2]
    assert len(set(runs[0])) == 4
    nn.manual_seed(7)
    first = mean_step(nn.Dropout(0.5), None)(X, weights)
    nn.manual_seed(7)
    assert mean_step(nn.Dropout(0.5), None)(X, weights) == first


def test_evaluation_drops_nothing():
    step = mean_step(nn.Sequential(nn.Dropout(0.5), nn.Dropout2d(0.5)))
    step(X, X)
    np.testing.assert_array_equal(step.predict(X), X)
    assert "dropout" not in str(step.compile_inference().report())


@pytest.mark.parametrize("layer", [nn.Dropout(1.0), nn.Dropout2d(1.0)])
def test_probability_one_drops_all(layer):
    assert mean_step(layer)(X, np.ones_like(X))["loss"] == 0


def test_functions_and_calls_on_arrays():
    class Net(nn.Module):
        def forward(self, x: nn.Tensor) -> nn.Tensor:
            return nn.functional.dropout2d(nn.functional.dropout(x, 0.25, self.training), training=self.training)

    net = Net()
    first, second = net(X), net(X)
    assert np.any(first != second)
    np.testing.assert_allclose(first[first != 0], X[first != 0] / 0.375, rtol=1e-6)
    np.testing.assert_array_equal(net.eval()(X), X)


def test_alpha_dropout_keeps_mean_and_variance():
    nn.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((400, 300)).astype(np.float32)
    ours = nn.AlphaDropout(0.3)(x)
    theirs = torch.nn.AlphaDropout(0.3)(torch.from_numpy(x)).numpy()
    assert abs(ours.mean()) < 0.02
    assert abs(ours.std() - theirs.std()) < 0.02
    dropped = ours == np.unique(ours.round(5))[0]  # the saturated value, at most
    assert np.isclose(ours.min(), theirs.min(), rtol=1e-4) or dropped.any()
