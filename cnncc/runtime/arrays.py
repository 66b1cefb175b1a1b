"""What callers pass and get: numpy arrays, torch tensors, anything with DLPack or `__array__`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.runtime.program import Affine, Port, shape_at, show_shape

_CPU = 1


def is_torch(value: Any) -> bool:
    """Whether a value is a torch tensor (without importing torch)."""
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach")


def to_torch(array: np.ndarray) -> Any:
    """A torch tensor over the array's memory; torch must have been imported by the caller."""
    return sys.modules["torch"].from_numpy(array)


def as_numpy(name: str, value: Any, dtype: str) -> np.ndarray:
    """The value as an array of the dtype, over its own memory where it has any. Raises GraphError naming the input."""
    if isinstance(value, np.ndarray):
        array = value
    elif isinstance(value, (bool, int, float, list, tuple, np.generic)):
        try:
            return np.asarray(value, dtype)
        except (ValueError, TypeError) as error:
            raise GraphError(
                f"{name}: input must be an array of {dtype}, got {type(value).__name__}: {error}"
            ) from None
    elif is_torch(value):
        if value.device.type != "cpu":
            raise GraphError(f"{name}: input must lie in CPU memory, got a tensor on {value.device}; use .cpu()")
        try:
            array = value.detach().numpy()
        except (RuntimeError, TypeError) as error:
            raise GraphError(f"{name}: input must be a dense array of {dtype}, got {value.dtype}: {error}") from None
    elif hasattr(value, "__dlpack__"):
        kind = value.__dlpack_device__()[0]
        if kind != _CPU:
            raise GraphError(f"{name}: input must lie in CPU memory, got DLPack device type {int(kind)}")
        array = np.from_dlpack(value)
    elif hasattr(value, "__array__"):
        array = np.asarray(value)
    else:
        raise GraphError(f"{name}: input must be an array, got {type(value).__name__}")
    if array.dtype != dtype:
        raise GraphError(f"{name}: dtype must be {dtype}, got {array.dtype}; convert it with .astype({dtype!r})")
    return array


def solve_symbols(ports: Sequence[Port], arrays: Sequence[np.ndarray]) -> dict[str, int]:
    """The value of every symbol, from the inputs' shapes; rank, fixed extents and contradictions are checked."""
    values: dict[str, int] = {}
    origin: dict[str, str] = {}
    later: list[tuple[Port, int, Affine, int]] = []
    for port, array in zip(ports, arrays, strict=True):
        if array.ndim != len(port.shape):
            raise GraphError(
                f"{port.name}: rank must be {len(port.shape)}, shape {show_shape(port.shape)}, got {array.shape}"
            )
        for axis, (want, got) in enumerate(zip(port.shape, array.shape, strict=True)):
            if isinstance(want, int):
                if got != want:
                    raise GraphError(
                        f"{port.name}: dimension {axis} must be {want}, got {got} (shape {array.shape} for "
                        f"{show_shape(port.shape)})"
                    )
                continue
            unknown = [(s, c) for s, c in want.terms if s not in values]
            if len(unknown) == 1 and len(want.terms) == 1:
                symbol, factor = unknown[0]
                value, rest = divmod(got - want.constant, factor)
                if rest or value < 0:
                    raise GraphError(f"{port.name}: dimension {axis} must be of the form {want}, got {got}")
                values[symbol], origin[symbol] = value, f"dimension {axis} of {port.name}"
            else:
                later.append((port, axis, want, got))
    for port, axis, want, got in later:
        missing = [s for s, _ in want.terms if s not in values]
        if missing:
            raise GraphError(f"{port.name}: dimension {axis} is {want}, but no input fixes {', '.join(missing)}")
        if want.at(values) != got:
            known = ", ".join(f"{s} = {values[s]} from {origin[s]}" for s, _ in want.terms)
            raise GraphError(f"{port.name}: dimension {axis} must be {want} = {want.at(values)} ({known}), got {got}")
    return values


def by_name(ports: Sequence[Port], feeds: Mapping[str, Any]) -> list[Any]:
    """The values in the order of the inputs. Raises GraphError naming all missing and all unknown ones."""
    names = [p.name for p in ports]
    missing = [n for n in names if n not in feeds]
    unknown = [n for n in feeds if n not in names]
    if missing or unknown:
        problems = [f"missing {', '.join(map(repr, missing))}"] if missing else []
        problems += [f"unknown {', '.join(map(repr, unknown))}"] if unknown else []
        raise GraphError(f"inputs must be {', '.join(map(repr, names)) or 'none'}, got {' and '.join(problems)}")
    return [feeds[n] for n in names]


def check_out(port: Port, value: Any, values: Mapping[str, int]) -> np.ndarray:
    """The array that a caller wants a result in: dtype, shape and writability checked."""
    array = as_numpy(f"out for {port.name}", value, port.dtype)
    want = shape_at(port.shape, values)
    if array.shape != want:
        raise GraphError(f"out for {port.name}: shape must be {want}, got {array.shape}")
    if not array.flags.writeable:
        raise GraphError(f"out for {port.name}: the array must be writable, got a read-only one")
    return array
