"""The matrices of Winograd convolution, products with them, and weights transformed by them."""

from __future__ import annotations

import numpy as np
import pytest

from cnncc.errors import GraphError
from cnncc.ops.winograd_matrices import (
    TAPS,
    TILES,
    alignment,
    as_array,
    combine,
    matrices,
    points,
    transform_weights,
    worst_signs,
)
from cnncc.targets.cpu.winograd_fresh import scaled

CASES = [(m, r) for m in TILES for r in TAPS if points(m, r)]


@pytest.mark.parametrize(("m", "taps"), CASES)
def test_matrices_compute_the_correlation(m: int, taps: int) -> None:
    a, b, g = (as_array(matrix) for matrix in matrices(m, taps))
    rng = np.random.default_rng(m)
    d, w = rng.standard_normal((m + taps - 1, m + taps - 1)), rng.standard_normal((taps, taps))
    expected = sum(w[i, j] * d[i : i + m, j : j + m] for i in range(taps) for j in range(taps))
    np.testing.assert_allclose(a @ ((g @ w @ g.T) * (b @ d @ b.T)) @ a.T, expected, rtol=0, atol=1e-10)


def test_an_axis_of_one_tap_is_left_as_it_is() -> None:
    assert [as_array(matrix).tolist() for matrix in matrices(1, 1)] == [[[1.0]]] * 3


@pytest.mark.parametrize(("m", "taps"), CASES)
def test_matrices_are_exact_in_float32(m: int, taps: int) -> None:
    for matrix in matrices(m, taps)[:2]:
        assert np.array_equal(as_array(matrix).astype(np.float32), as_array(matrix))


@pytest.mark.parametrize(("m", "taps"), CASES)
def test_combine_is_a_matrix_product(m: int, taps: int) -> None:
    values = list(np.random.default_rng(m).standard_normal(m + taps - 1))
    for matrix in matrices(m, taps)[:2]:
        np.testing.assert_allclose(combine(matrix, values), as_array(matrix) @ values, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("m", "taps"), CASES)
def test_worst_signs(m: int, taps: int) -> None:
    """The terms of their outputs are as large as stated, and those of random signs are smaller, but for signs of which
    2 taps make nothing but zeros."""
    a, b, g = (as_array(matrix) for matrix in matrices(m, taps))

    def ratio(x: np.ndarray, w: np.ndarray) -> float:
        terms = a * (b @ x) * (g @ w)
        result = np.abs(terms.sum(axis=1)).max()
        assert result > 0.5 or taps == 2
        return float(np.sqrt((terms**2).sum(axis=1).max()) / result) if result > 0.5 else 0.0

    largest, x, w = worst_signs(m, taps)
    assert ratio(x, w) == pytest.approx(largest)
    assert largest == alignment(m, taps)
    rng = np.random.default_rng(0)
    found = [ratio(rng.choice([-1.0, 1.0], len(b)), rng.choice([-1.0, 1.0], taps)) for _ in range(50)]
    assert max(found) <= largest * (1 + 1e-9)


def test_combine_shares_sums_of_pairs() -> None:
    """12 operations on each side of F(4, 3), where the plain product takes 19 and more."""
    for matrix, most in zip(matrices(4, 3)[:2], (13, 12), strict=True):
        counter = Counting.fresh(6)
        combine(matrix, counter)
        assert Counting.additions <= most


class Counting:
    """A value that counts the additions made with it; a product that is added is one fused operation."""

    additions = 0

    @staticmethod
    def fresh(n: int) -> list[Counting]:
        Counting.additions, Counting.seen = 0, {}
        return [Counting(str(k)) for k in range(n)]

    seen: dict[str, Counting]

    def __init__(self, name: str) -> None:
        self.name = name

    def _made(self, name: str) -> Counting:
        if name not in Counting.seen:
            Counting.seen[name] = Counting(name)
            Counting.additions += 1
        return Counting.seen[name]

    def __add__(self, other: Counting) -> Counting:
        return self._made(f"({self.name}+{other.name})")

    def __sub__(self, other: Counting) -> Counting:
        return self._made(f"({self.name}-{other.name})")

    def __mul__(self, other: float) -> Counting:
        return Counting(f"{self.name}*{other}")


def test_weights_are_transformed_in_double_precision() -> None:
    w = np.random.default_rng(0).standard_normal((5, 7, 3, 3)).astype(np.float32)
    g = as_array(matrices(4, 3)[2])
    expected = np.einsum("ik,ockl,jl->oijc", g, w.astype(np.float64), g)
    found = transform_weights(w, 4)
    assert found.dtype == np.float32
    assert found.shape == (5, 6, 6, 7)
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_weights_of_other_kernels() -> None:
    w = np.random.default_rng(0).standard_normal((5, 7, 1, 5, 7)).astype(np.float32)
    five, seven = as_array(matrices(2, 5)[2]), as_array(matrices(2, 7)[2])
    expected = np.einsum("ik,ocdkl,jl->oijdc", five, w.astype(np.float64), seven)
    np.testing.assert_allclose(transform_weights(w, 2), expected, rtol=0, atol=1e-5)
    line = transform_weights(w[:, :, 0, 0, :], 4)
    assert line.shape == (5, 10, 7)
    np.testing.assert_array_equal(transform_weights(w[:, :, 0, :1, :], 4), line[:, None])


def test_bad_weights_and_tiles_are_named() -> None:
    with pytest.raises(GraphError, match=r"one to three spatial axes, got \[4, 4\]"):
        transform_weights(np.zeros((4, 4), np.float32), 4)
    with pytest.raises(GraphError, match=r"F\(7, 2\), got F\(3, 3\)"):
        matrices(3, 3)
    with pytest.raises(GraphError, match=r"got F\(6, 7\)"):
        transform_weights(np.zeros((4, 4, 1, 7), np.float32), 6)


@pytest.mark.parametrize(("m", "taps"), CASES)
def test_denominators_change_sides(m: int, taps: int) -> None:
    """A^T [ (G' g) * (B'^T d) ] is the same sum, with rows of G' that begin with 1."""
    (_, b, g), (b_scaled, g_scaled) = matrices(m, taps), scaled(m, taps)
    for rows in zip(b, g, b_scaled, g_scaled, strict=True):
        one, other = (np.outer(as_array((row,)), as_array((col,))) for row, col in (rows[:2], rows[2:]))
        np.testing.assert_allclose(one, other, rtol=1e-12)
        assert next(v for v in rows[3] if v) == 1
