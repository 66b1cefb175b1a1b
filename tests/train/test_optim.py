"""Update rules against torch.optim, step by step: parameters and state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cnncc import optim
from cnncc.errors import GraphError
from cnncc.train.update import COUNT, Update
from tests.tolerances import assert_close
from tests.train.updates import Updating

STEPS = 20
SHAPES = {"features.weight": (5, 3, 3), "features.bias": (5,), "scale": (), "head.weight": (4, 7)}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd-decay": ("SGD", {"lr": 0.1, "weight_decay": 0.05}),
    "sgd-momentum": ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}),
    "sgd-dampening": ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.3}),
    "sgd-nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}),
    "adam": ("Adam", {}),
    "adam-decay": ("Adam", {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1}),
    "adam-amsgrad": ("Adam", {"lr": 0.05, "amsgrad": True}),
    "adam-no-momentum": ("Adam", {"lr": 0.01, "betas": (0.0, 0.99)}),
    "adamw": ("AdamW", {}),
    "adamw-decay": ("AdamW", {"lr": 0.05, "betas": (0.7, 0.9), "weight_decay": 0.3}),
    "adamw-amsgrad": ("AdamW", {"lr": 0.02, "amsgrad": True, "weight_decay": 0.0}),
    "rmsprop": ("RMSprop", {}),
    "rmsprop-momentum": ("RMSprop", {"lr": 0.02, "momentum": 0.9, "alpha": 0.9, "eps": 1e-3}),
    "rmsprop-centered": ("RMSprop", {"lr": 0.02, "centered": True, "eps": 1e-3, "weight_decay": 0.1}),
    "rmsprop-both": ("RMSprop", {"lr": 0.005, "centered": True, "momentum": 0.8, "alpha": 0.95, "eps": 1e-2}),
    "adagrad": ("Adagrad", {}),
    "adagrad-decay": ("Adagrad", {"lr": 0.1, "lr_decay": 0.05, "weight_decay": 0.02}),
    "adagrad-start": ("Adagrad", {"lr": 0.3, "initial_accumulator_value": 0.5, "eps": 1e-3}),
}


def arrays(dtype: str, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(s).astype(dtype) for n, s in SHAPES.items()}


def step_both(ours: Updating, theirs: Any, weights: dict[str, Any], k: int, dtype: str = "float32") -> None:
    """A step of both optimizers with gradients that depend on k."""
    gradients = arrays(dtype, k + 1)
    for name, w in weights.items():
        w.grad = torch.tensor(gradients[name])
    theirs.step()
    ours.step(gradients)


def assert_equal_parameters(ours: Updating, weights: dict[str, Any]) -> None:
    for name, w in weights.items():
        assert_close(ours.state[name], w.detach().numpy(), "training-step", label=name)


def compare(case: str, dtype: str, compiled: bool) -> None:
    kind, options = CASES[case]
    start = arrays(dtype, 0)
    ours = Updating(Update(getattr(optim, kind)(**options)), start, compiled)
    weights = {n: torch.nn.Parameter(torch.tensor(a)) for n, a in start.items()}
    theirs = getattr(torch.optim, kind)(weights.values(), **options)
    row = "reduction" if dtype == "float64" else "training-step"
    short = "f64" if dtype == "float64" else "f32"
    for k in range(STEPS):
        step_both(ours, theirs, weights, k, dtype)
        for name, w in weights.items():
            label = f"{case} step {k} {name}"
            assert_close(ours.state[name], w.detach().numpy(), row, short, label)
            for slot, value in theirs.state[w].items():
                if slot == "step":
                    assert ours.state.get(COUNT, int(value)) == int(value)
                elif value is not None and ours.state[f"{name}.{slot}"].size:
                    assert_close(ours.state[f"{name}.{slot}"], value.numpy(), row, short, f"{label}.{slot}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_equals_torch(case: str, dtype: str) -> None:
    compare(case, dtype, compiled=False)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ["sgd-dampening", "adam-amsgrad", "adamw-decay", "rmsprop-both", "adagrad-decay"])
def test_compiled_equals_torch(case: str, dtype: str) -> None:
    compare(case, dtype, compiled=True)


@pytest.mark.parametrize("case", ["sgd-nesterov", "adamw", "rmsprop-both", "adagrad-decay"])
def test_every_number_may_change_between_steps(case: str) -> None:
    """The compiled update follows hyperparameters that change after every step, as torch's does."""
    kind, options = CASES[case]
    start = arrays("float32", 0)
    optimizer = getattr(optim, kind)(**options)
    ours = Updating(Update(optimizer), start)
    weights = {n: torch.nn.Parameter(torch.tensor(a)) for n, a in start.items()}
    theirs = getattr(torch.optim, kind)(weights.values(), **options)
    for k in range(6):
        for name, value in vars(optimizer).items():
            if isinstance(value, bool) or name == "groups":
                continue
            changed = tuple(0.9 * v for v in value) if isinstance(value, tuple) else 0.8 * value
            setattr(optimizer, name, changed)
            theirs.param_groups[0][name] = changed
        step_both(ours, theirs, weights, k)
    assert_equal_parameters(ours, weights)


def test_a_term_that_was_left_out_cannot_come_back() -> None:
    optimizer = optim.SGD(lr=0.1)
    ours = Updating(Update(optimizer), arrays("float32", 0))
    optimizer.weight_decay = 0.1
    with pytest.raises(GraphError, match="terms of the update are fixed when the step is compiled"):
        ours.step(arrays("float32", 1))


