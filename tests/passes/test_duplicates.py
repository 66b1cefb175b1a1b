"""merge-duplicates on constants too large to print: every element counts."""

from __future__ import annotations

import numpy as np
import pytest

from cnncc.builder import Builder
from cnncc.ir.graph import Graph
from cnncc.passes import MERGE_DUPLICATES, Context, run_passes


def _constants_left(*arrays: np.ndarray) -> list[np.ndarray]:
    graph = Graph("g")
    b = Builder(graph)
    for k, array in enumerate(arrays):
        graph.add_output(b.neg(b.constant(array, f"c{k}")), f"y{k}")
    return [v.data for v in run_passes(graph, [MERGE_DUPLICATES], Context()).constants if v.data is not None]


@pytest.mark.parametrize("place", [0, 1, 499, 997, 999])
def test_constants_that_differ_in_one_element_stay_apart(place: int) -> None:
    a = np.arange(1000, dtype=np.float32)
    b = a.copy()
    b[place] += 1
    assert len(_constants_left(a, b, a.copy())) == 2


def test_zeros_of_two_signs_stay_apart_and_nans_merge() -> None:
    zero, nan = np.zeros(3, np.float32), np.full(3, np.nan, np.float32)
    assert len(_constants_left(zero, -zero)) == 2
    assert len(_constants_left(nan, nan.copy())) == 1


@pytest.mark.parametrize("shapes", [((2, 3), (3, 2)), ((), (1,)), ((0,), (0, 1))])
def test_shape_and_dtype_count(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    assert len(_constants_left(*(np.zeros(shape, np.float32) for shape in shapes))) == 2
    assert len(_constants_left(np.zeros(shapes[0], np.float32), np.zeros(shapes[0], np.int32))) == 2
    assert len(_constants_left(np.zeros(shapes[0], np.float32), np.zeros(shapes[0], np.float32))) == 1


def test_an_array_that_is_not_row_major_equals_its_copy() -> None:
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert len(_constants_left(a.T, np.ascontiguousarray(a.T))) == 1
