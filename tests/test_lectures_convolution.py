"""Worked examples from lectures, on the public API: what a convolution is, its transpose, its symmetries, filters.

docs/lectures.md has the formula of each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnncc
from cnncc.errors import GraphError
from cnncc.filters import KERNELS, toeplitz, true_convolution
from tests.lectures import image, random, run
from tests.tolerances import assert_close

# -- what a convolution is ---------------------------------------------------------------------------------------------

A, B = (2, -1, 1), (1, 1, 2)
M, K = ((1, 3, 1), (0, -1, 1), (2, 2, -1)), ((1, 2), (0, -1))


def full(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return run(lambda b, x, w: true_convolution(b, x, w, pads="full"), x, w, compiled=True)[0, 0]


def translate_and_scale(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The sum of copies of w, one for each sample of x: moved there and multiplied by it."""
    size = [a + b - 1 for a, b in zip(x.shape[2:], w.shape[2:], strict=True)]

    def build(b: cnncc.Builder, x: Any, w: Any) -> Any:
        total = None
        for at in np.ndindex(*x.type.shape[2:]):
            after = [s - a - k for s, a, k in zip(size, at, w.type.shape[2:], strict=True)]
            sample = b.slice(x, starts=at, ends=[a + 1 for a in at], axes=range(2, 2 + len(at)), steps=[1] * len(at))
            copy = b.mul(b.pad(w, pads=(0, 0, *at, 0, 0, *after)), sample)
            total = copy if total is None else b.add(total, copy)
        return total

    return run(build, x, w)[0, 0]


