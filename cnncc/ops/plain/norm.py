"""Normalisation and softmax in numpy."""

from __future__ import annotations

import numpy as np


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """exp(x) / sum(exp(x)) along an axis, on x - max(x) so that nothing overflows."""
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """x - log(sum(exp(x))) along an axis, on x - max(x) so that nothing overflows."""
    d = x - x.max(axis, keepdims=True)
    return d - np.log(np.exp(d).sum(axis, keepdims=True))


def per_channel(v: np.ndarray, rank: int) -> np.ndarray:
    """[C] --> [C, 1, ..., 1], which broadcasts along axis 1."""
    return v.reshape(-1, *(1,) * (rank - 2))


def normalise(x: np.ndarray, axes: tuple[int, ...], eps: float) -> np.ndarray:
    """(x - mean) / sqrt(var + eps) over axes."""
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + np.asarray(eps, x.dtype))


def batch_norm(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, var: np.ndarray, eps: float
) -> np.ndarray:
    """(x - mean) gamma / sqrt(var + eps) + beta per channel, with known statistics."""
    scale = gamma / np.sqrt(var + np.asarray(eps, x.dtype))
    return (x - per_channel(mean, x.ndim)) * per_channel(scale, x.ndim) + per_channel(beta, x.ndim)


def batch_norm_train(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Batch norm with the statistics of the batch; gives them, too (the variance biased)."""
    axes = tuple(a for a in range(x.ndim) if a != 1)
    y = normalise(x, axes, eps) * per_channel(gamma, x.ndim) + per_channel(beta, x.ndim)
    return y, x.mean(axes), x.var(axes)


def layer_norm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray | None, axis: int, eps: float) -> np.ndarray:
    """Normalised over the axes from `axis` on."""
    y = normalise(x, tuple(range(axis, x.ndim)), eps) * gamma
    return y if beta is None else y + beta


def instance_norm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float) -> np.ndarray:
    """Normalised per sample and channel, over space."""
    y = normalise(x, tuple(range(2, x.ndim)), eps)
    return y * per_channel(gamma, x.ndim) + per_channel(beta, x.ndim)


def group_norm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, groups: int, eps: float) -> np.ndarray:
    """Normalised per sample and group of channels, with their space."""
    grouped = x.reshape(x.shape[0], groups, -1, *x.shape[2:])
    y = normalise(grouped, tuple(range(2, grouped.ndim)), eps).reshape(x.shape)
    return y * per_channel(gamma, x.ndim) + per_channel(beta, x.ndim)


def lrn(x: np.ndarray, size: int, alpha: float, beta: float, bias: float) -> np.ndarray:
    """x (bias + alpha mean(x^2 over neighbouring channels))^-beta."""
    square = np.pad(x * x, [(0, 0), ((size - 1) // 2, size // 2), *[(0, 0)] * (x.ndim - 2)])
    total = np.zeros_like(x)
    for k in range(size):
        total += square[:, k : k + x.shape[1]]
    return x * (bias + alpha / size * total) ** -beta
