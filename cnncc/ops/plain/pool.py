"""Pooling in numpy, tap by tap. Positions in the padding never count for a maximum."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnncc.ops.plain.windows import crop_space, pad_space, tap, window_count

Sizes = tuple[int, ...]


def lowest(dtype: np.dtype) -> Any:
    """What every number is at least: -inf, or the smallest integer."""
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def max_pool(x: np.ndarray, kernel: Sizes, strides: Sizes, pads: Sizes, dilations: Sizes) -> np.ndarray:
    """The largest element of each window."""
    x = pad_space(x, pads, lowest(x.dtype))
    out = window_count(x.shape[2:], kernel, strides, dilations)
    y = np.full((*x.shape[:2], *out), lowest(x.dtype), x.dtype)
    for k in np.ndindex(*kernel):
        y = np.maximum(y, x[tap(k, out, strides, dilations)])
    return y


def first_taps(x: np.ndarray, kernel: Sizes, strides: Sizes, pads: Sizes, dilations: Sizes) -> np.ndarray:
    """Per window the number of its first largest tap (NaN is largest), -1 where none lies in the input."""
    inside = pad_space(np.ones_like(x, bool), pads, False)
    x = pad_space(x, pads, lowest(x.dtype))
    out = window_count(x.shape[2:], kernel, strides, dilations)
    best = np.full((*x.shape[:2], *out), lowest(x.dtype), x.dtype)
    first = np.full(best.shape, -1)
    for number, k in enumerate(np.ndindex(*kernel)):
        where = tap(k, out, strides, dilations)
        value = x[where]
        better = inside[where] & ((first < 0) | (value > best) | (np.isnan(value) & ~np.isnan(best)))
        best, first = np.where(better, value, best), np.where(better, number, first)
    return first


def max_pool_indices(x: np.ndarray, kernel: Sizes, strides: Sizes, pads: Sizes, dilations: Sizes) -> np.ndarray:
    """Row-major index into x of the first largest element of each window."""
    first = first_taps(x, kernel, strides, pads, dilations)
    places = np.unravel_index(np.maximum(first, 0), kernel)
    index = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *(1,) * len(kernel))
    for axis, k in enumerate(places):
        start = np.arange(first.shape[2 + axis]) * strides[axis] - pads[axis]
        index = index * x.shape[2 + axis] + start.reshape(-1, *(1,) * (len(kernel) - 1 - axis)) + k * dilations[axis]
    return np.where(first < 0, 0, index)


def max_pool_dx(
    x: np.ndarray, dy: np.ndarray, kernel: Sizes, strides: Sizes, pads: Sizes, dilations: Sizes
) -> np.ndarray:
    """Each dy goes to the first largest element of its window."""
    first = first_taps(x, kernel, strides, pads, dilations)
    dx = pad_space(np.zeros_like(x), pads)
    for number, k in enumerate(np.ndindex(*kernel)):
        dx[tap(k, dy.shape[2:], strides, dilations)] += np.where(first == number, dy, 0)
    return crop_space(dx, x.shape[2:], pads)


def max_unpool(x: np.ndarray, indices: np.ndarray, size: Sizes) -> np.ndarray:
    """x at the places that the indices name in each channel, 0 elsewhere: [N, C, *out] --> [N, C, *size]."""
    n, c = x.shape[:2]
    y = np.zeros((n, c, int(np.prod(size))), x.dtype)
    np.put_along_axis(y, indices.reshape(n, c, -1) % y.shape[2], x.reshape(n, c, -1), axis=2)
    return y.reshape(n, c, *size)


def window_sum(x: np.ndarray, kernel: Sizes, strides: Sizes, dilations: Sizes) -> np.ndarray:
    """The sum over each window of a padded input."""
    out = window_count(x.shape[2:], kernel, strides, dilations)
    y = np.zeros((*x.shape[:2], *out), x.dtype)
    for k in np.ndindex(*kernel):
        y += x[tap(k, out, strides, dilations)]
    return y


def window_lengths(
    size: Sizes, kernel: Sizes, strides: Sizes, pads: Sizes, dilations: Sizes, counted: Sizes
) -> np.ndarray:
    """How many elements of each window lie in the input, or in the `counted` rows of padding around it."""
    ones = pad_space(np.ones((1, 1, *size), int), counted, 1)
    ones = pad_space(ones, tuple(p - c for p, c in zip(pads, counted, strict=True)))
    return np.maximum(window_sum(ones, kernel, strides, dilations), 1)


def average_pool(
    x: np.ndarray, kernel: Sizes, strides: Sizes, pads: Sizes, dilations: Sizes, counted: Sizes
) -> np.ndarray:
    """The mean of each window."""
    lengths = window_lengths(x.shape[2:], kernel, strides, pads, dilations, counted)
    return window_sum(pad_space(x, pads), kernel, strides, dilations) / lengths.astype(x.dtype)


def average_pool_dx(
    dy: np.ndarray, size: Sizes, kernel: Sizes, strides: Sizes, pads: Sizes, dilations: Sizes, counted: Sizes
) -> np.ndarray:
    """Each dy, divided by the length of its window, goes to every element of it."""
    dy = dy / window_lengths(size, kernel, strides, pads, dilations, counted).astype(dy.dtype)
    dx = pad_space(np.zeros((*dy.shape[:2], *size), dy.dtype), pads)
    for k in np.ndindex(*kernel):
        dx[tap(k, dy.shape[2:], strides, dilations)] += dy
    return crop_space(dx, size, pads)