def by_matrix(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    out = [a + b - 1 for a, b in zip(x.shape[2:], w.shape[2:], strict=True)]
    return (toeplitz(w, x.shape[2:], flip=True, pads="full") @ x.reshape(-1)).reshape(out)


WAYS = {"flip and filter": full, "translate and scale": translate_and_scale, "Toeplitz matrix": by_matrix}


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_full_convolution_in_one_dimension(way):
    assert way(image(*A), image(*B)).tolist() == [2, 1, 4, -1, 2]
    assert way(image(*B), image(*A)).tolist() == [2, 1, 4, -1, 2], "it is commutative"
    assert np.convolve(A, B).tolist() == [2, 1, 4, -1, 2]


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_full_convolution_in_two_dimensions(way):
    expected = [[1, 5, 7, 2], [0, -2, -4, 1], [2, 6, 4, -3], [0, -2, -2, 1]]
    assert way(image(*M), image(*K)).tolist() == expected
    assert way(image(*K), image(*M)).tolist() == expected


def test_the_op_is_cross_correlation():
    x, w = image(*A), image(*B)
    y = run(lambda b, x, w: b.conv(x, w, pads="full"), x, w)[0, 0]
    assert y.tolist() == np.correlate(A, B, "full").tolist()
    assert y.tolist() != full(x, w).tolist()
    assert np.array_equal(y, full(x, w[..., ::-1]))


def test_the_matrix_in_one_dimension_is_toeplitz():
    """T[i, j] depends on i - j alone, and its first column is the kernel followed by zeros."""
    t = toeplitz(image(*B), (3,), flip=True, pads="full")
    assert t.tolist() == [[1, 0, 0], [1, 1, 0], [2, 1, 1], [0, 2, 1], [0, 0, 2]]
    assert all(len(set(np.diagonal(t, k))) == 1 for k in range(-4, 3))


def test_the_matrix_in_two_dimensions_has_toeplitz_blocks():
    t = toeplitz(image(*K), (3, 3), flip=True, pads="full").reshape(4, 4, 3, 3)
    blocks = t.transpose(0, 2, 1, 3)  # block (i, j): rows i of the result, j of the image
    for i, j in np.ndindex(3, 2):
        assert np.array_equal(blocks[i, j], blocks[i + 1, j + 1])
    assert all(len(set(np.diagonal(b, k))) == 1 for row in blocks for b in row for k in range(-3, 3))


def test_the_matrix_holds_for_any_window():
    x, w = random(1, 4, 7, 6), random(6, 2, 3, 2, seed=1)
    window = {"strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2), "groups": 2}
    y = run(lambda b, x, w: b.conv(x, w, **window), x, w)
    assert np.array_equal(toeplitz(w, (7, 6), **window) @ x.reshape(-1), y.reshape(-1))
    with pytest.raises(GraphError, match=r"w must be \[M, C, \*kernel\] with 1 spatial axes"):
        toeplitz(w, (7,))


def test_true_convolution_compiles_into_the_same_kernel():
    """The flip of a constant kernel is done at compile time."""
    b = cnncc.Builder()
    b.output(true_convolution(b, b.input("x", (1, 16, 8, 8)), random(16, 16, 3, 3), pads="same"))
    report = cnncc.compile(b.finish(), threads=1, accuracy="strict").report()
    assert not any("flip" in row.ops for row in report.rows)


# -- transposed convolution --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "kernel", "stride", "pad"), [(7, 3, 1, 0), (7, 3, 2, 1), (10, 3, 2, 0), (8, 4, 3, 1)])
def test_a_transposed_convolution_recovers_the_shape(size, kernel, stride, pad):
    x, w = random(1, 2, size, size), random(3, 2, kernel, kernel, seed=1)
    rest = (size + 2 * pad - kernel) % stride  # pixels that no window read
    y = run(lambda b, x, w: b.conv(x, w, strides=stride, pads=pad), x, w)
    back = run(
        lambda b, y, w: b.conv_transpose(y, w, strides=stride, pads=pad, output_padding=rest), y, w, compiled=True
    )
    assert back.shape == x.shape
    t = toeplitz(w, (size, size), strides=stride, pads=pad)
    assert np.array_equal(t.T @ y.reshape(-1), back.reshape(-1)), "it multiplies by the transposed matrix"


def test_valid_and_full_exchange_under_transposition():
    y, w = random(1, 1, 6, 6), random(1, 1, 3, 3, seed=1)
    for pads, other in ((0, "full"), (2, "valid")):
        transposed = run(lambda b, y, w, pads=pads: b.conv_transpose(y, w, pads=pads), y, w)
        flipped = run(lambda b, y, w, other=other: true_convolution(b, y, w, pads=other), y, w)
        assert np.array_equal(transposed, flipped)


# -- shifts and rotations ----------------------------------------------------------------------------------------------


def filtered(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return run(lambda b, x, w: b.conv(x, w, pads="same"), x, w)


def blob(row: int, column: int) -> np.ndarray:
    x = np.zeros((1, 1, 12, 12), np.float32)
    x[..., row : row + 3, column : column + 2] = random(3, 2, seed=3)
    return x


@pytest.mark.parametrize("shift", [(1, 0), (0, 3), (-2, 2)])
def test_shifting_the_input_shifts_the_output(shift):
    w = random(1, 1, 3, 3, seed=1)
    moved = filtered(blob(4 + shift[0], 5 + shift[1]), w)
    assert np.array_equal(moved, np.roll(filtered(blob(4, 5), w), shift, axis=(2, 3)))


def test_pooling_is_invariant_to_small_shifts():
    """A feature that moves within its window leaves the maximum where it is; the convolution alone would move."""

    def pooled(x: np.ndarray) -> np.ndarray:
        return run(lambda b, x: b.max_pool(x, kernel=4, strides=4), x, compiled=True)

    def point(row: int, column: int) -> np.ndarray:
        x = np.zeros((1, 1, 12, 12), np.float32)
        x[..., row, column] = 1
        return x

    for row, column in np.ndindex(4, 4):
        assert np.array_equal(pooled(point(4 + row, 4 + column)), pooled(point(4, 4)))
    assert not np.array_equal(pooled(point(8, 4)), pooled(point(4, 4)))
    assert np.array_equal(pooled(blob(8, 4)), np.roll(pooled(blob(4, 4)), 1, axis=2)), "by its stride it is equivariant"
    whole = run(lambda b, x: b.max_pool(x, kernel=12), blob(1, 2))
    assert all(
        np.array_equal(run(lambda b, x: b.max_pool(x, kernel=12), blob(r, c)), whole) for r, c in ((5, 5), (9, 0))
    )


def test_rotation_does_not_commute():
    x = random(1, 1, 9, 9)
    turned = np.rot90(x, axes=(2, 3))
    for name, kernel in KERNELS.items():
        w = kernel[None, None]
        same = np.allclose(filtered(turned, w), np.rot90(filtered(x, w), axes=(2, 3)), rtol=0, atol=1e-6)
        assert same == np.array_equal(kernel, np.rot90(kernel)), f"{name}: only a kernel that looks the same turned"
        again = filtered(turned, np.rot90(w, axes=(2, 3)))
        assert_close(again, np.rot90(filtered(x, w), axes=(2, 3)), "conv", label=name)
    assert not np.array_equal(KERNELS["sobel_x"], np.rot90(KERNELS["sobel_x"]))


# -- filters -----------------------------------------------------------------------------------------------------------


def test_filter_kernels():
    flat = np.full((1, 1, 8, 8), 3, np.float32)
    ramp = np.tile(np.arange(8, dtype=np.float32), (8, 1))[None, None]
    inner = (0, 0, slice(1, -1), slice(1, -1))
    response = {name: (filtered(flat, w[None, None])[inner], filtered(ramp, w[None, None])[inner])
                for name, w in KERNELS.items()}  # fmt: skip
    for name in ("identity", "blur", "sharpen"):
        assert_close(response[name][0], flat[inner], "conv")  # constants pass
        assert_close(response[name][1], ramp[inner], "conv")  # and so do slopes
    for name in ("laplace", "sobel_x", "sobel_y"):
        assert not response[name][0].any(), "no edges in a constant"
    assert not response["laplace"][1].any(), "a slope has no second difference"
    assert np.all(response["sobel_x"][1] == 8)
    assert not response["sobel_y"][1].any()
    assert np.array_equal(KERNELS["sharpen"], KERNELS["identity"] - KERNELS["laplace"])
    assert np.array_equal(KERNELS["sobel_y"], KERNELS["sobel_x"].T)
