"""Winograd's minimal filtering F(m, r), m outputs of r taps, nested in up to two axes: the matrices, and the weights
transformed at compile time.

    y = A^T [ (G g H^T) * (B^T d C) ] D,     d: alpha x beta inputs, g: r x s weights, y: m x n outputs

(Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016; the matrices by Toom and Cook's
interpolation.) A tile has alpha = m + r - 1 inputs along an axis. An axis of one tap is left as it is: F(1, 1). A row
of B^T is a product of (x - p) over the other interpolation points, monic, so that its leading term costs no
multiplication; G carries the denominators, which is free since the weights are transformed once.

Points, besides infinity: those with the least errors among eighths (`python -m benchmarks.points`), in pairs p, -p,
which halves the work. All are short binary fractions, so A and B are exact in float32.
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from functools import cache, reduce
from typing import Any

import numpy as np

from cnncc.errors import GraphError

TILES = (2, 3, 4, 5, 6, 7)  # outputs of a tile along an axis; odd ones of 2 taps, since alpha is even
TAPS = (2, 3, 5, 7)  # of an axis that is transformed
_PAIRS: dict[int, tuple[str, ...]] = {  # of interpolation points, by their number alpha - 2 without 0 and infinity
    2: ("1",),
    4: ("5/8", "13/8"),  # 0.5 and 0.25 times the errors of the classical 1, 2, for r = 3 in two axes
    6: ("1/2", "1", "2"),  # the classical ones
    8: ("3/8", "3/4", "11/8", "5/2"),  # 0.4 times the errors of 1/2, 1, 3/2, 2
}
_SLICE = 1 << 19  # bytes of weights that are transformed at a time, so that they stay in a cache
Matrix = tuple[tuple[Fraction, ...], ...]


def side(m: int, taps: int) -> int:
    """Outputs of a tile along an axis of so many taps."""
    return m if taps > 1 else 1


@cache
def points(m: int, taps: int) -> tuple[Fraction, ...] | None:
    """The finite interpolation points of F(m, taps): alpha - 1; None where there are none in the table."""
    if (m, taps) == (1, 1):
        return ()
    pairs = _PAIRS.get(m + taps - 3)
    if m not in TILES or taps not in TAPS or pairs is None:
        return None
    return (Fraction(0), *(s * Fraction(p) for p in pairs for s in (1, -1)))


@cache
def matrices(m: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """A^T (m x alpha), B^T (alpha x alpha) and G (alpha x taps), exact. GraphError where there are no points."""
    found = points(m, taps)
    if found is None:
        tiles = [f"F({k}, {r})" for k in TILES for r in TAPS if points(k, r)]
        raise GraphError(f"Winograd: tiles and taps must be {', '.join(tiles)}, got F({m}, {taps})")
    return toom_cook(found, m, taps)


def toom_cook(found: tuple[Fraction, ...], m: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """A^T, B^T and G of F(m, taps) from any m + taps - 2 finite points that differ."""
    a_rows = [[p**k for p in found] + [Fraction(int(k == m - 1))] for k in range(m)]
    b_rows = [[*_product([q for q in found if q != p]), Fraction(0)] for p in found]
    b_rows.append(_product(list(found)))
    g_rows = []
    for p in found:
        denominator = Fraction(1)
        for q in found:
            denominator *= p - q if q != p else 1
        g_rows.append([p**k / denominator for k in range(taps)])
    g_rows.append([*[Fraction(0)] * (taps - 1), Fraction(1)])
    return _freeze(a_rows), _freeze(b_rows), _freeze(g_rows)


def axes(rank: int) -> int:
    """Spatial axes that are transformed, of so many: the last ones."""
    return min(rank, 2)


def transform_weights(w: np.ndarray, m: int) -> np.ndarray:
    """Weights [oc, ic, (taps in depth,) r, s] --> G g H^T as [oc, alpha, beta, (taps in depth,) ic], in 1-D [oc, ic, r]
    --> [oc, alpha, ic]; computed in float64, in the dtype of `w`.

    The output channel comes first so that a kernel reads its weights in the order in which they lie: were it behind the
    tile, it would read a little in each of alpha * beta places that are a power of two apart, which share cache sets.

    Raises GraphError where there are no matrices for the taps of an axis.
    """
    if w.ndim not in (3, 4, 5):
        raise GraphError(f"Winograd: weights must be of one to three spatial axes, got {list(w.shape)}")
    last = axes(w.ndim - 2)
    oc, ic, *taps = w.shape
    transforms = [as_array(matrices(side(m, k), k)[2]) for k in taps[-last:]]
    both = reduce(np.kron, transforms)  # of all taps at once: one product of matrices
    u = np.empty((oc, *(len(g) for g in transforms), *taps[:-last], ic), w.dtype)
    made, given = u.reshape(oc, len(both), -1, ic), w.reshape(oc, ic, -1, both.shape[1])
    many = min(oc, max(1, _SLICE // (made.itemsize * made[0].size)))
    part = np.empty((many, made.shape[2], both.shape[1], ic))
    product = np.empty((many, made.shape[2], len(both), ic))
    for k in range(0, oc, many):
        n = min(many, oc - k)
        part[:n] = given[k : k + n].transpose(0, 2, 3, 1)
        made[k : k + n] = np.matmul(both, part[:n], out=product[:n]).swapaxes(1, 2)
    return u


def as_array(matrix: Matrix) -> np.ndarray:
    """An exact matrix in float64."""
    return np.array([[float(v) for v in row] for row in matrix], dtype=np.float64)


@cache
def amplification(m: int, taps: int) -> float:
    """How much larger than max|x| * sum|w| the terms of an output can be that cancel, in an axis: errors grow by at
    most this. Two axes multiply.

    The largest entry of |A^T| [ (|G| g) * (|B^T| d) ] for d of ones and g one at a single tap.
    """
    a, b, g = (np.abs(as_array(matrix)) for matrix in matrices(m, taps))
    return float(np.einsum("ok,kr,k->or", a, g, b.sum(axis=1)).max())


@cache
def alignment(m: int, taps: int) -> float:
    """How much larger than the largest output the terms of an output can be, as the root of the sum of their squares,
    where inputs and weights are 1 or -1 (and 2 taps do not cancel in all outputs), in an axis. Two axes multiply.

    Terms are sums over the input channels, with rounding errors in proportion to them.
    """
    return worst_signs(m, taps)[0]


@cache
def worst_signs(m: int, taps: int) -> tuple[float, np.ndarray, np.ndarray]:
    """`alignment`, and the signs of inputs and weights where it is reached."""
    return signs_of(matrices(m, taps))


def signs_of(transforms: tuple[Matrix, Matrix, Matrix]) -> tuple[float, np.ndarray, np.ndarray]:
    """The same for any matrices, by trying all signs."""
    a, b, g = (as_array(matrix) for matrix in transforms)
    x, w = (np.array(list(itertools.product((1.0, -1.0), repeat=k))).T for k in (b.shape[1], g.shape[1]))
    terms, weights = b @ x, g @ w
    worst = np.max([(row[:, None] ** 2 * terms**2).T @ weights**2 for row in a], axis=0)
    largest = np.max([((row[:, None] * terms).T @ weights) ** 2 for row in a], axis=0)
    kept = largest > 0.5  # squares of whole numbers; an odd number of signs never cancels
    ratio = np.where(kept, worst, 0.0) / np.where(kept, largest, 1.0)
    i, j = np.unravel_index(ratio.argmax(), ratio.shape)
    return float(np.sqrt(ratio[i, j])), x[:, i], w[:, j]


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
