"""Clipping, accumulation, groups and frozen parameters in compiled steps, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cnncc import losses, nn, optim
from cnncc.errors import GraphError
from cnncc.optim.schedules import OneCycleLR
from cnncc.train import TrainStep, fit
from cnncc.train.history import History
from cnncc.train.update import BATCHES, COUNT, Update
from tests.tolerances import assert_close
from tests.train.updates import Updating

SHAPES = {"a.weight": (5, 3, 3), "a.bias": (5,), "scale": (), "b.weight": (4, 7)}


def arrays(dtype: str, seed: int, size: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: np.asarray(size * rng.standard_normal(s), dtype) for n, s in SHAPES.items()}


# -- clipping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "short"), [("float32", "f32"), ("float64", "f64")])
@pytest.mark.parametrize("options", [{"clip_norm": 2.0}, {"clip_value": 0.3}, {"clip_norm": 1.5, "clip_value": 0.5}])
def test_clipping_equals_torch(options: dict[str, float], dtype: str, short: str) -> None:
    start = arrays(dtype, 0)
    ours = Updating(Update(optim.SGD(lr=0.1), **options), start)
    weights = [torch.nn.Parameter(torch.tensor(a)) for a in start.values()]
    theirs = torch.optim.SGD(weights, lr=0.1)
    scaled = 0
    for k, size in enumerate((1.0, 0.01, 100.0, 1e-9, 0.3)):
        gradients = arrays(dtype, k + 1, size)
        for w, g in zip(weights, gradients.values(), strict=True):
            w.grad = torch.tensor(g)
        if "clip_value" in options:
            torch.nn.utils.clip_grad_value_(weights, options["clip_value"])
        if "clip_norm" in options:
            norm = torch.nn.utils.clip_grad_norm_(weights, options["clip_norm"])
            scaled += float(norm) > options["clip_norm"]
        theirs.step()
        metrics = ours.step(gradients)
        if "clip_norm" in options:
            assert_close(metrics["gradient_norm"], norm.numpy(), "reduction", short)
        for name, w in zip(SHAPES, weights, strict=True):
            assert_close(ours.state[name], w.detach().numpy(), "reduction", short, f"step {k} {name}")
    assert scaled in (0, 2, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_norm_that_is_no_number(value: float) -> None:
    """As in PyTorch: an infinite norm makes the infinite element NaN and the others zero; NaN spreads."""
    ours = Updating(Update(optim.SGD(lr=1.0), clip_norm=1.0), arrays("float32", 0))
    gradients = arrays("float32", 1)
    gradients["b.weight"][1, 2] = value
    weights = [torch.nn.Parameter(torch.tensor(a)) for a in arrays("float32", 0).values()]
    for w, g in zip(weights, gradients.values(), strict=True):
        w.grad = torch.tensor(g)
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    torch.optim.SGD(weights, lr=1.0).step()
    ours.step(gradients)
    for name, w in zip(SHAPES, weights, strict=True):
        np.testing.assert_array_equal(ours.state[name], w.detach().numpy())


# -- whole steps ------------------------------------------------------------------------------------------------------


def layers(t: Any) -> Any:
    return t.Sequential(
        t.Conv2d(2, 8, 3, padding=1), t.ReLU(), t.Conv2d(8, 4, 3, padding=1), t.Flatten(), t.Linear(144, 3)
    )


def both() -> tuple[nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    theirs = layers(torch.nn)
    ours = layers(nn)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def data(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    return rng.standard_normal((n, 2, 6, 6)).astype(np.float32), rng.integers(0, 3, n)


def backward(model: torch.nn.Module, x: np.ndarray, y: np.ndarray) -> float:
    loss = torch.nn.functional.cross_entropy(model(torch.tensor(x)), torch.tensor(y))
    loss.backward()
    return loss.item()


def assert_same(step: TrainStep, model: torch.nn.Module) -> None:
    state = step.state_dict()
    for name, value in model.state_dict().items():
        assert_close(state[name], value.numpy(), "training-step", label=name)


def test_a_clipped_step_equals_torch() -> None:
    ours, theirs = both()
    step = TrainStep(ours, "cross_entropy", optim.SGD(lr=0.5), threads=1, clip_norm=0.2)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.5)
    x, y = data(8)
    for _ in range(3):
        optimizer.zero_grad()
        loss = backward(theirs, x, y)
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.2)
        optimizer.step()
        result = step(x, y)
        assert result == pytest.approx({"loss": loss, "gradient_norm": float(norm)}, rel=1e-4)
    assert_same(step, theirs)


@pytest.mark.parametrize(
    "optimizer", [optim.SGD(lr=0.1, momentum=0.9), optim.AdamW(lr=0.01, weight_decay=0.1)], ids=repr
)
def test_accumulated_batches_equal_one_large_batch(optimizer: Any) -> None:
    """Three batches of different sizes, twice, against PyTorch on all their samples at once."""
    ours, theirs = both()
    options = {n: v for n, v in vars(optimizer).items() if n != "groups"}
    reference = getattr(torch.optim, type(optimizer).__name__)(theirs.parameters(), **options)
    step = TrainStep(ours, "cross_entropy", optimizer, threads=1, clip_norm=0.7, accumulate=3)
    x, y = data(24)
    for large in (slice(0, 12), slice(12, 24)):
        reference.zero_grad()
        backward(theirs, x[large], y[large])
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.7)
        reference.step()
        before = step.state_dict() if large.start else None
        for k, part in enumerate((slice(0, 5), slice(5, 6), slice(6, 12))):
            result = step(x[large][part], y[large][part])
            assert ("gradient_norm" in result) == (k == 2)
            if before is not None and k < 2:
                np.testing.assert_array_equal(step.state_dict()["0.weight"], before["0.weight"])
        assert result["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)
        assert_same(step, theirs)
    assert step.state_dict().get(COUNT, 2) == 2


def test_accumulation_is_resumed_in_the_middle() -> None:
    """Two batches before and one after taking the state: the same bits as without the break."""
    x, y = data(12)
    steps = []
    for _ in range(2):
        ours, _ = both()
        steps.append(TrainStep(ours, "cross_entropy", optim.Adam(lr=0.01), threads=1, accumulate=3))
    for part in (slice(0, 4), slice(4, 7)):
        steps[0](x[part], y[part])
    state = steps[0].state_dict()
    assert state[BATCHES] == 2
    steps[1].load_state_dict(state)
    for step in steps:
        step(x[7:], y[7:])
    first, second = (s.state_dict() for s in steps)
    assert first[BATCHES] == 0
    assert first[COUNT] == 1
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array, err_msg=name)


def test_after_a_gradient_that_is_no_number_the_next_sums_are_clean() -> None:
    ours, _ = both()
    step = TrainStep(ours, "cross_entropy", optim.SGD(lr=0.0), threads=1, accumulate=2)
    x, y = data(4)
    for bad in (np.float32("nan"), np.float32(1)):
        step(x * bad, y)
        step(x, y)
        if bad != 1:
            good = {n: v.data for n, v in both()[0].named_parameters()}
            step.load_state_dict({**step.state_dict(), **good})
    assert all(np.isfinite(a).all() for a in step.state_dict().values())


def test_groups_and_frozen_parameters_equal_torch() -> None:
    ours, theirs = both()
    bias = optim.Group("*.bias", lr=0.4, weight_decay=0.0)
    optimizer = optim.SGD(lr=0.1, momentum=0.9, weight_decay=0.1, groups=(optim.Group("0.*", frozen=True), bias))
    step = TrainStep(ours, "cross_entropy", optimizer, threads=1)
    before = theirs.state_dict()["0.weight"].clone()
    named = dict(theirs.named_parameters())
    reference = torch.optim.SGD(
        [
            {"params": [named["2.bias"], named["4.bias"]], "lr": 0.4, "weight_decay": 0.0},
            {"params": [named["2.weight"], named["4.weight"]]},
        ],
        lr=0.1, momentum=0.9, weight_decay=0.1,
    )  # fmt: skip
    x, y = data(8)
    compiled = None
    for k in range(5):
        bias.lr = reference.param_groups[0]["lr"] = 0.4 / (k + 1)
        reference.zero_grad()
        backward(theirs, x, y)
        reference.step()
        step(x, y)
        compiled = compiled or step.executable
    assert step.executable is compiled
    np.testing.assert_array_equal(step.state_dict()["0.weight"], before.numpy())
    np.testing.assert_array_equal(step.sync().state_dict()["0.weight"], before.numpy())
    assert_same(step, theirs)
    assert not any(name.startswith("0.") for name in step.executable.state)


def test_frozen_weights_are_packed_when_compiled() -> None:
    """A trained weight is brought into its layout in every step, a frozen one is a constant in that layout."""
    net = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(64, 2))
    step = TrainStep(net, "cross_entropy", optim.SGD(lr=0.1, groups=(optim.Group("0.*", frozen=True),)), threads=1)
    step.prepare(np.zeros((2, 16, 6, 6), np.float32), np.zeros(2, np.int64))
    rows = {r.layer for r in step.executable.report().rows}
    assert "layout of 1.weight" in rows
    assert "layout of 0.weight" not in rows
    assert not any("grad of 0" in row for row in rows)


def run(folder: Path, epochs: int, resume: bool = False) -> tuple[TrainStep, History]:
    """Everything at once: five batches an epoch, an update after every third."""
    nn.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(64, 3))
    optimizer = optim.AdamW(lr=0.01, groups=[optim.Group("*.bias", weight_decay=0.0, lr=0.02)])
    loss = losses.CrossEntropy(label_smoothing=0.1) + losses.L2Penalty(1e-3)
    step = TrainStep(net, loss, optimizer, threads=1, clip_norm=1.0, accumulate=3, seed=1)
    schedule = OneCycleLR(optimizer, [0.05, 0.03], total_steps=40)
    history = fit(
        step, data(76), epochs=epochs, batch=16, schedule=schedule, checkpoint=folder / "run.npz", resume=resume
    )
    return step, history


def test_a_resumed_run_with_everything_has_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole, history = run(tmp_path / "whole", 4)
    run(tmp_path, 2)
    resumed, _ = run(tmp_path, 4, resume=True)
    state = resumed.state_dict()
    assert state[COUNT] == 4 * 5 // 3
    for name, array in whole.state_dict().items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)
    norms = [e.train["gradient_norm"] for e in history.epochs]  # of one or two updates an epoch, not of five batches
    assert min(norms) > 0.5 * max(norms)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "norm": (lambda: Update(optim.SGD(), clip_norm=0.0), "clip_norm must be a number above 0, got 0.0"),
    "value": (lambda: Update(optim.SGD(), clip_value=float("nan")), "clip_value must be a number above 0, got nan"),
    "none": (lambda: Update(optim.SGD(), accumulate=0), "accumulate must be a whole number above 0, got 0"),
    "half": (lambda: Update(optim.SGD(), accumulate=1.5), "accumulate must be a whole number above 0, got 1.5"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors(name: str) -> None:
    make, message = WRONG[name]
    with pytest.raises(GraphError, match=message):
        make()


def test_a_loss_that_is_no_scalar_is_refused() -> None:
    ours, _ = both()
    step = TrainStep(ours, losses.CrossEntropy(reduction="none"), optim.SGD(lr=0.1), threads=1)
    with pytest.raises(GraphError, match="scalar"):
        step(*data(4))
