"""What counts as faster."""

from __future__ import annotations

import numpy as np
import pytest

from cnncc.tune.decide import MARGIN, beats, gain


def test_a_steady_gain_is_real():
    low, middle, high = gain([(2.0, 1.0)] * 21)
    assert (low, middle, high) == (2.0, 2.0, 2.0)
    assert beats((low, middle, high))


def test_outliers_change_nothing():
    pairs = [(1.2, 1.0)] * 17 + [(1.0, 50.0), (1.0, 9.0), (70.0, 1.0), (1.0, 2.0)]
    interval = gain(pairs)
    assert interval[:2] == (1.2, 1.2)
    assert beats(interval)


def test_a_gain_below_the_margin_is_none():
    assert not beats(gain([(MARGIN - 0.001, 1.0)] * 21))


def test_a_gain_in_two_of_three_rounds_is_noise():
    pairs = [(1.3, 1.0)] * 14 + [(0.9, 1.0)] * 7
    low, middle, _ = gain(pairs)
    assert middle == 1.3
    assert not beats((low, middle, 2.0))


def test_noise_alone_is_seldom_a_gain():
    rng = np.random.default_rng(0)
    wrong = sum(beats(gain(np.exp(0.2 * rng.standard_normal((21, 2))))) for _ in range(1000))
    assert wrong < 20


def test_a_gain_within_noise_is_found_by_many_rounds():
    rng = np.random.default_rng(0)
    noise = np.exp(0.05 * rng.standard_normal((21, 2)))
    assert beats(gain(noise * [1.15, 1.0]))


def test_too_few_rounds_are_our_own_mistake():
    with pytest.raises(AssertionError, match="7 rounds"):
        gain([(2.0, 1.0)] * 7)
