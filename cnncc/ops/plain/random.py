"""Dropout in numpy, with the random numbers of Philox4x32-10 (Salmon et al. 2011)."""

from __future__ import annotations

import numpy as np


def philox(place: np.ndarray, step: int, stream: int, seed: tuple[int, int]) -> np.ndarray:
    """32 random bits for every place: ten rounds on the counter (place, step, stream) with the key `seed`."""
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    place = place.astype(np.uint64)
    c0, c1 = place & low, place >> shift
    c2, c3 = np.full_like(place, step), np.full_like(place, stream)
    k0, k1 = np.uint64(seed[0]), np.uint64(seed[1])
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ k0, p1 & low, (p0 >> shift) ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return c0


def dropout_train(x: np.ndarray, key: np.ndarray, p: float, stream: int, axes: int) -> np.ndarray:
    """x / (1 - p) where the place has a random number of at least p, else 0; one mask for all axes after `axes`."""
    if p == 1:
        return np.zeros_like(x)
    own = x.shape[:axes]
    bits = philox(np.arange(int(np.prod(own))), key[2], stream, (key[0], key[1]))
    keep = (bits >= round(p * 2**32)).reshape(*own, *(1,) * (x.ndim - axes))
    return np.where(keep, x * np.asarray(1 / (1 - p), x.dtype), np.zeros_like(x))
