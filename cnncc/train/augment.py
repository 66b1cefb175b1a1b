"""What happens to a batch before it is trained on: flips, random crops, normalisation. In numpy, seeded by the batch.

A transform is called as ``transform(rng, x, y) -> (x, y)`` with x [N, C, ...]. Those with ``always`` set (Normalise)
also apply to validation data; the others to training data only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnncc.errors import GraphError

Transform = Callable[[np.random.Generator, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Flip:
    """Reverses an axis of each image with probability p; with `target` the same axis of y as well (segmentation)."""

    p: float = 0.5
    axis: int = -1
    target: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise GraphError(f"Flip: p must be in [0, 1], got {self.p}")

    def __call__(self, rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x [N, C, ...] --> the same, some of the N reversed."""
        chosen = rng.random(len(x)) < self.p
        return _flip(x, chosen, self.axis), _flip(y, chosen, self.axis) if self.target else y


@dataclass(frozen=True)
class RandomCrop:
    """Pads the last two axes (the last one of [N, C, W]) with zeros and cuts out the old size at a random place.

    `target`: y [N, ..., H, W] is cut at the same places, padded with `fill` (a label to ignore, for instance).
    """

    padding: int = 4
    target: bool = False
    fill: float = 0

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise GraphError(f"RandomCrop: padding must not be negative, got {self.padding}")

    def __call__(self, rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x [N, C, ...] --> the same shape, each moved by at most `padding` along every spatial axis."""
        axes = min(2, x.ndim - 2)
        places = rng.integers(0, 2 * self.padding + 1, (len(x), axes))
        return self._cut(x, places, 0), self._cut(y, places, self.fill) if self.target else y

    def _cut(self, x: np.ndarray, places: np.ndarray, fill: float) -> np.ndarray:
        p, axes = self.padding, places.shape[1]
        wide = np.pad(x, [(0, 0)] * (x.ndim - axes) + [(p, p)] * axes, constant_values=fill)
        out = np.empty_like(x)
        for k, place in enumerate(places):
            cut: list[Any] = [slice(s, s + d) for s, d in zip(place, x.shape[x.ndim - axes :], strict=True)]
            out[k] = wide[(k, ..., *cut)]
        return out


@dataclass(frozen=True)
class Normalise:
    """(x - mean) / std, a number or one per channel. Applies to validation data too; the exported model needs it."""

    mean: float | Sequence[float]
    std: float | Sequence[float]
    always = True

    def __post_init__(self) -> None:
        if np.any(np.asarray(self.std) == 0):
            raise GraphError(f"Normalise: std must not be 0, got {self.std}")

    def __call__(self, rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x [N, C, ...] --> the same, normalised in its own dtype."""
        mean, std = (np.asarray(v, x.dtype).reshape(-1, *[1] * (x.ndim - 2)) for v in (self.mean, self.std))
        if x.ndim > 1 and not {mean.shape[0], std.shape[0]} <= {1, x.shape[1]}:
            raise GraphError(
                f"Normalise: mean and std must be one number or {x.shape[1]} (one per channel), "
                f"got {mean.shape[0]} and {std.shape[0]}"
            )
        return (x - mean) / std, y


def apply(transforms: Sequence[Transform], seed: Sequence[int], training: bool, x: Any, y: Any) -> tuple[Any, Any]:
    """The transforms one after another; equal seeds give equal bits."""
    rng = np.random.default_rng(list(seed))
    for transform in transforms:
        if training or getattr(transform, "always", False):
            x, y = transform(rng, x, y)
    return x, y


def _flip(x: np.ndarray, chosen: np.ndarray, axis: int) -> np.ndarray:
    shape = [len(chosen)] + [1] * (x.ndim - 1)
    result: np.ndarray = np.where(chosen.reshape(shape), np.flip(x, axis), x)
    return result


def describe(transforms: Sequence[Any]) -> list[str]:
    """What a checkpoint remembers of them."""
    return [repr(t) if type(t).__module__.startswith("cnncc.") else getattr(t, "__name__", type(t).__name__)
            for t in transforms]  # fmt: skip
