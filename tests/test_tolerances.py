"""The comparison that all tests rely on: it must be able to fail."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tolerances import TOLERANCES, assert_close


def test_every_row_has_a_reason():
    assert all(row.reason and row.rtol >= 0 and row.atol >= 0 for row in TOLERANCES.values())


def test_atol_is_of_the_largest_magnitude():
    expected = np.array([1000.0, 0.0])
    assert_close(np.array([1000.0, 0.005]), expected, "conv")
    with pytest.raises(AssertionError, match=r"worst at \(1,\): 0.02"):
        assert_close(np.array([1000.0, 0.02]), expected, "conv")


@pytest.mark.parametrize("actual", [[1.0, np.nan], [np.inf, 2.0], [1.0, -2.0], [1.0]])
def test_wrong_values_fail(actual):
    with pytest.raises(AssertionError):
        assert_close(actual, [1.0, 2.0], "network")


def test_nan_and_infinity_meet_their_like():
    values = np.array([np.nan, np.inf, -np.inf, 1.0])
    assert_close(values, values, "exact")
    with pytest.raises(AssertionError):
        assert_close(-values, values, "elementwise")


def test_integers_keep_their_digits():
    with pytest.raises(AssertionError):
        assert_close(np.array([2**60 + 1]), np.array([2**60]), "exact")
