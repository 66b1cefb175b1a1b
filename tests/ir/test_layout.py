"""Layouts: packing, indexing and tags agree with each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnncc.errors import GraphError
from cnncc.ir.dims import symbol
from cnncc.ir.layout import PLAIN, Layout, channels


@st.composite
def laid_out(draw):
    """A shape, and a layout that blocks some of its axes in some order."""
    rank = draw(st.integers(1, 5))
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=rank, max_size=rank)))
    axes = draw(st.permutations(range(rank)))[: draw(st.integers(0, min(rank, 3)))]
    return shape, Layout(tuple((axis, draw(st.integers(2, 5))) for axis in axes))


@settings(deadline=None, max_examples=100)
@given(laid_out())
def test_pack_and_unpack_are_inverse(case):
    shape, layout = case
    array = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    packed = layout.pack(array)
    assert packed.shape == layout.physical(shape)
    assert packed.flags.c_contiguous
    taken = np.full(packed.shape, -1, np.float32)
    assert layout.pack(array, taken) is taken
    assert np.array_equal(taken, packed)
    assert np.array_equal(layout.unpack(packed, shape), array)
    assert np.sort(packed[packed != 0]).tolist() == array.reshape(-1).tolist(), (
        "the padding is zero, the rest is there once"
    )


@settings(deadline=None, max_examples=60)
@given(laid_out())
def test_index_says_where_pack_puts_an_element(case):
    shape, layout = case
    array = np.arange(1, np.prod(shape) + 1).reshape(shape)
    packed = layout.pack(array)
    for logical in np.ndindex(*shape):
        physical = layout.index(logical)
        assert packed[physical] == array[logical]
        assert layout.logical(physical, len(shape)) == logical
    for physical in np.argwhere(packed == 0):
        logical = layout.logical(tuple(physical), len(shape))
        assert any(i >= d for i, d in zip(logical, shape, strict=True)), "zeros are padding only"


@settings(deadline=None, max_examples=100)
@given(laid_out())
def test_tags_round_trip(case):
    shape, layout = case
    tag = layout.tag(len(shape))
    assert Layout.parse(tag) == layout
    assert bool(layout) == any(c.isdigit() for c in tag)


def test_known_tags():
    assert channels(16).tag(4) == "aBcd16b"
    assert Layout(((1, 16), (0, 16))).tag(4) == "ABcd16b16a"
    assert Layout.parse("ABcd16b16a").blocks == ((1, 16), (0, 16))
    assert PLAIN.tag(3) == "abc"
    assert channels(1) == PLAIN


@pytest.mark.parametrize(
    "tag", ["", "aBcd", "abcd16b", "acbd", "aBcd16", "16b", "aBcd16b ", "aBcd16B", "aB0b", "aB1b", "aB4b2b", "aBcd4c"]
)
def test_what_is_no_tag_is_refused(tag):
    with pytest.raises(GraphError, match="layout"):
        Layout.parse(tag)


def test_symbolic_shapes():
    n = symbol("N")
    assert channels(16).physical((n, 20, 3)) == (n, 2, 3, 16)
    assert Layout(((0, 4),)).physical((n, 3))[0].subs({n: 9}) == 3


@settings(deadline=None, max_examples=100)
@given(laid_out(), laid_out())
def test_layouts_of_one_order_have_the_same_bytes(case, other):
    shape, layout = case
    array = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    for b in (PLAIN, *([other[1]] if all(axis < len(shape) for axis, _ in other[1].blocks) else [])):
        same = np.array_equal(layout.pack(array).reshape(-1), b.pack(array).reshape(-1))
        if layout.order(shape) == b.order(shape):
            assert same
        elif array.size > 1:
            assert not same


def test_channels_of_one_pixel_lie_the_same_in_blocks():
    n = symbol("N")
    assert channels(16).order((n, 32, 1, 1)) == PLAIN.order((n, 32, 1, 1)) == ((0, n), (1, 32))
    assert channels(16).order((n, 32, 1, 2)) != PLAIN.order((n, 32, 1, 2))
    assert channels(16).order((n, 24, 1, 1)) != PLAIN.order((n, 24, 1, 1))
