"""Adaptive pooling in numpy: window o of n over m elements spans floor(o m / n) to ceil((o + 1) m / n)."""

from __future__ import annotations

from typing import Any

import numpy as np

Sizes = tuple[int, ...]


def adaptive_windows(size: Sizes, out: Sizes) -> list[tuple[Any, Any]]:
    """Every window: its index, and the slices that it covers."""
    return [
        ((..., *o), (..., *(slice(i * m // n, -(-(i + 1) * m // n)) for i, m, n in zip(o, size, out, strict=True))))
        for o in np.ndindex(*out)
    ]


def adaptive_average_pool(x: np.ndarray, out: Sizes) -> np.ndarray:
    """The mean of every window."""
    y = np.zeros((*x.shape[:2], *out), x.dtype)
    for o, window in adaptive_windows(x.shape[2:], out):
        y[o] = x[window].mean(tuple(range(2, x.ndim)))
    return y


def adaptive_average_pool_dx(dy: np.ndarray, size: Sizes) -> np.ndarray:
    """Each dy, divided by the length of its window, goes to every element of it."""
    dx = np.zeros((*dy.shape[:2], *size), dy.dtype)
    for o, window in adaptive_windows(size, dy.shape[2:]):
        length = dx[window].size // (dy.shape[0] * dy.shape[1])
        dx[window] += (dy[o] / np.asarray(length, dy.dtype)).reshape(*dy.shape[:2], *(1,) * len(size))
    return dx


def adaptive_max_pool(x: np.ndarray, out: Sizes) -> np.ndarray:
    """The largest element of every window."""
    y = np.zeros((*x.shape[:2], *out), x.dtype)
    for o, window in adaptive_windows(x.shape[2:], out):
        y[o] = x[window].max(tuple(range(2, x.ndim)))
    return y


def adaptive_max_pool_indices(x: np.ndarray, out: Sizes) -> np.ndarray:
    """Row-major index into x of the first largest element of every window."""
    n, c = x.shape[:2]
    places = np.arange(x.size).reshape(x.shape)
    indices = np.zeros((n, c, *out), int)
    for o, window in adaptive_windows(x.shape[2:], out):
        first = x[window].reshape(n, c, -1).argmax(2)[..., None]
        indices[o] = np.take_along_axis(places[window].reshape(n, c, -1), first, 2)[..., 0]
    return indices


def adaptive_max_pool_dx(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Each dy goes to the first largest element of its window."""
    dx = np.zeros(x.size, x.dtype)
    np.add.at(dx, adaptive_max_pool_indices(x, dy.shape[2:]), dy)
    return dx.reshape(x.shape)
