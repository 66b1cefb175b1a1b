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
from functools import cache
from typing import Any

import numpy as np

from cnncc.errors import GraphError

TAPS = 3
POINTS: dict[int, tuple[Fraction, ...]] = {
    2: tuple(map(Fraction, ("0", "1", "-1"))),
    4: tuple(map(Fraction, ("0", "5/8", "-5/8", "3/2", "-3/2"))),
    6: tuple(map(Fraction, ("0", "1", "-1", "2", "-2", "1/2", "-1/2"))),
}
Matrix = tuple[tuple[Fraction, ...], ...]


@cache
def matrices(m: int) -> tuple[Matrix, Matrix, Matrix]:
    """A^T (m x alpha), B^T (alpha x alpha) and G (alpha x 3), exact; alpha = m + 2. GraphError for other m."""
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
    """Weights [oc, ic, (taps in depth,) 3, 3] --> G g G^T as [alpha, alpha, oc, (taps in depth,) ic], computed in
    float64, in the dtype of `w`.

    Raises GraphError where the kernel is not 3 x 3 in the last two axes or m is not 2, 4 or 6.
    """
    if w.ndim not in (4, 5) or w.shape[-2:] != (TAPS, TAPS):
        raise GraphError(f"Winograd: weights must be [oc, ic, 3, 3] or [oc, ic, taps, 3, 3], got {list(w.shape)}")
    g = as_array(matrices(m)[2])
    moved = np.moveaxis(w, 1, -3).transpose(w.ndim - 2, w.ndim - 1, *range(w.ndim - 2))  # [3, 3, oc, (taps,) ic]
    flat = np.ascontiguousarray(moved, dtype=np.float64).reshape(TAPS, TAPS, -1)
    columns = np.tensordot(g, flat, axes=(1, 0))  # [alpha, 3, oc * (taps *) ic]
    both = np.matmul(g, columns)  # [alpha, alpha, oc * (taps *) ic]
    prepared: np.ndarray = both.reshape(len(g), len(g), *moved.shape[2:]).astype(w.dtype)
    return prepared


def as_array(matrix: Matrix) -> np.ndarray:
    """An exact matrix in float64."""
    return np.array([[float(v) for v in row] for row in matrix], dtype=np.float64)


def amplification(m: int) -> float:
    """How much larger than max|x| * sum|w| the terms of an output can be that cancel: errors grow by at most this.

    The largest entry of |A^T| [ (|G| g |G^T|) * (|B^T| d |B|) ] |A| for d of ones and g one at a single tap.
    """
    a, b, g = (np.abs(as_array(matrix)) for matrix in matrices(m))
    taps = np.einsum("ik,jl->klij", g, g)  # [tap row, tap column, alpha, alpha]
    inputs = np.outer(b.sum(axis=1), b.sum(axis=1))
    return float(np.einsum("oi,klij,pj->klop", a, taps * inputs, a).max())


def combine(matrix: Matrix, values: list[Any]) -> list[Any]:
    """matrix @ values, with the sums shared that rows (or columns) which differ in signs only have in common.

    Values are numbers or symbolic expressions; the interpolation points come in pairs p, -p, which halves the work.
    """
    matrix, values = _merge_columns(matrix, values)
    out: dict[int, Any] = {}
    for i, row in enumerate(matrix):
        if i in out:
            continue
        twin = next((j for j in range(i + 1, len(matrix)) if _twins(row, matrix[j])), None)
        if twin is None:
            out[i] = _dot(row, values)
            continue
        even = tuple(a if a == b else Fraction(0) for a, b in zip(row, matrix[twin], strict=True))
        odd = tuple(a if a != b else Fraction(0) for a, b in zip(row, matrix[twin], strict=True))
        scale = [v for v in odd if v][-1]
        e, o = _dot(even, values), _dot(tuple(v / scale for v in odd), values)
        out[i], out[twin] = e + o * float(scale), e - o * float(scale)
    return [out[i] for i in range(len(matrix))]


def _merge_columns(matrix: Matrix, values: list[Any]) -> tuple[Matrix, list[Any]]:
    """Columns a, b that differ in signs only --> one column for value a + value b and one for their difference."""
    columns, values = list(zip(*matrix, strict=True)), list(values)
    for a in range(len(columns)):
        for b in range(a + 1, len(columns)):
            if _twins(columns[a], columns[b]):
                values[a], values[b] = values[a] + values[b], values[a] - values[b]
                pairs = list(zip(columns[a], columns[b], strict=True))
                columns[a] = tuple(u if u == v else Fraction(0) for u, v in pairs)
                columns[b] = tuple(u if u != v else Fraction(0) for u, v in pairs)
    return tuple(zip(*columns, strict=True)), values


def _twins(a: tuple[Fraction, ...], b: tuple[Fraction, ...]) -> bool:
    """Whether two rows differ in signs only, with some that agree and some that do not."""
    alike = all(abs(u) == abs(v) for u, v in zip(a, b, strict=True))
    return alike and a != b and a != tuple(-v for v in b)


def _dot(row: tuple[Fraction, ...], values: list[Any]) -> Any:
    """Sum of coefficient * value; the terms without a multiplication come first, so that the rest are FMAs."""
    terms = sorted(((c, v) for c, v in zip(row, values, strict=True) if c), key=lambda term: term[0] != 1)
    (first, value), *rest = terms
    total = value if first == 1 else value * float(first)
    for c, v in rest:
        total = total + v if c == 1 else total - v if c == -1 else total + v * float(c)
    return total


def _product(roots: list[Fraction]) -> list[Fraction]:
    """Coefficients of prod (x - root), lowest power first."""
    out = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *out]
        out = [s - root * c for s, c in zip(shifted, [*out, Fraction(0)], strict=True)]
    return out


def _freeze(rows: list[list[Fraction]]) -> Matrix:
    return tuple(tuple(row) for row in rows)
