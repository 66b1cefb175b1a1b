"""Parameters and optimizer state: named arrays that runs update in place."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.runtime.arena import empty
from cnncc.runtime.arrays import as_numpy


class State(MutableMapping[str, np.ndarray]):
    """Named arrays of fixed dtype and shape. Reading gives a copy, writing copies in; names are never added or removed.

    Several executables may share one State (a training step and the evaluation of its model): they then run one at a
    time, under `lock`.
    """

    def __init__(self, initial: Mapping[str, np.ndarray]) -> None:
        self.lock = threading.Lock()
        self.arrays = {name: _copy(array) for name, array in initial.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        array = self.arrays[name]
        with self.lock:
            return array.copy()

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self.arrays:
            raise GraphError(f"state must be one of {', '.join(self.arrays) or 'none'}, got {name!r}")
        array = self.arrays[name]
        new = as_numpy(name, value, array.dtype.name)
        if new.shape != array.shape:
            raise GraphError(f"{name}: shape must be {array.shape}, got {new.shape}")
        with self.lock:
            array[...] = new

    def __delitem__(self, name: str) -> None:
        raise GraphError(f"{name}: state cannot be removed")

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def after_fork(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        self.lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(a.nbytes for a in self.arrays.values())


def _copy(array: np.ndarray) -> np.ndarray:
    copy = empty(array.shape, array.dtype)
    copy[...] = array
    return copy
