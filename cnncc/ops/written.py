"""How an op says what it is in numpy: its reference and the line that `cnncc.to_numpy` prints, from one function."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.ir.types import Type

if TYPE_CHECKING:
    from cnncc.edges.numpy_source.line import Line


def _nothing(attrs: Any, *types: Any) -> dict[str, Any]:
    return {}


def written(function: Callable[..., Any], numbers: Callable[..., dict[str, Any]] = _nothing) -> dict[str, Any]:
    """The fields `reference` and `numpy` of an op that is a function of cnncc/ops/plain.

    It is called with the operands, and by keyword with `numbers(attrs, *types of operands)`.
    """

    def reference(attrs: Any, *arrays: np.ndarray | None) -> Any:
        return function(*arrays, **numbers(attrs, *(None if a is None else Type.of(a) for a in arrays)))

    def line(s: Line) -> str:
        return s.call(function, *s.x, **numbers(s.attrs, *s.types))

    return {"reference": reference, "numpy": line}
