"""Seeded random graphs, small enough for the interpreter and of all the shapes that passes have to cope with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cnncc.builder import Builder
from cnncc.ir.dims import product
from cnncc.ir.graph import Graph, Value


def random_graph(seed: int, batch: int | str = 1, size: int = 14, channels: int = 16) -> Graph:
    """A graph of about `size` operations: convolutions, poolings, activations, residuals, concats, views, reductions.

    Values have several readers, operands of one kernel repeat, and any value may be an output, also an input.
    """
    rng = np.random.default_rng(seed)
    b = Builder(f"random{seed}")
    values = [b.input("x", (batch, channels, 4, 4))]
    if rng.random() < 0.3:
        values.append(b.input("y", (batch, channels, 4, 4)))
    for _ in range(size):
        values += _step(b, rng, values, channels)
    count = 1 + int(rng.integers(3))
    picked = [values[-1], *(values[int(k)] for k in rng.integers(len(values), size=count))]
    for k, value in enumerate(dict.fromkeys(picked)):
        b.output(value, f"out{k}")
    b.graph.tidy()
    return b.finish()


def random_feeds(graph: Graph, sizes: Mapping[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Normal arrays for the inputs; `sizes` are the symbols' values."""
    rng = np.random.default_rng(seed)
    return {
        v.name: rng.standard_normal([d if isinstance(d, int) else sizes[str(d)] for d in v.type.shape]).astype(
            v.type.numpy
        )
        for v in graph.inputs
    }


Step = Callable[[Builder, np.random.Generator, Value, Value], list[Value]]


def _step(b: Builder, rng: np.random.Generator, values: list[Value], width: int) -> list[Value]:
    x = values[int(rng.integers(max(0, len(values) - 5), len(values)))]
    same = [v for v in values if v.type == x.type]
    other = same[int(rng.integers(len(same)))]
    if x.type.rank == 2:
        steps = _FLAT
    else:
        _, c, h, w = x.type.shape
        steps = [*_ANY, *(_SMALL if c <= 4 * width and max(h, w) <= 8 else ()), *(_LARGE if min(h, w) >= 3 else ())]
    return steps[int(rng.integers(len(steps)))](b, rng, x, other)


def _weights(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def _conv(kernel: int, groups: str = "", **window: Any) -> Step:
    """A convolution to 16 channels (or as many as there are, where they are grouped), and the same with a bias."""

    def step(b: Builder, rng: np.random.Generator, x: Value, other: Value) -> list[Value]:
        c = int(x.type.shape[1])
        count = {"depthwise": c, "two": 2 if c % 2 == 0 else 1}.get(groups, 1)
        out = c if groups else 16
        y = b.conv(x, _weights(rng, out, c // count, kernel, kernel), groups=count, **window)
        return [y, b.add(y, _weights(rng, 1, out, 1, 1))]

    return step


def _transposed(b: Builder, rng: np.random.Generator, x: Value, other: Value) -> list[Value]:
    return [b.conv_transpose(x, _weights(rng, int(x.type.shape[1]), 16, 3, 3), strides=2, pads=1)]


def _batch_norm(b: Builder, rng: np.random.Generator, x: Value, other: Value) -> list[Value]:
    gamma, beta, mean, var = (rng.uniform(0.5, 1.5, int(x.type.shape[1])).astype(np.float32) for _ in range(4))
    return [b.batch_norm(x, gamma, beta, mean, var)]


def _cut(b: Builder, rng: np.random.Generator, x: Value, other: Value) -> list[Value]:
    c = int(x.type.shape[1])
    return [b.slice(x, starts=(c // 2,), ends=(c,), axes=(1,), steps=(1,))] if c > 1 else [b.neg(x)]


def _flatten(b: Builder, rng: np.random.Generator, x: Value, other: Value) -> list[Value]:
    return [b.reshape(x, shape=(x.type.shape[0], product(x.type.shape[1:])))]


def _unflatten(b: Builder, rng: np.random.Generator, x: Value, other: Value) -> list[Value]:
    n, count = x.type.shape
    return [b.reshape(x, shape=(n, count // 4, 2, 2))] if count % 4 == 0 else [b.relu(x)]


def _dense(b: Builder, rng: np.random.Generator, x: Value, other: Value) -> list[Value]:
    y = b.matmul(x, _weights(rng, int(x.type.shape[1]), 64))
    return [y, b.add(y, _weights(rng, 64))]


# Each takes (b, rng, x, other), where other has x's type, and returns new values; the last are used most.
_ANY: list[Step] = [
    lambda b, rng, x, other: [b.relu(x)],
    lambda b, rng, x, other: [b.mul(x, b.sigmoid(x))],
    lambda b, rng, x, other: [b.hard_swish(b.clip(x, low=-2.0, high=4.0))],
    lambda b, rng, x, other: [b.add(x, other)],
    lambda b, rng, x, other: [b.relu(b.add(x, other))],
    lambda b, rng, x, other: [b.where(b.greater(x, 0.1), x, b.tanh(other))],
    lambda b, rng, x, other: [b.add(x, _weights(rng, 1, int(x.type.shape[1]), 1, 1))],
    lambda b, rng, x, other: [b.mul(x, b.reduce_mean(x, axes=(2, 3), keepdims=True))],
    lambda b, rng, x, other: [b.sub(x, b.reduce_max(x, axes=(1,), keepdims=True))],
    lambda b, rng, x, other: [b.softmax(x, axis=1)],
    lambda b, rng, x, other: [b.transpose(x, perm=(0, 1, 3, 2))],
    lambda b, rng, x, other: [b.transpose(b.relu(b.transpose(x, perm=(0, 2, 3, 1))), perm=(0, 3, 1, 2))],
    lambda b, rng, x, other: [b.flip(x, axes=(2,))],
    _cut,
    _batch_norm,
    _flatten,
    _conv(1),
    _conv(3, pads="same"),
    _conv(3, "depthwise", pads=1),
    _conv(3, "two", pads=1),
]
_SMALL: list[Step] = [
    lambda b, rng, x, other: [b.concat(x, other, axis=1)],
    lambda b, rng, x, other: [b.concat(x, b.relu(x), axis=1)],
    lambda b, rng, x, other: [b.concat(x, other, axis=3)],
    lambda b, rng, x, other: [b.pad(x, pads=(0, 0, 1, 0, 0, 0, 0, 2))],
    _transposed,
]
_LARGE: list[Step] = [
    lambda b, rng, x, other: [b.max_pool(x, kernel=(2, 2))],
    lambda b, rng, x, other: [b.max_pool(x, kernel=3, strides=2, pads=1)],
    lambda b, rng, x, other: [b.average_pool(x, kernel=3, strides=2, pads=1)],
    lambda b, rng, x, other: [b.average_pool(x, kernel=2, count_include_pad=True)],
    _conv(3, strides=2, pads=1),
    _conv(2, strides=(1, 2)),
    _conv(3, dilations=2, pads=2),
    _conv(3, "depthwise", strides=2, pads=1),
]
_FLAT: list[Step] = [
    lambda b, rng, x, other: [b.tanh(x)],
    lambda b, rng, x, other: [b.add(x, other)],
    lambda b, rng, x, other: [b.softmax(x, axis=1)],
    lambda b, rng, x, other: [b.concat(x, other, axis=1)] if int(x.type.shape[1]) < 1000 else [b.relu(x)],
    _dense,
    _unflatten,
    _unflatten,
]
