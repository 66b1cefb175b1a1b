"""Learning rates against torch.optim.lr_scheduler, value by value."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cnncc
from cnncc import optim
from cnncc.errors import GraphError
from cnncc.optim import schedules
from cnncc.optim.schedules import Schedule

pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler:UserWarning", "ignore:.*epoch parameter:UserWarning")

Make = Callable[[Any, Any], Any]  # of (the module of schedules, an optimizer)

CURVES: dict[str, Make] = {
    "lambda": lambda m, o: m.LambdaLR(o, lambda t: 0.95**t + 0.01 * t),
    "step": lambda m, o: m.StepLR(o, 7, gamma=0.3),
    "step-1": lambda m, o: m.StepLR(o, 1),
    "multi-step": lambda m, o: m.MultiStepLR(o, [30, 4, 4, 17], gamma=0.5),
    "constant": lambda m, o: m.ConstantLR(o, factor=0.25, total_iters=6),
    "linear": lambda m, o: m.LinearLR(o, 0.1, 0.9, total_iters=9),
    "linear-defaults": lambda m, o: m.LinearLR(o),
    "exponential": lambda m, o: m.ExponentialLR(o, 0.93),
    "polynomial": lambda m, o: m.PolynomialLR(o, total_iters=20, power=1.7),
    "cosine": lambda m, o: m.CosineAnnealingLR(o, T_max=13, eta_min=1e-3),
    "cosine-beyond": lambda m, o: m.CosineAnnealingLR(o, T_max=50),
    "restarts": lambda m, o: m.CosineAnnealingWarmRestarts(o, T_0=7),
    "restarts-longer": lambda m, o: m.CosineAnnealingWarmRestarts(o, T_0=4, T_mult=3, eta_min=1e-4),
    "one-cycle": lambda m, o: m.OneCycleLR(o, max_lr=0.5, total_steps=61),
    "one-cycle-linear": lambda m, o: m.OneCycleLR(
        o, max_lr=[0.5, 0.2], epochs=7, steps_per_epoch=10, anneal_strategy="linear", pct_start=0.41, div_factor=10.0,
        final_div_factor=50.0, base_momentum=0.7, max_momentum=0.9,
    ),
    "one-cycle-three-phase": lambda m, o: m.OneCycleLR(o, max_lr=0.5, total_steps=70, three_phase=True),
    "one-cycle-fixed-momentum": lambda m, o: m.OneCycleLR(o, max_lr=0.5, total_steps=61, cycle_momentum=False),
    "warm-up-cosine": lambda m, o: m.SequentialLR(
        o, [m.LinearLR(o, 0.01, total_iters=5), m.CosineAnnealingLR(o, 40, eta_min=1e-4)], milestones=[5]
    ),
    "three-in-a-row": lambda m, o: m.SequentialLR(
        o, [m.ConstantLR(o, 0.1, 3), m.ExponentialLR(o, 0.9), m.StepLR(o, 3)], milestones=[4, 21]
    ),
    "chained": lambda m, o: m.ChainedScheduler([m.LinearLR(o, 0.2, total_iters=8), m.ExponentialLR(o, 0.97)]),
}  # fmt: skip


def both(make: Make, lrs: tuple[float, float] = (0.2, 0.01)) -> tuple[Schedule, Any]:
    """Our schedule and torch's: a group with a rate of its own, and the rest."""
    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in lrs]
    theirs = torch.optim.SGD(
        [{"params": [w], "lr": lr} for w, lr in zip(weights, lrs, strict=True)], lr=lrs[1], momentum=0.9
    )
    ours = optim.SGD(lr=lrs[1], momentum=0.9, groups=(optim.Group("*.bias", lr=lrs[0]),))
    theirs.step()
    return make(schedules, ours), make(torch.optim.lr_scheduler, theirs)


@pytest.mark.parametrize("name", CURVES)
def test_rates_are_torchs(name: str) -> None:
    ours, theirs = both(CURVES[name])
    cycles = name.startswith("one-cycle")
    for _ in range(60):
        np.testing.assert_allclose(ours.get_last_lr(), theirs.get_last_lr(), rtol=1e-11, atol=1e-15)
        if cycles:
            momentum = theirs.optimizer.param_groups[1]["momentum"]
            assert ours.optimizer.momentum == pytest.approx(momentum, rel=1e-12)
        ours.step()
        theirs.step()


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize("cooldown", [0, 3])
def test_plateau_is_torchs(mode: str, threshold_mode: str, cooldown: int) -> None:
    options = {
        "mode": mode, "threshold_mode": threshold_mode, "cooldown": cooldown, "factor": 0.5, "patience": 2,
        "threshold": 0.02, "min_lr": [1e-3, 1e-5],
    }  # fmt: skip
    ours, theirs = both(lambda m, o: m.ReduceLROnPlateau(o, **options))
    rng = np.random.default_rng(1)
    seen = set()
    for k in range(80):
        metric = 1.0 / (1 + 0.1 * min(k, 30)) + 0.05 * rng.standard_normal()
        ours.step(metric if mode == "min" else -metric + 3)
        theirs.step(metric if mode == "min" else -metric + 3)
        rates = [g["lr"] for g in theirs.optimizer.param_groups]
        assert ours.get_last_lr() == pytest.approx(rates, rel=1e-12)
        seen.add(rates[0])
    assert len(seen) > 4  # it did reduce


