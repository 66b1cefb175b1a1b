"""Interpolation in numpy: one axis at a time, a weighted sum of neighbours."""

from __future__ import annotations

import numpy as np


def nearest_axis(x: np.ndarray, axis: int, n: int, a: int, b: int, d: int, rounding: str) -> np.ndarray:
    """n elements along an axis, the ones nearest to the coordinates (a i + b) / d; outside, the edge."""
    i = np.arange(n) * a + b
    if rounding == "floor":
        at = i // d
    elif rounding == "ceil":
        at = -(-i // d)
    elif rounding == "round_prefer_ceil":
        at = (2 * i + d) // (2 * d)
    else:
        at = -(-(2 * i - d) // (2 * d))
    return np.take(x, np.clip(at, 0, x.shape[axis] - 1), axis)


def linear_axis(x: np.ndarray, axis: int, n: int, a: int, b: int, d: int) -> np.ndarray:
    """n elements along an axis at the coordinates (a i + b) / d, between their two neighbours; outside, the edge."""
    i = np.arange(n) * a + b
    left, last = i // d, x.shape[axis] - 1
    t = ((i - left * d) / d).reshape(-1, *(1,) * (x.ndim - 1 - axis))
    low, high = (np.take(x, np.clip(at, 0, last), axis) for at in (left, left + 1))
    return low * (1 - t).astype(x.dtype) + high * t.astype(x.dtype)


def cubic_axis(x: np.ndarray, axis: int, n: int, a: int, b: int, d: int) -> np.ndarray:
    """n elements along an axis at the coordinates (a i + b) / d, from four neighbours (Keys 1981, -0.75)."""
    i = np.arange(n) * a + b
    left, last = i // d, x.shape[axis] - 1
    t = ((i - left * d) / d).reshape(-1, *(1,) * (x.ndim - 1 - axis))
    y = np.zeros((*x.shape[:axis], n, *x.shape[axis + 1 :]), x.dtype)
    for k in range(-1, 3):
        u = np.abs(t - k)
        weight = np.where(u <= 1, (1.25 * u - 2.25) * u * u + 1, ((-0.75 * u + 3.75) * u - 6) * u + 3)
        y += np.take(x, np.clip(left + k, 0, last), axis) * weight.astype(x.dtype)
    return y
