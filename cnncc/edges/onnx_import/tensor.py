"""ONNX values during import."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cnncc.errors import UnsupportedError
from cnncc.ir.dtype import NUMPY, is_float
from cnncc.ir.graph import Value
from cnncc.ir.types import Type


class NeedsInputError(UnsupportedError):
    """An operation needs numbers at import that come from inputs of the model."""

    def __init__(self, message: str, inputs: tuple[str, ...]):
        super().__init__(message)
        self.inputs = inputs


class Tensor:
    """One ONNX value: its type, and a value of the graph, or data known at import, or both.

    data of dtype object holds integers and symbolic sizes: what shape arithmetic computes. `shape_like` marks data
    that the importer may compute with at once; weights are not, they stay values of the graph.
    """

    __slots__ = ("_data", "_load", "broken", "name", "shape_like", "type", "value")

    def __init__(
        self,
        name: str,
        type: Type,
        value: Value | None = None,
        data: np.ndarray | None = None,
        load: Callable[[], np.ndarray] | None = None,
        shape_like: bool = False,
    ):
        self.name = name
        self.type = type
        self.value = value
        self._data = data
        self._load = load
        self.shape_like = shape_like
        self.broken: str | None = None  # why it does not exist; empty: another node's message says so

    @property
    def data(self) -> np.ndarray | None:
        """The elements, where they are known."""
        if self._data is None and self._load is not None:
            self._data = self._load()
        return self._data

    @property
    def is_known(self) -> bool:
        """Whether the elements are known (without reading them)."""
        return self._data is not None or self._load is not None

    @property
    def symbolic(self) -> bool:
        """Whether the elements are symbolic sizes."""
        return self._data is not None and self._data.dtype == object


def broken_tensor(name: str, reason: str = "") -> Tensor:
    """Stands for a value that is not supported, so that the rest of the model is still looked at."""
    tensor = Tensor(name, Type("f32", ()))
    tensor.broken = reason
    return tensor


def known(name: str, data: np.ndarray, dtype: str) -> Tensor:
    """A tensor of known elements; objects become numbers where no symbol is left."""
    if data.dtype == object:
        from cnncc.edges.onnx_import.symbolic import is_number

        if all(map(is_number, data.reshape(-1).tolist())):
            data = np.array([float(d) if is_float(dtype) else int(d) for d in data.reshape(-1)]).reshape(data.shape)
    if data.dtype != object:
        data = np.asarray(data, NUMPY[dtype])
    return Tensor(name, Type(dtype, tuple(data.shape)), data=data, shape_like=True)
