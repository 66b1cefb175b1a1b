"""Initialisation, with torch's distributions: what layers do by default, and torch.nn.init's functions.

Numbers come from one generator, which `manual_seed` seeds; they are not torch's numbers. Functions whose names end with
``_`` fill a Parameter (or an array) in place and return it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from cnncc.errors import GraphError
from cnncc.nn.module import Parameter

Filled = TypeVar("Filled", Parameter, np.ndarray)
_GENERATOR = [np.random.default_rng(0)]


def manual_seed(seed: int) -> None:
    """Seed the generator that initialises parameters and seeds dropout."""
    _GENERATOR[0] = np.random.default_rng(seed)


def generator() -> np.random.Generator:
    """The generator that initialises parameters."""
    return _GENERATOR[0]


def new_random(seed: int | None = None) -> np.ndarray:
    """A state of dropout's random numbers, u32 (seed, seed, step); without a seed, one drawn from `generator`."""
    if seed is None:
        return np.array([*generator().integers(0, 2**32, 2, np.uint32), 0], np.uint32)
    return np.array([seed % 2**32, seed // 2**32 % 2**32, 0], np.uint32)


# -- what layers do ---------------------------------------------------------------------------------------------------


def uniform(shape: Sequence[int], bound: float) -> Parameter:
    """Uniform in [-bound, bound], float32."""
    return Parameter(generator().uniform(-bound, bound, tuple(shape)).astype(np.float32))


def weights(shape: Sequence[int], fan_in: int) -> Parameter:
    """Kaiming uniform with a = sqrt(5) (He et al. 2015), which is uniform within 1 / sqrt(fan_in)."""
    return uniform(shape, 1 / math.sqrt(fan_in) if fan_in else 0.0)


def bias(size: int, fan_in: int) -> Parameter:
    """Uniform within 1 / sqrt(fan_in)."""
    return uniform((size,), 1 / math.sqrt(fan_in) if fan_in else 0.0)


def full(shape: Sequence[int], value: float) -> Parameter:
    """One number everywhere."""
    return Parameter(np.full(tuple(shape), value, np.float32))


# -- torch.nn.init ----------------------------------------------------------------------------------------------------


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor on the standard deviation that keeps it behind a nonlinearity. Raises GraphError for unknown ones."""
    slope = 0.01 if param is None else param
    gains = {"tanh": 5 / 3, "relu": math.sqrt(2), "leaky_relu": math.sqrt(2 / (1 + slope**2)), "selu": 0.75}
    gains.update(dict.fromkeys(("linear", "sigmoid", "conv1d", "conv2d", "conv3d"), 1.0))
    if nonlinearity not in gains:
        raise GraphError(f"nonlinearity must be one of {', '.join(gains)}, got {nonlinearity!r}")
    return gains[nonlinearity]


def uniform_(tensor: Filled, a: float = 0.0, b: float = 1.0) -> Filled:
    """Uniform in [a, b]."""
    return _fill(tensor, generator().uniform(a, b, tensor.shape))


def normal_(tensor: Filled, mean: float = 0.0, std: float = 1.0) -> Filled:
    """Normal."""
    return _fill(tensor, generator().normal(mean, std, tensor.shape))


def trunc_normal_(tensor: Filled, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Filled:
    """Normal within [a, b]: what falls outside is drawn again."""
    made = generator().normal(mean, std, tensor.shape)
    while (outside := (made < a) | (made > b)).any():
        made[outside] = generator().normal(mean, std, int(outside.sum()))
    return _fill(tensor, made)


def constant_(tensor: Filled, val: float) -> Filled:
    """One number everywhere."""
    return _fill(tensor, np.full(tensor.shape, val))


def zeros_(tensor: Filled) -> Filled:
    """0 everywhere."""
    return constant_(tensor, 0.0)


def ones_(tensor: Filled) -> Filled:
    """1 everywhere."""
    return constant_(tensor, 1.0)


def xavier_uniform_(tensor: Filled, gain: float = 1.0) -> Filled:
    """Uniform within gain sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    bound = gain * math.sqrt(6 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Filled, gain: float = 1.0) -> Filled:
    """Normal with standard deviation gain sqrt(2 / (fan_in + fan_out))."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(_fans(tensor))))


def kaiming_uniform_(tensor: Filled, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Filled:
    """Uniform within gain sqrt(3 / fan) (He et al. 2015); a is the slope of leaky_relu."""
    bound = math.sqrt(3) * calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode))
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor: Filled, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Filled:
    """Normal with standard deviation gain / sqrt(fan)."""
    return normal_(tensor, 0.0, calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode)))


def _fans(tensor: Filled) -> tuple[int, int]:
    """Inputs and outputs of an element, for weights [out, in, ...]."""
    shape = tensor.shape
    if len(shape) < 2:
        raise GraphError(f"fans are of weights of rank 2 or more, got shape {tuple(shape)}")
    places = math.prod(shape[2:])
    return shape[1] * places, shape[0] * places


def _fan(tensor: Filled, mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise GraphError(f"mode must be fan_in or fan_out, got {mode!r}")
    return _fans(tensor)[mode == "fan_out"]


def _fill(tensor: Filled, values: np.ndarray) -> Filled:
    array = tensor.data if isinstance(tensor, Parameter) else tensor
    array[...] = values
    return tensor
