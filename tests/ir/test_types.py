"""Element types and value types."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from cnncc.errors import UnsupportedError
from cnncc.ir.dims import symbol
from cnncc.ir.dtype import NUMPY, is_float, is_integer, short_name
from cnncc.ir.layout import Layout, channels
from cnncc.ir.types import Type


@pytest.mark.parametrize("name", NUMPY)
def test_short_names_are_a_bijection(name):
    assert short_name(NUMPY[name]) == name
    bits = {"bool": 8, "bf16": 16}.get(name) or int(name[1:])
    assert NUMPY[name].itemsize * 8 == bits


def test_kinds_partition_the_types():
    floats, integers = {n for n in NUMPY if is_float(n)}, {n for n in NUMPY if is_integer(n)}
    assert floats == {"f16", "bf16", "f32", "f64"}
    assert integers == set(NUMPY) - floats - {"bool"}


@pytest.mark.parametrize("dtype", [np.complex64, np.str_, object, np.longdouble])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(UnsupportedError, match="is not supported; the IR has f16, bf16"):
        short_name(dtype)


def test_type_of_an_array():
    assert Type.of(np.zeros((2, 3), np.float32)) == Type("f32", (2, 3))
    assert Type.of(np.zeros((), ml_dtypes.bfloat16)) == Type("bf16", ())
    assert Type.of(np.zeros((0, 2), bool)).elements == 0


def test_bytes_count_the_padding_of_blocks():
    plain = Type("f32", (2, 20, 3, 3))
    blocked = plain.with_(layout=channels(16))
    assert plain.nbytes == 2 * 20 * 9 * 4
    assert blocked.physical == (2, 2, 3, 3, 16)
    assert blocked.nbytes == 2 * 32 * 9 * 4
    assert blocked.elements == plain.elements
    assert blocked.plain == plain


def test_symbolic_types():
    n = symbol("N")
    type_ = Type("f16", (n, 3, 4))
    assert not type_.static
    assert type_.with_(shape=(2, 3, 4)).static
    assert type_.elements == 12 * n
    assert type_.nbytes == 24 * n


def test_text_shows_only_what_is_not_default():
    assert str(Type("i64", ())) == "i64[]"
    assert str(Type("f32", (symbol("N"), 3))) == "f32[N, 3]"
    assert str(Type("f32", (1, 32, 4, 4), Layout(((1, 16),)))) == "f32[1, 32, 4, 4] aBcd16b"


def test_types_are_values():
    a, b = Type("f32", (symbol("N"), 3)), Type("f32", (symbol("N"), 3))
    assert a == b
    assert hash(a) == hash(b)
    assert a != a.with_(dtype="f64")
    assert a != Type("f32", (symbol("M"), 3))
