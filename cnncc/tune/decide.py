"""Whether a difference is more than noise."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from statistics import median

MARGIN = 1.01  # a choice must be faster than the default by this, and surely
DOUBT = 0.005  # probability, at each end, that the median lies outside of the interval

Interval = tuple[float, float, float]


def gain(pairs: Sequence[tuple[float, float]]) -> Interval:
    """How many times faster the second of a pair is, as (low, middle, high): the median of the ratios of rounds, and
    an interval that holds the true median with 99 percent probability, whatever the distribution (a sign test)."""
    ratios = sorted(first / second for first, second in pairs)
    n = len(ratios)
    outside, k = 0.0, 0
    while (outside := outside + comb(n, k) / 2**n) <= DOUBT:
        k += 1
    assert k, f"{n} rounds are too few to tell a difference from noise"
    return ratios[k - 1], median(ratios), ratios[n - k]


def beats(interval: Interval) -> bool:
    """Whether a gain is real."""
    return interval[0] > MARGIN
