"""Element types by their short names (f32, i64, bool, ...) and their numpy equivalents."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from cnncc.errors import UnsupportedError

NUMPY: dict[str, np.dtype] = {
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "i8": np.dtype(np.int8),
    "i16": np.dtype(np.int16),
    "i32": np.dtype(np.int32),
    "i64": np.dtype(np.int64),
    "u8": np.dtype(np.uint8),
    "u16": np.dtype(np.uint16),
    "u32": np.dtype(np.uint32),
    "u64": np.dtype(np.uint64),
    "bool": np.dtype(np.bool_),
}
SHORT: dict[np.dtype, str] = {numpy: short for short, numpy in NUMPY.items()}


def short_name(dtype: np.dtype | type) -> str:
    """numpy dtype --> short name. Raises UnsupportedError for dtypes the IR does not have."""
    try:
        return SHORT[np.dtype(dtype)]
    except KeyError:
        raise UnsupportedError(
            f"element type {np.dtype(dtype)} is not supported; the IR has {', '.join(NUMPY)}"
        ) from None


def is_float(name: str) -> bool:
    """Whether a short name is a floating-point type."""
    return name in ("f16", "bf16", "f32", "f64")


def is_integer(name: str) -> bool:
    """Whether a short name is an integer type (bool is none)."""
    return name[0] in "iu"
