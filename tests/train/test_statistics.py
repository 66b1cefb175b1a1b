"""Normalisation in training against PyTorch: results, gradients, running statistics, the count of batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cnncc import nn, optim
from cnncc.builder import Builder
from cnncc.interpret import interpret
from cnncc.train import TrainStep
from tests.tolerances import assert_close

torch = pytest.importorskip("torch")

LAYERS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "batch": (lambda m: m.BatchNorm2d(6), (5, 6, 4, 3)),
    "batch 1d": (lambda m: m.BatchNorm1d(6), (9, 6)),
    "batch 1d sequence": (lambda m: m.BatchNorm1d(6, momentum=0.3), (5, 6, 7)),
    "batch 3d": (lambda m: m.BatchNorm3d(2), (3, 2, 3, 2, 4)),
    "batch cumulative": (lambda m: m.BatchNorm2d(6, momentum=None), (5, 6, 4, 3)),
    "batch plain": (lambda m: m.BatchNorm2d(6, affine=False), (5, 6, 4, 3)),
    "batch untracked": (lambda m: m.BatchNorm2d(6, track_running_stats=False), (5, 6, 4, 3)),
    "instance": (lambda m: m.InstanceNorm2d(6, affine=True), (5, 6, 4, 3)),
    "instance tracked": (lambda m: m.InstanceNorm2d(6, affine=True, track_running_stats=True), (5, 6, 4, 3)),
    "instance 1d": (lambda m: m.InstanceNorm1d(6), (5, 6, 7)),
    "group": (lambda m: m.GroupNorm(3, 6), (5, 6, 4, 3)),
    "layer": (lambda m: m.LayerNorm((4, 3)), (5, 6, 4, 3)),
    "rms": (lambda m: m.RMSNorm(3, eps=1e-6), (5, 6, 4, 3)),
}


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("name", LAYERS)
def test_training_equals_torch(name: str, dtype: str) -> None:
    """Three batches of different sizes through scale --> normalisation; then evaluation."""
    make, shape = LAYERS[name]
    kind, theirs_kind = (np.float32, torch.float32) if dtype == "f32" else (np.float64, torch.float64)

    def around(m: Any) -> Any:
        first = {2: m.Linear, 3: m.Conv1d, 4: m.Conv2d, 5: m.Conv3d}[len(shape)]
        return m.Sequential(first(shape[1], shape[1], *(1,) * (len(shape) > 2)), make(m))

    torch.manual_seed(0)
    theirs = around(torch.nn).to(theirs_kind).train()
    ours = around(nn).to(kind)
    ours.load_state_dict(theirs.state_dict())
    weights = np.random.default_rng(3).standard_normal(shape[1:]).astype(kind)

    def loss(b: Builder, output: Any, target: Any) -> Any:
        moved = b.add(output, weights)
        return b.reduce_mean(b.mul(b.mul(moved, moved), weights), keepdims=False)

    step = TrainStep(ours, loss, optim.SGD(lr=0.1), threads=1)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    rng = np.random.default_rng(0)
    for batch in (shape[0], shape[0] - 1, 3):
        x = (rng.standard_normal((batch, *shape[1:])) * 2 + 1).astype(kind)
        made = step(x)["loss"]
        optimizer.zero_grad()
        y = theirs(torch.from_numpy(x))
        expected = ((y + torch.from_numpy(weights)) ** 2 * torch.from_numpy(weights)).mean()
        expected.backward()
        optimizer.step()
        assert made == pytest.approx(expected.item(), rel=1e-4 if dtype == "f32" else 1e-10)
    state = step.state_dict()
    assert set(theirs.state_dict()) == set(ours.state_dict())
    for key, value in theirs.state_dict().items():
        row = "exact" if key.endswith("num_batches_tracked") else "reduction" if dtype == "f64" else "training-step"
        assert_close(state[key], value.numpy(), row, dtype, f"{name} {key}")
    with torch.no_grad():
        evaluated = theirs.eval()(torch.from_numpy(x)).numpy()
    assert_close(step.predict(x), evaluated, "conv", dtype, f"{name} evaluated")


def test_the_op_says_which_variance() -> None:
    b = Builder("both")
    old, new, count = b.input("old", (3,)), b.input("new", (3,)), b.input("count", ())
    b.output(b.moving_average(old, new, 0.1), "onnx")
    b.output(b.moving_average(old, new, 0.1, count), "torch")
    feeds = {"old": np.float32([1, 2, 3]), "new": np.float32([4, 5, 6]), "count": np.float32(5)}
    made = interpret(b.finish(), feeds)
    np.testing.assert_allclose(made["onnx"], [1.3, 2.3, 3.3], rtol=1e-6)
    np.testing.assert_allclose(made["torch"], [0.9 + 0.5, 1.8 + 0.625, 2.7 + 0.75], rtol=1e-6)


def test_calls_on_arrays_move_statistics_in_training_mode() -> None:
    ours, theirs = nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    x = np.random.default_rng(0).standard_normal((4, 3, 5, 5)).astype(np.float32)
    for _ in range(2):
        assert_close(ours(x), theirs(torch.from_numpy(x)).detach().numpy(), "reduction")
    for key, value in theirs.state_dict().items():
        assert_close(ours.state_dict()[key], value.numpy(), "reduction", label=key)
    before = ours.state_dict()
    ours.eval()(x)
    assert all(np.array_equal(before[k], v) for k, v in ours.state_dict().items())


def test_a_shared_layer_moves_its_statistics_twice() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x: nn.Tensor) -> nn.Tensor:
            return self.norm(self.norm(x) * 2 + 1)

    ours, norm = Net(), torch.nn.BatchNorm1d(3)
    x = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    TrainStep(ours, lambda b, o, t: b.reduce_mean(o, keepdims=False), optim.SGD(lr=0.0), threads=1)(x)
    step = TrainStep(ours, lambda b, o, t: b.reduce_mean(o, keepdims=False), optim.SGD(lr=0.0), threads=1)
    step(x)
    norm(norm(torch.from_numpy(x)) * 2 + 1)
    for key, value in norm.state_dict().items():
        assert_close(step.state_dict()[f"norm.{key}"], value.numpy(), "reduction", label=key)
