"""What callers give as a batch: one array, several, or several by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.dims import symbol
from cnncc.ir.types import Type

BATCH = "N"  # the symbol of the batch's size


@dataclass(frozen=True)
class BatchTypes:
    """Types of a batch's inputs and targets, with the size of the batch as the symbol N."""

    inputs: tuple[Type, ...]
    targets: tuple[Type, ...]

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.inputs))} and {', '.join(map(str, self.targets)) or 'no target'}"


@dataclass(frozen=True)
class Batch:
    """The arrays of a batch, in order; there are none of `targets` where the loss needs none."""

    inputs: tuple[np.ndarray, ...]
    targets: tuple[np.ndarray, ...]

    @staticmethod
    def of(x: Any, y: Any, names: Sequence[str]) -> Batch:
        """x: an array, a tuple of them, or a dict by `names`; y: an array, a tuple of them, or None."""
        return Batch(_arrays("x", x, names), () if y is None else _arrays("y", y, ()))

    @property
    def types(self) -> BatchTypes:
        """See `BatchTypes`. Raises GraphError where arrays have no axis, or another length than the first."""
        arrays = (*self.inputs, *self.targets)
        lengths = [a.shape[0] if a.ndim else None for a in arrays]
        if any(n is None or n != lengths[0] for n in lengths):
            shapes = ", ".join(str(a.shape) for a in arrays)
            raise GraphError(f"a batch's arrays must have one first axis, that of the batch, got shapes {shapes}")
        return BatchTypes(tuple(map(_type, self.inputs)), tuple(map(_type, self.targets)))


def _type(array: np.ndarray) -> Type:
    exact = Type.of(array)
    return exact.with_(shape=(symbol(BATCH), *exact.shape[1:]))


def _arrays(what: str, value: Any, names: Sequence[str]) -> tuple[np.ndarray, ...]:
    if isinstance(value, Mapping):
        if not names or set(value) != set(names):
            wanted = ", ".join(names) or "an array, or a tuple of arrays"
            raise GraphError(f"{what} must be {wanted}, got {', '.join(map(str, value))}")
        return tuple(np.asarray(value[n]) for n in names)
    several = isinstance(value, (tuple, list)) and any(getattr(v, "ndim", 0) for v in value)
    return tuple(map(np.asarray, value)) if several else (np.asarray(value),)
