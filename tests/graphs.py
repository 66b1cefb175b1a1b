"""Seeded random graphs, small enough for the interpreter and of all the shapes that passes have to cope with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cnncc.builder import Builder
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


def _step(b: Builder, rng: np.random.Generator, values: list[Value], width: int) -> list[Value]:
    x = values[int(rng.integers(max(0, len(values) - 5), len(values)))]
    if x.type.rank == 2:
        return [b.reshape(x, shape=(x.type.shape[0], width, -1, 1)) if rng.random() < 0.5 else b.tanh(x)]
    n, c, h, w = x.type.shape
    same = [v for v in values if v.type == x.type]
    other = same[int(rng.integers(len(same)))]
    kind = int(rng.integers(11))
    if kind == 0:
        return [b.relu(x)]
    if kind == 1:
        return [b.mul(x, b.sigmoid(x))]
    if kind in (2, 3):
        return [b.add(x, other)]
    if kind == 4 and c <= 4 * width:
        kernel = (3, 3) if h >= 3 and w >= 3 else (1, 1)
        weights = (rng.standard_normal((width, c, *kernel)) / (3 * np.sqrt(c))).astype(np.float32)
        y = b.conv(x, weights, pads="same")
        return [y, b.add(y, rng.standard_normal((1, width, 1, 1)).astype(np.float32))]
    if kind == 5 and h >= 2 and w >= 2:
        return [b.max_pool(x, kernel=(2, 2), strides=(1, 1))]
    if kind == 6 and c <= 2 * width:
        return [b.concat(x, b.relu(x), axis=1) if rng.random() < 0.5 else b.concat(x, other, axis=1)]
    if kind == 7 and c > width:
        return [b.slice(x, starts=(0,), ends=(width,), axes=(1,), steps=(1,))]
    if kind == 8:
        return [b.reshape(x, shape=(n, c * h * w))]
    if kind == 9:
        return [b.mul(x, b.reduce_mean(x, axes=(2, 3), keepdims=True))]
    return [b.add(x, rng.standard_normal((1, c, 1, 1)).astype(np.float32))]
