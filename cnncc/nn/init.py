"""Initialisation, as torch.nn does it by default."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cnncc.nn.module import Parameter

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
