"""TrainStep against PyTorch, step by step, and the digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cnncc import nn, optim
from cnncc.demo.networks import LeNet
from cnncc.demo.train_digits import load_digits, train
from cnncc.errors import GraphError
from cnncc.train import TrainStep
from tests.tolerances import assert_close


def torch_lenet() -> torch.nn.Module:
    t = torch.nn

    class Net(t.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = t.Sequential(
                t.Conv2d(1, 16, 3, padding=1), t.ReLU(), t.MaxPool2d(2),
                t.Conv2d(16, 32, 3, padding=1), t.ReLU(), t.MaxPool2d(2),
            )  # fmt: skip
            self.classifier = t.Sequential(t.Flatten(), t.Linear(128, 64), t.ReLU(), t.Linear(64, 10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.classifier(self.features(x))

    return Net()


def both_steps(
    ours: nn.Module, theirs: torch.nn.Module, x: np.ndarray, y: np.ndarray, steps: int, **options: float
) -> TrainStep:
    """Train both from the same weights on the same batches, and compare losses and parameters after each step."""
    ours.load_state_dict(theirs.state_dict())
    theirs.train()
    optimizer = torch.optim.SGD(theirs.parameters(), **options)
    step = TrainStep(ours, "cross_entropy", optim.SGD(**options), threads=1)
    for k in range(steps):
        part = slice(k * 32, (k + 1) * 32 - k)  # batches of different sizes
        loss = step(x[part], y[part])["loss"]
        optimizer.zero_grad()
        expected = torch.nn.functional.cross_entropy(
            theirs(torch.from_numpy(x[part])), torch.from_numpy(y[part]).long()
        )
        expected.backward()
        optimizer.step()
        assert_close(np.float32(loss), np.float32(expected.item()), "network")
    state = step.state_dict()
    for name, value in theirs.state_dict().items():
        if name in state:
            assert_close(state[name], value.numpy(), "network")
    return step


@pytest.mark.parametrize("nesterov", [False, True])
def test_lenet_agrees_with_torch(nesterov: bool) -> None:
    torch.manual_seed(0)
    images, labels, _, _ = load_digits()
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3, "nesterov": nesterov}
    both_steps(LeNet(), torch_lenet(), images, labels, 8, **options)


def test_batch_norm_agrees_with_torch() -> None:
    torch.manual_seed(0)

    def make(m):
        return m.Sequential(m.Conv2d(1, 4, 3, bias=False), m.BatchNorm2d(4), m.ReLU(), m.Flatten(), m.Linear(144, 10))

    images, labels, _, _ = load_digits()
    step = both_steps(make(nn), make(torch.nn), images, labels, 4, lr=0.1)
    assert "1.running_var" in step.state_dict()


def test_digits_are_learnt() -> None:
    _, accuracy = train()
    assert accuracy >= 0.97


def test_state_survives(tmp_path: object) -> None:
    """A step restored from another's state continues with the same bits."""
    images, labels, _, _ = load_digits()
    optimizer = optim.SGD(lr=0.05, momentum=0.9)
    nn.manual_seed(0)
    first = TrainStep(LeNet(), "cross_entropy", optimizer, threads=1)
    first(images[:32], labels[:32])
    second = TrainStep(LeNet(), "cross_entropy", optimizer, threads=1)
    second.load_state_dict(first.state_dict())
    assert first(images[32:64], labels[32:64]) == second(images[32:64], labels[32:64])


def test_another_batch_and_rate_compile_nothing() -> None:
    images, labels, _, _ = load_digits()
    optimizer = optim.SGD(lr=0.05)
    step = TrainStep(LeNet(), "cross_entropy", optimizer, threads=1)
    step(images[:32], labels[:32])
    compiled = step.executable
    optimizer.lr = 0.01
    step(images[:7], labels[:7])
    assert step.executable is compiled


def test_other_shapes_are_refused() -> None:
    images, labels, _, _ = load_digits()
    step = TrainStep(LeNet(), "cross_entropy", optim.SGD(lr=0.05), threads=1)
    step(images[:4], labels[:4])
    with pytest.raises(GraphError, match="batches must be like the first one"):
        step(np.zeros((4, 1, 9, 9), np.float32), labels[:4])


def test_a_pool_changes_places_before_the_gradients_are_made():
    """DenseNet's transition: forward and both backward convolutions run on the pooled image."""

    def layers(t):
        return (
            t.Conv2d(1, 16, 3, padding=1),
            t.ReLU(),
            t.Conv2d(16, 8, 1),
            t.AvgPool2d(2),
            t.Flatten(),
            t.Linear(128, 10),
        )

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 1, 8, 8)).astype(np.float32), rng.integers(0, 10, 64)
    step = both_steps(nn.Sequential(*layers(nn)), torch.nn.Sequential(*layers(torch.nn)), x, y, 2, lr=0.1)
    work = [r.gflop for r in step._executable.report().rows if "conv" in r.ops and r.gflop]
    whole, pooled = 2e-9 * 9 * 16 * 64, 2e-9 * 16 * 8 * 16
    assert sorted(work) == pytest.approx([pooled] * 3 + [whole] * 2, rel=1e-6)