@pytest.mark.parametrize("name", [*CURVES, "plateau"])
def test_a_restored_schedule_continues_with_the_same_bits(name: str) -> None:
    make = CURVES.get(name, lambda m, o: m.ReduceLROnPlateau(o, patience=1, factor=0.7, cooldown=1))
    metrics = [1.0 if k % 3 else 0.9**k for k in range(40)]
    whole, _ = both(make)
    expected = []
    for metric in metrics:
        whole.step(metric)
        expected.append(whole.get_last_lr())
    first, _ = both(make)
    for metric in metrics[:13]:
        first.step(metric)
    second, _ = both(make)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.get_last_lr() == expected[12]
    for metric, rates in zip(metrics[13:], expected[13:], strict=True):
        second.step(metric)
        assert second.get_last_lr() == rates


def test_adams_first_beta_cycles() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    theirs = torch.optim.Adam([weight], lr=0.1)
    theirs.step()
    ours = optim.Adam(lr=0.1)
    a = schedules.OneCycleLR(ours, 0.3, total_steps=30)
    b = torch.optim.lr_scheduler.OneCycleLR(theirs, 0.3, total_steps=30)
    for _ in range(29):
        a.step()
        b.step()
        assert ours.betas == pytest.approx(theirs.param_groups[0]["betas"], rel=1e-12)


def test_groups_without_a_rate_follow_the_optimizer() -> None:
    group = optim.Group("*.bias", weight_decay=0.0)
    optimizer = optim.SGD(lr=1.0, weight_decay=0.1, groups=(group,))
    schedules.StepLR(optimizer, 1, gamma=0.5).step()
    assert optimizer.of_group(group).lr == 0.5


def test_how_often_and_with_what() -> None:
    optimizer = optim.SGD(lr=0.1, momentum=0.9)
    assert schedules.OneCycleLR(optimizer, 0.1, total_steps=3).every == "batch"
    assert schedules.StepLR(optimizer, 3).every == "epoch"
    assert schedules.LinearLR(optimizer, every="batch").every == "batch"
    assert schedules.ReduceLROnPlateau(optimizer).needs_metric
    assert not schedules.StepLR(optimizer, 3).needs_metric


WRONG: dict[str, tuple[Callable[[optim.Optimizer], Any], str]] = {
    "step": (lambda o: schedules.StepLR(o, 0), "step_size must be a whole number above 0, got 0"),
    "period": (lambda o: schedules.CosineAnnealingLR(o, 2.5), "T_max must be a whole number above 0, got 2.5"),
    "gamma": (lambda o: schedules.ExponentialLR(o, float("nan")), "gamma must be a number, got nan"),
    "factor": (lambda o: schedules.LinearLR(o, 0), "start_factor must be above 0 and at most 1, got 0"),
    "plateau": (lambda o: schedules.ReduceLROnPlateau(o, factor=1.0), "factor must be below 1, got 1.0"),
    "metric": (lambda o: schedules.ReduceLROnPlateau(o).step(), "step must be given the metric"),
    "cycle": (lambda o: schedules.OneCycleLR(o, 0.1), "epochs must be a whole number above 0, got None"),
    "momentum": (
        lambda o: schedules.OneCycleLR(optim.Adagrad(), 0.1, total_steps=4), "needs an optimizer with momentum or betas"
    ),
    "rates": (lambda o: schedules.OneCycleLR(o, [0.1, 0.2], total_steps=4), "there must be one or 1"),
    "milestones": (
        lambda o: schedules.SequentialLR(o, [schedules.StepLR(o, 3)], [3]), "one milestone fewer than schedulers"
    ),
    "part": (
        lambda o: schedules.ChainedScheduler([schedules.ReduceLROnPlateau(o)]), "function of the number of steps alone"
    ),
    "other": (
        lambda o: schedules.ChainedScheduler([schedules.StepLR(o, 3), schedules.StepLR(optim.SGD(), 3)]),
        "all schedulers must have the same optimizer",
    ),
    "every": (lambda o: schedules.StepLR(o, 3, every="week"), "every must be 'epoch' or 'batch', got 'week'"),
    "state": (
        lambda o: schedules.ReduceLROnPlateau(o).load_state_dict(schedules.StepLR(o, 3).state_dict()),
        "a state has count, base, best",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_errors(name: str) -> None:
    make, message = WRONG[name]
    with pytest.raises(GraphError, match=message):
        make(optim.SGD(lr=0.1, momentum=0.9))


def test_too_many_steps() -> None:
    schedule = schedules.OneCycleLR(optim.SGD(momentum=0.9), 0.1, total_steps=2)
    schedule.step()
    schedule.step()
    with pytest.raises(GraphError, match="there are 2 steps, got 3"):
        schedule.step()


def test_the_page_names_every_schedule_and_optimizer() -> None:
    page = (Path(cnncc.__file__).parent.parent / "docs" / "training.md").read_text()
    names = [*schedules.__all__, *optim.__all__]
    assert not [n for n in names if n not in ("Schedule", "Optimizer", "schedules") and n not in page]
