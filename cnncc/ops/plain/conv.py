"""Convolution in numpy, tap by tap: each tap of the kernel is a product of matrices, added up."""

from __future__ import annotations

import numpy as np

from cnncc.ops.plain.windows import crop_space, pad_space, tap, window_count

Sizes = tuple[int, ...]


def conv(x: np.ndarray, w: np.ndarray, strides: Sizes, pads: Sizes, dilations: Sizes, groups: int = 1) -> np.ndarray:
    """y[n, m, o] = sum over c, k of x[n, c, o s + k d - p] w[m, c, k]."""
    n, m, kernel = len(x), len(w), w.shape[2:]
    x = pad_space(x, pads)
    out = window_count(x.shape[2:], kernel, strides, dilations)
    x = x.reshape(n, groups, -1, *x.shape[2:])
    w = w.reshape(groups, m // groups, -1, *kernel)
    y = np.zeros((n, groups, m // groups, *out), x.dtype)
    for k in np.ndindex(*kernel):
        y += np.einsum("ngc...,gmc->ngm...", x[tap(k, out, strides, dilations)], w[(..., *k)], optimize=True)
    return y.reshape(n, m, *out)


def conv_transpose(
    dy: np.ndarray, w: np.ndarray, size: Sizes, strides: Sizes, pads: Sizes, dilations: Sizes, groups: int = 1
) -> np.ndarray:
    """The data gradient of conv: every dy[n, m, o] w[m, c, k] goes back to x[n, c, o s + k d - p]."""
    n, out, kernel, r = len(dy), dy.shape[2:], w.shape[2:], len(size)
    reach = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(out, strides, kernel, dilations, strict=True)]
    whole = [max(i + b + e, m) for i, b, e, m in zip(size, pads[:r], pads[r:], reach, strict=True)]
    dy = dy.reshape(n, groups, -1, *out)
    w = w.reshape(groups, -1, *w.shape[1:])
    dx = np.zeros((n, groups, w.shape[2], *whole), dy.dtype)
    for k in np.ndindex(*kernel):
        dx[tap(k, out, strides, dilations)] += np.einsum("ngm...,gmc->ngc...", dy, w[(..., *k)], optimize=True)
    return crop_space(dx.reshape(n, -1, *whole), size, pads)


def conv_dw(
    x: np.ndarray, dy: np.ndarray, kernel: Sizes, strides: Sizes, pads: Sizes, dilations: Sizes, groups: int = 1
) -> np.ndarray:
    """The weight gradient of conv: dw[m, c, k] = sum over n, o of x[n, c, o s + k d - p] dy[n, m, o]."""
    n, m, out = len(x), dy.shape[1], dy.shape[2:]
    x = pad_space(x, pads)
    x = x.reshape(n, groups, -1, *x.shape[2:])
    dy = dy.reshape(n, groups, m // groups, *out)
    dw = np.zeros((groups, m // groups, x.shape[2], *kernel), x.dtype)
    for k in np.ndindex(*kernel):
        axes = "xyz"[: len(kernel)]
        dw[(..., *k)] = np.einsum(f"ngc{axes},ngm{axes}->gmc", x[tap(k, out, strides, dilations)], dy, optimize=True)
    return dw.reshape(m, -1, *kernel)


def locally_connected(x: np.ndarray, w: np.ndarray, strides: Sizes, pads: Sizes, dilations: Sizes) -> np.ndarray:
    """conv with a filter per place: y[n, m, o] = sum over c, k of x[n, c, o s + k d - p] w[o, m, c, k]."""
    r = x.ndim - 2
    out, kernel, o = w.shape[:r], w.shape[r + 2 :], "xyz"[:r]
    x = pad_space(x, pads)
    y = np.zeros((len(x), w.shape[r], *out), x.dtype)
    for k in np.ndindex(*kernel):
        part = x[tap(k, out, strides, dilations)]
        y += np.einsum(f"nc{o},{o}mc->nm{o}", part, w[(..., *k)], optimize=True)
    return y


def locally_connected_dx(
    w: np.ndarray, dy: np.ndarray, size: Sizes, strides: Sizes, pads: Sizes, dilations: Sizes
) -> np.ndarray:
    """The data gradient of locally_connected."""
    r = len(size)
    out, kernel, o = w.shape[:r], w.shape[r + 2 :], "xyz"[:r]
    whole = [i + begin + end for i, begin, end in zip(size, pads[:r], pads[r:], strict=True)]
    dx = np.zeros((len(dy), w.shape[r + 1], *whole), dy.dtype)
    for k in np.ndindex(*kernel):
        part = np.einsum(f"{o}mc,nm{o}->nc{o}", w[(..., *k)], dy, optimize=True)
        dx[tap(k, out, strides, dilations)] += part
    return crop_space(dx, size, pads)


def locally_connected_dw(
    x: np.ndarray, dy: np.ndarray, kernel: Sizes, strides: Sizes, pads: Sizes, dilations: Sizes
) -> np.ndarray:
    """The weight gradient of locally_connected: [*out, M, C, *kernel]."""
    out, o = dy.shape[2:], "xyz"[: len(kernel)]
    x = pad_space(x, pads)
    dw = np.zeros((*out, dy.shape[1], x.shape[1], *kernel), x.dtype)
    for k in np.ndindex(*kernel):
        dw[(..., *k)] = np.einsum(f"nc{o},nm{o}->{o}mc", x[tap(k, out, strides, dilations)], dy, optimize=True)
    return dw
