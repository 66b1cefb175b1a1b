"""Interpolation points for Winograd's transforms, by what they do to errors: `python -m benchmarks.points M TAPS [D]`.

Tries all pairs p, -p among the multiples of 1 / D (8) from 1 / 4 to 3, with 0 and infinity, and prints the best by
`alignment`, the measure of errors in cnncc/ops/winograd_matrices.py. Seconds for up to 8 inputs of a tile, minutes for
10.
"""

from __future__ import annotations

import itertools
import sys
from fractions import Fraction

from cnncc.ops.winograd_matrices import points, signs_of, toom_cook

Pairs = tuple[Fraction, ...]


def search(m: int, taps: int, denominator: int = 8) -> list[tuple[float, Pairs]]:
    """`alignment` and the pairs of points, the best first. m + taps must be odd."""
    values = [Fraction(k, denominator) for k in range(-(-denominator // 4), 3 * denominator + 1)]
    found = []
    for pairs in itertools.combinations(values, (m + taps - 3) // 2):
        every = (Fraction(0), *(s * p for p in pairs for s in (1, -1)))
        found.append((signs_of(toom_cook(every, m, taps))[0], pairs))
    return sorted(found)


def main(arguments: list[str]) -> int:
    """Prints the ten best, and those in use."""
    m, taps, *rest = map(int, arguments)
    for ratio, pairs in search(m, taps, *rest)[:10]:
        print(f"{ratio:8.2f}   {' '.join(map(str, pairs))}")
    used = points(m, taps)
    if used is not None:
        print(f"{signs_of(toom_cook(used, m, taps))[0]:8.2f}   in use: {' '.join(str(p) for p in used[1::2])}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