def test_a_rate_that_is_no_number_is_refused_before_the_step() -> None:
    optimizer = optim.SGD(lr=0.1)
    ours = Updating(Update(optimizer), arrays("float32", 0))
    for rate in (float("inf"), None, "0.1", np.array([0.1, 0.2])):
        optimizer.lr = rate
        with pytest.raises(GraphError, match=r"hyperparameters must be finite numbers, got SGD\(lr="):
            ours.step(arrays("float32", 1))


def test_corrections_right_after_resume() -> None:
    """State restored in a new update: the step counter is among it, and the next update has the same bits."""
    optimizer = optim.Adam(lr=0.1)
    first = Updating(Update(optimizer), arrays("float32", 0))
    for k in range(3):
        first.step(arrays("float32", k + 1))
    second = Updating(Update(optimizer), arrays("float32", 0))
    second.state.update(first.state)
    assert second.state[COUNT] == 3
    first.step(arrays("float32", 9))
    second.step(arrays("float32", 9))
    for name, array in first.state.items():
        np.testing.assert_array_equal(second.state[name], array)


def test_a_tiny_rate_of_change_is_not_lost() -> None:
    """1 - beta^t in float32 would be zero for betas this close to 1; torch computes it in float64, and so do we."""
    ours = Updating(Update(optim.Adam(lr=0.1, betas=(0.9, 1 - 1e-9))), {"w": np.ones(3, np.float32)})
    weight = torch.nn.Parameter(torch.ones(3))
    theirs = torch.optim.Adam([weight], lr=0.1, betas=(0.9, 1 - 1e-9))
    for k in range(3):
        gradient = np.random.default_rng(k).standard_normal(3).astype(np.float32)
        weight.grad = torch.tensor(gradient)
        theirs.step()
        ours.step({"w": gradient})
    assert_close(ours.state["w"], weight.detach().numpy(), "training-step")


# -- groups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True])
def test_groups_equal_torchs(compiled: bool) -> None:
    start = arrays("float32", 0)
    biases = optim.Group(("*.bias", "scale"), weight_decay=0.0, lr=0.5)
    ours = Updating(
        Update(
            optim.AdamW(
                lr=0.1, weight_decay=0.2, groups=(biases, optim.Group("features.*", betas=(0.5, 0.6), eps=1e-3))
            )
        ),
        start,
        compiled,
    )
    weights = {n: torch.nn.Parameter(torch.tensor(a)) for n, a in start.items()}
    groups = [
        {"params": [weights["features.bias"], weights["scale"]], "weight_decay": 0.0, "lr": 0.5},
        {"params": [weights["features.weight"]], "betas": (0.5, 0.6), "eps": 1e-3},
        {"params": [weights["head.weight"]]},
    ]
    theirs = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.2)
    for k in range(8):
        biases.lr = theirs.param_groups[0]["lr"] = 0.5 / (k + 1)
        step_both(ours, theirs, weights, k)
    assert_equal_parameters(ours, weights)


def test_frozen_parameters_are_no_part_of_the_update() -> None:
    update = Update(optim.SGD(lr=0.1, momentum=0.9, groups=(optim.Group("features.*", frozen=True),)))
    ours = Updating(update, arrays("float32", 0))
    assert {v.name for v in ours.graph.inputs} == {
        "scale", "head.weight", "d_scale", "d_head.weight", "hyperparameters", "scale.momentum_buffer",
        "head.weight.momentum_buffer",
    }  # fmt: skip


def test_the_first_group_that_matches_wins() -> None:
    groups = (optim.Group("head.weight", lr=1.0), optim.Group("*.weight", lr=2.0))
    assert [optim.groups.find_group(groups, n) for n in SHAPES] == [groups[1], None, None, groups[0]]


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "rate": (lambda: optim.SGD(lr=-1), "SGD: lr must be a number that is not negative, got -1"),
    "nan": (lambda: optim.Adam(lr=float("nan")), "Adam: lr must be a number that is not negative, got nan"),
    "text": (lambda: optim.SGD(lr="0.1"), "SGD: lr must be a number that is not negative, got 0.1"),
    "nesterov": (lambda: optim.SGD(nesterov=True), "nesterov needs a momentum above 0 and no dampening"),
    "betas": (lambda: optim.AdamW(betas=(0.9, 1.0)), r"AdamW: betas must be at least 0 and below 1, got \(0.9, 1.0\)"),
    "one-beta": (lambda: optim.AdamW(betas=(0.9,)), "betas must be two numbers"),
    "decay": (lambda: optim.Adagrad(lr_decay=-0.1), "Adagrad: lr_decay must be a number that is not negative"),
    "alpha": (lambda: optim.RMSprop(alpha=-0.1), "RMSprop: alpha must be"),
    "unknown": (
        lambda: optim.SGD().of_group(optim.Group("*", beta=0.1)),
        r"Group\('\*', beta=0.1\): hyperparameters of SGD are lr, momentum",
    ),
    "value": (lambda: optim.SGD().of_group(optim.Group("*", lr=-3)), "SGD: lr must be"),
    "frozen": (lambda: optim.Group("*", frozen=True, lr=0.1), "frozen parameters take no hyperparameters, got lr"),
    "idle": (
        lambda: Update(optim.SGD(groups=(optim.Group(("*.bias", "*.beta"), lr=0.1),))).trained(SHAPES),
        r"every name must match a trained parameter, got '\*.beta'; there are features.weight",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors(name: str) -> None:
    make, message = WRONG[name]
    with pytest.raises(GraphError, match=message):
        make()
