"""What callers pass and get: numpy arrays, torch tensors, anything with DLPack or `__array__`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from cnncc.errors import GraphError

_CPU = 1  # DLPack's device type


def is_torch(value: Any) -> bool:
    """Whether a value is a torch tensor (without importing torch)."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def to_torch(array: np.ndarray) -> Any:
    """A torch tensor over the array's memory; torch must have been imported by the caller."""
    return sys.modules["torch"].from_numpy(array)


def as_numpy(name: str, value: Any, dtype: str) -> np.ndarray:
    """The value as an array of the dtype, over its own memory where it has any. Raises GraphError naming the input."""
    if isinstance(value, np.ndarray):
        array = value
    elif isinstance(value, (bool, int, float, list, tuple, np.generic)):
        return _from_numbers(name, value, dtype)
    elif is_torch(value):
        array = _from_torch(name, value, dtype)
    elif hasattr(value, "__dlpack__"):
        kind = int(value.__dlpack_device__()[0])
        if kind != _CPU:
            raise GraphError(f"{name}: it must lie in CPU memory, got DLPack device type {kind}")
        try:
            array = np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError) as error:
            raise GraphError(
                f"{name}: it must be a dense array of {dtype}, got what numpy cannot read: {error}"
            ) from None
    elif hasattr(value, "__array__"):
        array = np.asarray(value)
    else:
        raise GraphError(f"{name}: it must be an array, got a {type(value).__name__}")
    if array.dtype != dtype:
        raise GraphError(f"{name}: dtype must be {dtype}, got {array.dtype}; convert it with .astype({dtype!r})")
    return array


def _from_numbers(name: str, value: Any, dtype: str) -> np.ndarray:
    try:
        array = np.asarray(value)
        if not np.can_cast(array.dtype, dtype, "same_kind"):
            raise TypeError(f"{array.dtype} does not fit")
        return array.astype(dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise GraphError(f"{name}: it must be an array of {dtype}, got a {type(value).__name__}: {error}") from None


def _from_torch(name: str, value: Any, dtype: str) -> np.ndarray:
    if value.device.type != "cpu":
        raise GraphError(f"{name}: it must lie in CPU memory, got a tensor on {value.device}; use .cpu()")
    try:
        array: np.ndarray = value.detach().numpy()
    except (RuntimeError, TypeError) as error:
        raise GraphError(f"{name}: it must be a dense tensor of {dtype}, got {value.dtype}: {error}") from None
    return array
