"""TensorProto --> numpy, with every length checked. Only element types that the IR has."""

from __future__ import annotations

import math
import sys
from typing import Any

import ml_dtypes
import numpy as np

from cnncc.edges.onnx_reader import ModelFile, external_bytes
from cnncc.errors import ModelFileError, UnsupportedError

# TensorProto.DataType --> dtype, and the typed field that holds it where raw_data is not used
DTYPES: dict[int, tuple[np.dtype, str]] = {
    1: (np.dtype(np.float32), "float_data"),
    2: (np.dtype(np.uint8), "int32_data"),
    3: (np.dtype(np.int8), "int32_data"),
    4: (np.dtype(np.uint16), "int32_data"),
    5: (np.dtype(np.int16), "int32_data"),
    6: (np.dtype(np.int32), "int32_data"),
    7: (np.dtype(np.int64), "int64_data"),
    9: (np.dtype(np.bool_), "int32_data"),
    10: (np.dtype(np.float16), "int32_data"),
    11: (np.dtype(np.float64), "double_data"),
    12: (np.dtype(np.uint32), "uint64_data"),
    13: (np.dtype(np.uint64), "uint64_data"),
    16: (np.dtype(ml_dtypes.bfloat16), "int32_data"),
}
CODES: dict[np.dtype, int] = {dtype: code for code, (dtype, _) in DTYPES.items()}
_EXTERNAL = 1


def element_type(code: int) -> np.dtype:
    """The numpy dtype of an ONNX element type. Raises UnsupportedError for those the IR does not have."""
    try:
        return DTYPES[code][0]
    except KeyError:
        import onnx

        names = {v: k for k, v in onnx.TensorProto.DataType.items()}
        raise UnsupportedError(f"element type {names.get(code, code)} is not supported") from None


def to_array(file: ModelFile, tensor: Any, raw: np.ndarray | None = None) -> np.ndarray:
    """The array of a TensorProto; `raw`: its bytes, where the message is without them.

    Raises ModelFileError where the bytes do not match the shape.
    """
    what = f"{file.label}: tensor '{tensor.name}'"
    try:
        dtype = element_type(tensor.data_type)
    except UnsupportedError as error:
        raise UnsupportedError(f"{what}: {error}") from None
    shape = _shape(tensor.dims, what, file)
    count = math.prod(shape)
    nbytes = count * dtype.itemsize
    file.take(nbytes, what)
    if tensor.data_location == _EXTERNAL:
        array = _from_bytes(external_bytes(file, tensor, nbytes), dtype)
    elif raw is not None or tensor.HasField("raw_data"):
        raw = np.frombuffer(tensor.raw_data, np.uint8) if raw is None else raw
        if len(raw) != nbytes:
            raise ModelFileError(f"{what}: {dtype} of shape {list(shape)} takes {nbytes} bytes, got {len(raw)}")
        array = _from_bytes(raw, dtype)
    else:
        array = _typed(tensor, dtype, count, what)
    return array.reshape(shape)


def _from_bytes(raw: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """ONNX stores little-endian; a bool is any byte that is not 0."""
    if dtype == np.bool_:
        return raw.astype(np.bool_)
    array: np.ndarray = raw.view(dtype)
    return array if sys.byteorder == "little" else np.asarray(array.byteswap())


def _shape(dims: Any, what: str, file: ModelFile) -> tuple[int, ...]:
    shape = tuple(int(d) for d in dims)
    if len(shape) > file.limits.rank or any(d < 0 or d > file.limits.dim for d in shape):
        raise ModelFileError(
            f"{what}: at most {file.limits.rank} dimensions from 0 to {file.limits.dim}, got {list(shape)}"
        )
    return shape


def _typed(tensor: Any, dtype: np.dtype, count: int, what: str) -> np.ndarray:
    name = DTYPES[tensor.data_type][1]
    values = getattr(tensor, name)
    if len(values) != count:
        raise ModelFileError(f"{what}: needs {count} elements in {name}, got {len(values)}")
    if dtype.itemsize == 2 and dtype.kind in "fV":  # f16 and bf16 are stored as the bits of integers
        return np.asarray(values, np.int64).astype(np.uint16).view(dtype)
    wide = {"f": np.float64, "u": np.uint64}.get(dtype.kind, np.int64)
    with np.errstate(invalid="ignore"):  # numbers outside of the dtype: whatever they become
        return np.asarray(values, wide).astype(dtype)


def sparse_array(file: ModelFile, sparse: Any) -> np.ndarray:
    """The dense array of a SparseTensorProto."""
    what = f"{file.label}: sparse tensor '{sparse.values.name}'"
    values, indices = to_array(file, sparse.values), to_array(file, sparse.indices)
    shape = _shape(sparse.dims, what, file)
    count = math.prod(shape)
    file.take(count * values.dtype.itemsize, what)
    if indices.ndim == 2 and indices.shape[1] == len(shape):
        steps = np.array([math.prod(shape[i + 1 :]) for i in range(len(shape))], np.int64)
        indices = indices @ steps
    if indices.ndim != 1 or indices.shape != values.shape or np.any(indices < 0) or np.any(indices >= count):
        raise ModelFileError(f"{what}: indices must be one for each value, inside shape {list(shape)}")
    dense = np.zeros(count, values.dtype)
    dense[indices] = values
    return dense.reshape(shape)
