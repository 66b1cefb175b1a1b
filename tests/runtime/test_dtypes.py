"""Arrays of every dtype reach kernels, through the run loop's own tensor records."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from cnncc.errors import GraphError
from cnncc.kernels.build import KernelSource, build_all
from cnncc.kernels.cache import Cache
from cnncc.runtime.executable import Executable
from cnncc.runtime.program import Buffer, Call, Port, Program
from tests.runtime.kernels import TARGET

DTYPES = ["bool", "int8", "uint8", "int16", "int32", "uint32", "int64", "float16", "float32", "float64"]


def reverse(dtype: str) -> Any:
    """out[i, j] = x[3 - i, j]"""
    from tvm import te, tirx

    x = te.placeholder((tirx.const(4, "int64"), tirx.const(5, "int64")), dtype, name="x")
    return te.create_prim_func([x, te.compute(x.shape, lambda i, j: x[3 - i, j], name="out")])


@functools.cache
def kernels() -> dict[str, bytes]:
    sources = {f"reverse_{d}": KernelSource(d, functools.partial(reverse, d)) for d in DTYPES}
    return build_all(sources, TARGET, cache=Cache(None))


def executable(dtype: str) -> Executable:
    return Executable(
        Program(
            (Buffer("x", dtype, (4, 5), "input"), Buffer("y", dtype, (4, 5), "output")),
            (Call(f"reverse_{dtype}", (0, 1), "reverse"),),
            inputs=(Port("x", dtype, (4, 5), 0),),
            outputs=(Port("y", dtype, (4, 5), 1),),
            kernels=kernels(),
        )
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype: str) -> None:
    x = (np.arange(20).reshape(4, 5) % 3).astype(dtype)
    y = executable(dtype)(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, x[::-1])


@pytest.mark.parametrize(
    ("dtype", "given", "fits"),
    [
        ("float32", [[1] * 5] * 4, True),
        ("float32", [[True] * 5] * 4, True),
        ("float32", [[1.5] * 5] * 4, True),
        ("int64", [[1] * 5] * 4, True),
        ("int64", [[1.5] * 5] * 4, False),
        ("float32", [[1j] * 5] * 4, False),
        ("bool", [[2] * 5] * 4, False),
    ],
)
def test_lists_take_the_dtype_where_nothing_is_lost(dtype: str, given: list[list[Any]], fits: bool) -> None:
    if fits:
        np.testing.assert_array_equal(executable(dtype)(given), np.array(given, dtype))
    else:
        with pytest.raises(GraphError, match=f"x: it must be an array of {dtype}, got a list: .* does not fit"):
            executable(dtype)(given)
