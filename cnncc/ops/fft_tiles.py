"""Convolution by tiles of a discrete Fourier transform (overlap-save): where tiles, taps and results lie.

Along an axis, T points of the input at a time give T - K + 1 results. An input that fits T points with the zeros that
its windows reach is one tile, without any overlap: then the taps are shifted so that input and results begin at 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Axis:
    """One axis. Tile t reads inputs from t * step - pad on (from 0, where there is one tile), as far as they are there.

    `first`, `taps`: those taps that ever meet the input. `pad`: zeros in front of the input, for those."""

    length: int
    size: int
    out: int
    first: int
    taps: int
    pad: int
    count: int
    step: int

    @property
    def single(self) -> bool:
        """Whether one tile holds the whole axis."""
        return self.count == 1

    @property
    def filled(self) -> int:
        """Points of a tile behind which there are only zeros."""
        return self.size if self.single else self.step + self.taps - 1

    @property
    def lead(self) -> int:
        """Zeros in front of the input in the first tile."""
        return 0 if self.single else self.pad

    @property
    def shift(self) -> int:
        """How many points the taps begin before 0, around the circle."""
        return self.pad if self.single else 0


@lru_cache(maxsize=4096)
def axis(length: int, size: int, kernel: int, begin: int, end: int) -> Axis | None:
    """The tiles of an axis for transforms of `length` points; None where those are too few."""
    out = size + begin + end - kernel + 1
    first, last = max(0, begin - out + 1), min(kernel - 1, begin + size - 1)
    taps, pad = last - first + 1, begin - first
    if out < 1 or taps < 1 or taps > length:
        return None
    if length >= max(size + max(pad, 0), out + taps - 1 - pad, out):
        return Axis(length, size, out, first, taps, pad, 1, out)
    most = length - taps + 1
    count = -(-out // most)
    return Axis(length, size, out, first, taps, pad, count, -(-out // count))
