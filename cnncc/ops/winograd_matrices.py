"""Winograd's minimal filtering F(m x m, 3 x 3): the matrices, and the weights transformed at compile time.

    y = A^T [ (G g G^T) * (B^T d B) ] A,     d: (m+2) x (m+2) inputs, g: 3 x 3 weights, y: m x m outputs

(Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016; the matrices by Toom and Cook's
interpolation.) A row of B^T is a product of (x - p) over the other interpolation points, monic, so that its leading
term costs no multiplication; G carries the denominators, which is free since the weights are transformed once.

Points, besides infinity (all are short binary fractions, so the matrices are exact in float32):

    m = 2   0, 1, -1                      the classical ones
    m = 4   0, 5/8, -5/8, 3/2, -3/2       half the mean and a quarter of the largest error of 0, 1, -1, 2, -2
    m = 6   0, 1, -1, 2, -2, 1/2, -1/2    the classical ones
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np

from cnncc.errors import GraphError

TAPS = 3
POINTS: dict[int, tuple[Fraction, ...]] = {
    2: tuple(map(Fraction, ("0", "1", "-1"))),
    4: tuple(map(Fraction, ("0", "5/8", "-5/8", "3/2", "-3/2"))),
    6: tuple(map(Fraction, ("0", "1", "-1", "2", "-2", "1/2", "-1/2"))),
}
Matrix = tuple[tuple[Fraction, ...], ...]


@lru_cache(maxsize=None)
def matrices(m: int) -> tuple[Matrix, Matrix, Matrix]:
    """A^T (m x alpha), B^T (alpha x alpha) and G (alpha x 3), exact, with alpha = m + 2. Raises GraphError for other m."""
    if m not in POINTS:
        raise GraphError(f"Winograd: the output tile must be one of {sorted(POINTS)}, got {m}")
    points = POINTS[m]
    alpha = m + TAPS - 1
    last = tuple(Fraction(0) for _ in range(alpha - 1))
    a_rows = [[p**k for p in points] + [Fraction(int(k == m - 1))] for k in range(m)]
    b_rows = [[*_product([q for q in points if q != p]), Fraction(0)] for p in points]
    b_rows.append(_product(list(points)))
    g_rows = []
    for p in points:
        denominator = Fraction(1)
        for q in points:
            denominator *= p - q if q != p else 1
        g_rows.append([p**k / denominator for k in range(TAPS)])
    g_rows.append([*last[: TAPS - 1], Fraction(1)])
    return _freeze(a_rows), _freeze(b_rows), _freeze(g_rows)


def transform_weights(w: np.ndarray, m: int) -> np.ndarray:
    """Weights [oc, ic, 3, 3] --> G g G^T as [alpha, alpha, oc, ic], computed in float64, in the dtype of `w`.

    Raises GraphError where the kernel is not 3 x 3 or m is not 2, 4 or 6.
    """
    if w.ndim != 4 or w.shape[2:] != (TAPS, TAPS):
        raise GraphError(f"Winograd: weights must be [oc, ic, 3, 3], got {list(w.shape)}")
    g = as_array(matrices(m)[2])
    flat = np.ascontiguousarray(w.transpose(2, 3, 0, 1), dtype=np.float64).reshape(TAPS, TAPS, -1)
    columns = np.tensordot(g, flat, axes=(1, 0))  # [alpha, 3, oc * ic]
    both = np.matmul(g, columns)  # [alpha, alpha, oc * ic]
    return both.reshape(len(g), len(g), *w.shape[:2]).astype(w.dtype)


def as_array(matrix: Matrix) -> np.ndarray:
    """An exact matrix in float64."""
    return np.array([[float(v) for v in row] for row in matrix], dtype=np.float64)


def _product(roots: list[Fraction]) -> list[Fraction]:
    """Coefficients of prod (x - root), lowest power first."""
    out = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *out]
        out = [s - root * c for s, c in zip(shifted, [*out, Fraction(0)], strict=True)]
    return out


def _freeze(rows: list[list[Fraction]]) -> Matrix:
    return tuple(tuple(row) for row in rows)
