"""The same input gives the same bits, from run to run, at a fixed number of threads, whatever ran in between."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import cnncc
from cnncc import nn, optim
from cnncc.train import TrainStep
from tests import zoo
from tests.tolerances import assert_close

THREADS = (1, 2, 3, 5)  # more than most test machines have processors, too
BATCHES = (1, 2, 3, 7, 16, 64)


class Residual(nn.Module):
    """3x3 convolutions (Winograd), one strided; a sum over all of a plane; a matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 7, 2, 3)
        self.conv1, self.conv2 = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.down = nn.Sequential(nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU())
        self.pool, self.linear = nn.AdaptiveAvgPool2d(1), nn.Linear(64, 11)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        x = self.first(x).relu()
        x = self.down(self.conv2(self.conv1(x).relu()) + x)
        return self.linear(self.pool(x).flatten(1))


class Mobile(nn.Module):
    """1x1, depthwise, squeeze-and-excitation, grouped convolution, pooling, softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 24, 3, 2, 1)
        self.wide, self.depth = nn.Conv2d(24, 48, 1), nn.Conv2d(48, 48, 3, padding=1, groups=48)
        self.squeeze, self.excite = nn.Conv2d(48, 8, 1), nn.Conv2d(8, 48, 1)
        self.grouped = nn.Conv2d(48, 48, 3, 2, 1, groups=6)
        self.pool, self.linear = nn.MaxPool2d(2), nn.Linear(48 * 25, 10)
        self.softmax = nn.Softmax(-1)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        x = self.depth(self.wide(self.first(x).relu()).relu())
        x = x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.softmax(self.linear(self.pool(self.grouped(x)).flatten(1)))


NETWORKS = {"residual": Residual, "mobile": Mobile}
_MADE: dict[tuple[str, int], cnncc.Executable] = {}


def compiled(name: str, threads: int) -> cnncc.Executable:
    """A network for any batch, compiled once a session."""
    if (name, threads) not in _MADE:
        nn.manual_seed(0)
        _MADE[name, threads] = cnncc.compile(NETWORKS[name]().eval(), threads=threads, shapes={"x": ("N", 3, 40, 40)})
    return _MADE[name, threads]


def images(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, batch]).standard_normal((batch, 3, 40, 40), dtype=np.float32)


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("name", NETWORKS)
def test_runs_repeat_at_every_batch(name: str, threads: int) -> None:
    executable = compiled(name, threads)
    first = {batch: bits(executable(images(batch))) for batch in BATCHES}
    for _ in range(3):
        for batch in reversed(BATCHES):
            executable(images(batch, seed=1))  # leaves other numbers in the arena
            assert bits(executable(images(batch))) == first[batch], batch


@pytest.mark.parametrize("name", NETWORKS)
def test_threads_agree_within_the_tolerance(name: str) -> None:
    """Across numbers of threads tiles may differ, and with them the order of sums."""
    expected = compiled(name, 1)(images(7))
    for threads in THREADS[1:]:
        assert_close(compiled(name, threads)(images(7)), expected, "network")


@pytest.mark.parametrize("threads", [2, 5])
def test_many_callers_at_once(threads: int) -> None:
    executable = compiled("mobile", threads)
    expected = {batch: bits(executable(images(batch))) for batch in (1, 3, 16)}
    wrong: list[int] = []

    def call() -> None:
        for batch in (16, 1, 3) * 4:
            if bits(executable(images(batch))) != expected[batch]:
                wrong.append(batch)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_compiling_again_gives_the_same_bits() -> None:
    nn.manual_seed(0)
    again = cnncc.compile(Residual().eval(), threads=2, shapes={"x": ("N", 3, 40, 40)})
    assert again is not compiled("residual", 2)
    assert bits(again(images(3))) == bits(compiled("residual", 2)(images(3)))


@pytest.mark.parametrize("threads", [1, 3])
def test_training_repeats(threads: int) -> None:
    """Weight gradients sum over the batch, in parallel: in a fixed order."""
    finals = []
    for _ in range(2):
        nn.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(3200, 4))
        step = TrainStep(net, loss="cross_entropy", optimizer=optim.SGD(lr=0.1, momentum=0.9), threads=threads)
        losses = [step(images(b, seed=b), np.arange(b) % 4)["loss"] for b in (16, 16, 5)]
        finals.append((losses, {name: bits(np.asarray(value)) for name, value in step.state_dict().items()}))
    assert finals[0] == finals[1]


@pytest.mark.slow
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2", "squeezenet", "densenet121", "efficientnet_b0", "unet"])
def test_networks_of_the_zoo_repeat(name: str, threads: int) -> None:
    pytest.importorskip("torch")
    size = zoo.NETS[name].small
    executable = cnncc.compile(zoo.export(name, dynamo=False, symbolic_batch=True, size=size), threads=threads)
    first = {batch: bits(executable(zoo.inputs(name, batch, size)["input"])) for batch in (1, 5, 32)}
    for _ in range(3):
        for batch, expected in first.items():
            executable(zoo.inputs(name, batch, size, seed=1)["input"])
            assert bits(executable(zoo.inputs(name, batch, size)["input"])) == expected, batch
