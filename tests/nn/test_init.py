"""Initialisation against torch's: the same distributions for every layer, whatever its shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cnncc import nn
from cnncc.errors import GraphError

LAYERS: dict[str, Callable[[Any], Any]] = {
    "Linear": lambda m: m.Linear(300, 200),
    "Conv1d": lambda m: m.Conv1d(20, 64, 9),
    "Conv2d grouped": lambda m: m.Conv2d(32, 64, (3, 5), groups=4),
    "Conv3d": lambda m: m.Conv3d(4, 64, 3),
    "ConvTranspose1d": lambda m: m.ConvTranspose1d(32, 48, 5),
    "ConvTranspose2d grouped": lambda m: m.ConvTranspose2d(64, 32, 3, groups=4),
    "ConvTranspose3d": lambda m: m.ConvTranspose3d(16, 24, 2),
    "BatchNorm2d": lambda m: m.BatchNorm2d(9),
    "InstanceNorm2d": lambda m: m.InstanceNorm2d(9, affine=True, track_running_stats=True),
    "GroupNorm": lambda m: m.GroupNorm(3, 9),
    "LayerNorm": lambda m: m.LayerNorm((3, 4)),
    "PReLU": lambda m: m.PReLU(5),
}
FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "uniform_": lambda m, t: m.uniform_(t, -1, 3),
    "normal_": lambda m, t: m.normal_(t, 1, 2),
    "trunc_normal_": lambda m, t: m.trunc_normal_(t, 0, 1, -1, 1.5),
    "constant_": lambda m, t: m.constant_(t, 3),
    "zeros_": lambda m, t: m.zeros_(t),
    "ones_": lambda m, t: m.ones_(t),
    "xavier_uniform_": lambda m, t: m.xavier_uniform_(t, 2.0),
    "xavier_normal_": lambda m, t: m.xavier_normal_(t),
    "kaiming_uniform_": lambda m, t: m.kaiming_uniform_(t, 0.3),
    "kaiming_normal_": lambda m, t: m.kaiming_normal_(t, mode="fan_out", nonlinearity="relu"),
}


def assert_alike(ours: np.ndarray, theirs: np.ndarray, label: str) -> None:
    """Samples of one distribution: the same quantiles, within what so many draws differ by."""
    assert ours.shape == theirs.shape, label
    if np.unique(theirs).size <= 2:
        np.testing.assert_array_equal(ours, theirs, err_msg=label)
        return
    quantiles = np.linspace(0, 1, 21)
    width = np.ptp(theirs)
    tolerance = 4 * width / np.sqrt(theirs.size) + (0.2 * width if theirs.size < 100 else 0)
    a, b = np.quantile(ours, quantiles), np.quantile(theirs, quantiles)
    inner = slice(1, -1)  # extremes of a normal distribution scatter more
    assert np.abs(a - b)[inner].max() < tolerance, (label, a, b)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_begin_as_in_torch(name: str) -> None:
    nn.manual_seed(0)
    torch.manual_seed(0)
    ours, theirs = LAYERS[name](nn).state_dict(), LAYERS[name](torch.nn).state_dict()
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        assert_alike(ours[key], value.numpy(), key)
        if key == "weight" and name.startswith(("Linear", "Conv")):  # uniform: the bound itself
            assert np.abs(ours[key]).max() == pytest.approx(float(value.abs().max()), rel=0.01)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_torch_nn_init(name: str) -> None:
    nn.manual_seed(0)
    torch.manual_seed(0)
    parameter = nn.Parameter(np.zeros((64, 24, 3, 3), np.float32))
    theirs = torch.empty(64, 24, 3, 3)
    assert FUNCTIONS[name](nn.init, parameter) is parameter
    FUNCTIONS[name](torch.nn.init, theirs)
    assert_alike(parameter.data, theirs.numpy(), name)
    assert parameter.data.std() == pytest.approx(float(theirs.std()), rel=0.03)


@pytest.mark.parametrize("kind", ["linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"])
def test_gains(kind: str) -> None:
    assert nn.init.calculate_gain(kind) == pytest.approx(torch.nn.init.calculate_gain(kind))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(GraphError, match=r"rank 2 or more, got shape \(3,\)"):
        nn.init.xavier_uniform_(np.zeros(3, np.float32))
    with pytest.raises(GraphError, match="mode must be fan_in or fan_out"):
        nn.init.kaiming_normal_(np.zeros((3, 3), np.float32), mode="fan")
    with pytest.raises(GraphError, match="nonlinearity must be one of"):
        nn.init.calculate_gain("softsign")


def test_a_seed_repeats_the_numbers() -> None:
    made = []
    for seed in (1, 1, 2):
        nn.manual_seed(seed)
        made.append(nn.Conv2d(2, 3, 3).weight.data)
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
