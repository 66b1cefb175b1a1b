"""Memory that kernels may touch: every block starts at a multiple of 64 bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

ALIGNMENT = 64


def allocate(nbytes: int) -> np.ndarray:
    """A fresh, aligned, uninitialised block of bytes."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -address(raw) % ALIGNMENT
    block: np.ndarray = raw[start : start + nbytes]
    return block


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A fresh, aligned, uninitialised, row-major array."""
    dtype = np.dtype(dtype)
    array: np.ndarray = allocate(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
    return array


def side_by_side(arrays: Sequence[tuple[tuple[int, ...], Any]]) -> list[np.ndarray]:
    """Fresh arrays as `empty` makes them, from shapes and dtypes, all in one block: a large one is had in large pages,
    hundreds of times fewer than small ones, each of which the system fills with zeros when it is first written."""
    sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in arrays]
    starts = [0, *accumulate(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)]
    block = allocate(starts[-1])
    return [
        block[start : start + size].view(dtype).reshape(shape)
        for start, size, (shape, dtype) in zip(starts, sizes, arrays, strict=False)
    ]


def address(array: np.ndarray) -> int:
    """Where an array's first element lies."""
    return int(array.__array_interface__["data"][0])


def usable(array: np.ndarray) -> bool:
    """Whether a kernel may be given the array as it is: row-major and aligned."""
    return bool(array.flags.c_contiguous) and address(array) % ALIGNMENT == 0


def aligned(array: np.ndarray) -> np.ndarray:
    """The array itself where a kernel may be given it, else a copy that may."""
    if usable(array):
        return array
    copy = empty(array.shape, array.dtype)
    copy[...] = array
    return copy
