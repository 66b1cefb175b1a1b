"""Pooling in numpy, tap by tap."""

from __future__ import annotations

import numpy as np


def max_unpool(x: np.ndarray, indices: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """x at the places that the indices name in each channel, 0 elsewhere: [N, C, *out] --> [N, C, *size]."""
    n, c = x.shape[:2]
    y = np.zeros((n, c, int(np.prod(size))), x.dtype)
    np.put_along_axis(y, indices.reshape(n, c, -1) % y.shape[2], x.reshape(n, c, -1), axis=2)
    return y.reshape(n, c, *size)
