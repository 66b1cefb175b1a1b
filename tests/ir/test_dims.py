"""Dimensions: numbers and formulas of named sizes."""

from __future__ import annotations

import keyword
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnncc.errors import GraphError
from cnncc.ir.dims import (
    affine,
    broadcast,
    is_static,
    normal,
    parse_dim,
    product,
    same_or_unknown,
    shape_text,
    substitute,
    substitute_shape,
    symbol,
    symbols_of,
)

N, H = symbol("N"), symbol("H")

formulas = st.recursive(
    st.one_of(st.integers(0, 64), st.sampled_from([N, H])),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: p[0] + p[1]),
        st.tuples(inner, inner).map(lambda p: p[0] * p[1]),
        st.tuples(inner, st.integers(1, 9)).map(lambda p: p[0] // p[1]),
        st.tuples(inner, st.integers(1, 9)).map(lambda p: p[0] % p[1]),
        st.tuples(inner, st.integers(0, 9)).map(lambda p: p[0] - p[1]),
    ),
    max_leaves=5,
)


@settings(deadline=None, max_examples=60)
@given(formulas)
def test_text_round_trip(dim):
    dim = normal(dim)
    back = parse_dim(str(dim))
    assert back == dim
    assert type(back) is type(dim)


def exact(e, values: dict[str, int]) -> Fraction:
    """A formula by Python's own arithmetic, without floats."""
    if isinstance(e, int) or e.is_Rational:
        return Fraction(int(e)) if isinstance(e, int) else Fraction(int(e.p), int(e.q))
    if e.is_Symbol:
        return Fraction(values[e.name])
    args = [exact(a, values) for a in e.args]
    if e.is_Add:
        return sum(args, Fraction(0))
    if e.is_Mul:
        return math.prod(args)
    if e.is_Pow:
        return args[0] ** int(args[1])
    return {"floor": math.floor, "ceiling": math.ceil, "Mod": lambda a, b: a % b, "Max": max, "Min": min}[
        type(e).__name__
    ](*args)


@settings(deadline=None, max_examples=40)
@given(formulas, st.integers(1, 50), st.integers(1, 50))
def test_substitution_computes_what_python_does(dim, n, h):
    value = substitute(normal(dim), {"N": n, "H": h})
    assert isinstance(value, int)
    assert value == exact(dim, {"N": n, "H": h})


@pytest.mark.parametrize(
    "name", ["N", "batch size", "2x", "", "in", "None", "True", "inf", "nan", "x-1", "批", "ﬁ", "a²"]
)
def test_every_name_makes_a_symbol_that_parses_back(name):
    made = symbol(name)
    assert parse_dim(str(made)) == made
    assert made.name.isidentifier()
    assert not keyword.iskeyword(made.name)


def test_symbols_are_equal_by_name():
    assert symbol("N") == symbol("N")
    assert symbol("N") != symbol("M")
    assert symbols_of((2, N * H, symbol("A"))) == ("A", "H", "N")


@pytest.mark.parametrize(
    "text", ["", "x y", "3 +", "f(N)", "'a'", "N.real", "1.5", "1/2", "N//0", "True", "9**9**9", "N**99", "[N]", "-"]
)
def test_other_text_is_refused(text):
    with pytest.raises(GraphError, match="must be a number or an expression of names"):
        parse_dim(text)


def test_normal_forms():
    assert normal((N + 1) * 2 - 2 * N) == 2
    assert isinstance(normal(N - N + 3), int)
    assert normal(np.int64(5)) == 5
    assert product(()) == 1
    assert product((2, N, 3)) == 6 * N
    assert isinstance(product((2, 3)), int)


def test_affine():
    assert affine(7) == (7, {})
    assert affine(normal(3 * N + 2 * H + 4)) == (4, {"H": 2, "N": 3})
    for dim in (N * H, N**2, N // 2, N / 2):
        with pytest.raises(GraphError, match="linear in its symbols"):
            affine(dim)


def test_shapes():
    assert is_static((1, 2))
    assert not is_static((1, N))
    assert substitute_shape((N, 3, N * H), {"N": 2}) == (2, 3, 2 * H)
    assert shape_text((N, 3, 4)) == "Nx3x4"
    assert shape_text(()) == "scalar"
    assert same_or_unknown(N, 4)
    assert same_or_unknown(N, H)
    assert not same_or_unknown(3, 4)


shapes = st.lists(st.integers(1, 3), max_size=4).map(tuple)


@settings(deadline=None, max_examples=150)
@given(st.lists(shapes, min_size=1, max_size=3))
def test_broadcast_is_numpys(given_shapes):
    try:
        expected = np.broadcast_shapes(*given_shapes)
    except ValueError:
        with pytest.raises(GraphError, match="must broadcast"):
            broadcast(given_shapes)
        return
    assert broadcast(given_shapes) == expected


def test_broadcast_of_symbols():
    assert broadcast([(N, 3), (1, 1)]) == (N, 3)
    assert broadcast([(N, 1), (N, 4)]) == (N, 4)
    assert broadcast([(0, 1), (1, 5)]) == (0, 5)
    for other in (H, 4):
        with pytest.raises(GraphError, match="Nx3 and"):
            broadcast([(N, 3), (other, 3)])
