"""Sliding windows in numpy: padding, the places of a window's taps, windows as columns."""

from __future__ import annotations

from typing import Any

import numpy as np


def pad_space(x: np.ndarray, pads: tuple[int, ...], value: Any = 0) -> np.ndarray:
    """x [N, C, *size] with rows of a value around its spatial axes."""
    r = len(pads) // 2
    return np.pad(x, [(0, 0), (0, 0), *zip(pads[:r], pads[r:], strict=True)], constant_values=value)


def crop_space(x: np.ndarray, size: tuple[int, ...], pads: tuple[int, ...]) -> np.ndarray:
    """The part [N, C, *size] of an array that was padded."""
    inner: tuple[Any, ...] = tuple(slice(begin, begin + i) for begin, i in zip(pads, size, strict=False))
    return x[(..., *inner)]


def tap(
    k: tuple[int, ...], out: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[Any, ...]:
    """Where the padded input meets tap k of every window: positions o s + k d for all outputs o."""
    spans = zip(k, out, strides, dilations, strict=True)
    return (..., *(slice(i * d, i * d + (o - 1) * s + 1, s) for i, o, s, d in spans))


def window_count(
    size: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[int, ...]:
    """How many windows fit into a padded input, per axis: (i - d (k - 1) - 1) // s + 1."""
    return tuple((i - d * (k - 1) - 1) // s + 1 for i, k, s, d in zip(size, kernel, strides, dilations, strict=True))


def unfold(
    x: np.ndarray,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
) -> np.ndarray:
    """Windows side by side (im2col): x [N, C, *size] --> columns [N, C, *kernel, *out]."""
    x = pad_space(x, pads)
    out = window_count(x.shape[2:], kernel, strides, dilations)
    columns = np.zeros((*x.shape[:2], *kernel, *out), x.dtype)
    for k in np.ndindex(*kernel):
        columns[(slice(None), slice(None), *k)] = x[tap(k, out, strides, dilations)]
    return columns


def fold(
    columns: np.ndarray,
    size: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
) -> np.ndarray:
    """The adjoint of unfold (col2im): columns [N, C, *kernel, *out], added up where their windows overlap."""
    r = len(size)
    kernel, out = columns.shape[2 : 2 + r], columns.shape[2 + r :]
    whole = [i + begin + end for i, begin, end in zip(size, pads[:r], pads[r:], strict=True)]
    x = np.zeros((*columns.shape[:2], *whole), columns.dtype)
    for k in np.ndindex(*kernel):
        x[tap(k, out, strides, dilations)] += columns[(slice(None), slice(None), *k)]
    return crop_space(x, size, pads)
