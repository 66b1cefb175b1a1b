"""Reading and adding up at places that data says, in numpy. Places outside of an axis mean its ends."""

from __future__ import annotations

from typing import Any

import numpy as np


def places(indices: np.ndarray, size: int) -> np.ndarray:
    """Negative places count from the end; those outside mean the nearest element."""
    return np.clip(np.where(indices < 0, indices + size, indices), 0, max(size - 1, 0))


def gather(x: np.ndarray, indices: np.ndarray, axis: int) -> np.ndarray:
    """Slices of x along an axis."""
    return np.take(x, places(indices, x.shape[axis]), axis)


def gather_dx(indices: np.ndarray, dy: np.ndarray, axis: int, size: int) -> np.ndarray:
    """dy added up at the places it was read from."""
    dy = dy.reshape(*dy.shape[:axis], indices.size, *dy.shape[axis + indices.ndim :])
    dx = np.zeros((*dy.shape[:axis], size, *dy.shape[axis + 1 :]), dy.dtype)
    np.add.at(np.moveaxis(dx, axis, 0), places(indices, size).reshape(-1), np.moveaxis(dy, axis, 0))
    return dx


def gather_elements(x: np.ndarray, indices: np.ndarray, axis: int) -> np.ndarray:
    """For each place of the indices the element of x there, with the index in place of one axis."""
    part = x[tuple(slice(None) if a == axis else slice(0, d) for a, d in enumerate(indices.shape))]
    return np.take_along_axis(part, places(indices, x.shape[axis]), axis)


def gather_elements_dx(indices: np.ndarray, dy: np.ndarray, axis: int, size: int) -> np.ndarray:
    """dy added up at the elements it was read from."""
    dx = np.zeros((*dy.shape[:axis], size, *dy.shape[axis + 1 :]), dy.dtype)
    at: list[Any] = list(np.indices(indices.shape))
    at[axis] = places(indices, size)
    np.add.at(dx, tuple(at), dy)
    return dx


def one_hot(indices: np.ndarray, depth: int, axis: int, on: Any, off: Any, dtype: Any) -> np.ndarray:
    """`on` at the index, `off` elsewhere, along a new axis."""
    classes = np.arange(depth).reshape(-1, *(1,) * (indices.ndim - axis))
    hit = np.expand_dims(np.where(indices < 0, indices + depth, indices), axis) == classes
    return np.where(hit, on, off).astype(dtype)


def cumsum(x: np.ndarray, axis: int, exclusive: bool, reverse: bool) -> np.ndarray:
    """Running sums along an axis: without the element itself, or from the end."""
    x = np.flip(x, axis) if reverse else x
    y = np.cumsum(x, axis, dtype=x.dtype)
    if exclusive:
        y = np.roll(y, 1, axis)
        y[tuple(0 if a == axis else slice(None) for a in range(x.ndim))] = 0
    return np.flip(y, axis) if reverse else y


def place_slice(dy: np.ndarray, size: tuple[int, ...], where: tuple[Any, ...]) -> np.ndarray:
    """dy at the slices it was taken from, 0 elsewhere."""
    dx = np.zeros(size, dy.dtype)
    dx[where] = dy
    return dx
