"""Training agrees with PyTorch: the same weights and batches, 20 steps of SGD and of AdamW, in float32 and float64.

Networks at small sizes. What is compared is the losses, and where all parameters and statistics ended, as a part of
the way that they went. In float64 both do the same arithmetic to many digits, so that a wrong rule cannot hide. In
float32 a ReLU or a maximum that rounds to the other side changes a gradient, and the steps after it differ by that:
training multiplies a difference of one rounding by up to ten a step where the rate is high for a network and its
initial weights, between any two libraries, also between PyTorch in float32 and in float64. So a case trains at a rate,
and from weights, at which it goes the same way twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from cnncc import optim
from cnncc.train import TrainStep
from tests.tolerances import tolerance
from tests.zoo import branching, classic, mobile, other

torch = pytest.importorskip("torch")

from tests.torch_twin import twin  # noqa: E402  (it imports torch)

QUICK = (("lenet5", "sgd", "f32"), ("lenet5", "adamw", "f64"))  # the others build dozens of kernels each
STEPS = 20


@dataclass(frozen=True)
class Case:
    """A network with its input, so small that a test of it is quick and so large that its batch norms have pixels.

    sgd, adamw: factors on learning rates, where training at the full one doubles differences at every step.
    he: weights of convolutions by He et al. (2015), which keep the variance of activations, in place of PyTorch's,
        which are 2.4 times smaller. A batch norm behind small weights makes gradients large: MobileNetV2, fifty layers
        deep, has a first gradient of norm 64 from PyTorch's weights, of which one ReLU6 that flips changes a fiftieth.
    """

    make: Callable[[float, tuple[int, ...]], Any]
    size: tuple[int, ...]
    width: float = 1.0
    batch: int = 8
    channels: int = 3
    sgd: float = 1.0
    adamw: float = 1.0
    he: bool = False


CASES = {
    "lenet5": Case(classic.lenet5, (28, 28), channels=1),
    "resnet18": Case(classic.resnet18, (64, 64), 0.125),
    "mobilenetv2": Case(mobile.mobilenetv2, (64, 64), 0.25, batch=32, sgd=0.01, adamw=0.1, he=True),
    "densenet": Case(lambda width, size: branching.densenet((2, 2, 2, 2), width), (64, 64), 0.25, sgd=0.1, adamw=0.1),
    "unet": Case(other.unet, (16, 16), 0.25),
    "video": Case(other.video_c3d, (8, 32, 32), 0.125, 4),
}
RULES: dict[str, tuple[Any, Any, dict[str, float]]] = {
    "sgd": (optim.SGD, torch.optim.SGD, {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}),
    "adamw": (optim.AdamW, torch.optim.AdamW, {"lr": 1e-4, "weight_decay": 1e-2, "eps": 1e-5}),
}


@dataclass
class Run:
    """Losses of the steps, and parameters and buffers afterwards."""

    losses: list[float]
    state: dict[str, np.ndarray]


def network(case: Case, dtype: Any) -> Any:
    """The network in torch, as initialised there; dropout, whose masks no two libraries share, drops nothing."""
    torch.manual_seed(0)
    module = case.make(case.width, case.size)
    for layer in module.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
        if case.he and isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return module.to(dtype)


def batches(case: Case, classes: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """`classes`: how many, then the places of a label's own."""
    rng = np.random.default_rng(0)
    return [
        (
            rng.standard_normal((case.batch, case.channels, *case.size)),
            rng.integers(0, classes[0], (case.batch, *classes[1:])),
        )
        for _ in range(STEPS)
    ]


def classes_of(case: Case) -> tuple[int, ...]:
    with torch.no_grad():
        module = network(case, torch.float32).eval()
        return tuple(module(torch.zeros(2, case.channels, *case.size)).shape[1:])


def options_of(case: Case, rule: str) -> dict[str, float]:
    _, _, options = RULES[rule]
    return {**options, "lr": options["lr"] * getattr(case, rule)}


def run_torch(case: Case, rule: str, dtype: Any) -> Run:
    module = network(case, dtype).train()
    _, make, _ = RULES[rule]
    options = options_of(case, rule)
    optimizer = make(module.parameters(), **options)
    losses = []
    for x, y in batches(case, classes_of(case)):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(torch.from_numpy(x).to(dtype)), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return Run(losses, {n: v.numpy().astype(np.float64) for n, v in module.state_dict().items()})


def run_ours(case: Case, rule: str, dtype: Any) -> Run:
    module = network(case, dtype)
    make, _, _ = RULES[rule]
    step = TrainStep(twin(module), "cross_entropy", make(**options_of(case, rule)), threads=1)
    kind = np.float64 if dtype == torch.float64 else np.float32
    losses = [step(x.astype(kind), y)["loss"] for x, y in batches(case, classes_of(case))]
    state = step.state_dict()
    return Run(losses, {n: state[n].astype(np.float64) for n in module.state_dict()})


def distance(a: Run, b: Run, start: dict[str, np.ndarray]) -> float:
    """How far two runs end from each other, as a part of the way from the start; over all parameters and statistics."""
    apart = sum(float(((a.state[n] - b.state[n]) ** 2).sum()) for n in start)
    way = sum(float(((b.state[n] - start[n]) ** 2).sum()) for n in start)
    return (apart / way) ** 0.5


def spread(a: Run, b: Run) -> float:
    """The largest relative difference of the losses."""
    return max(abs(p - q) / abs(q) for p, q in zip(a.losses, b.losses, strict=True))


@pytest.mark.parametrize(
    ("name", "rule", "dtype"),
    [
        (name, rule, dtype) if (name, rule, dtype) in QUICK else pytest.param(name, rule, dtype, marks=pytest.mark.slow)
        for name in CASES
        for rule in RULES
        for dtype in ("f32", "f64")
    ],
)
def test_twenty_steps(name: str, rule: str, dtype: str) -> None:
    case, kind = CASES[name], torch.float32 if dtype == "f32" else torch.float64
    first = network(case, kind).state_dict()
    start = {n: v.numpy().astype(np.float64) for n, v in first.items() if v.dtype.is_floating_point}
    expected, ours = run_torch(case, rule, kind), run_ours(case, rule, kind)
    row = tolerance("trajectory", dtype)
    assert spread(ours, expected) <= row.rtol
    assert distance(ours, expected, start) <= row.atol
    for key, value in expected.state.items():
        if key.endswith("num_batches_tracked"):
            assert ours.state[key] == value == STEPS
