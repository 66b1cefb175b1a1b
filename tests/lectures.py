"""What the worked examples of lectures share: graphs run compiled and in the interpreter; integers come out exactly."""

from __future__ import annotations

from typing import Any

import numpy as np

import cnncc
from cnncc import nn
from cnncc.interpret import interpret
from cnncc.ir.graph import Graph
from tests.tolerances import assert_close


def run(build: Any, *arrays: np.ndarray, compiled: bool = False) -> np.ndarray:
    """build(b, *values) on arrays; compiled, the result must equal the interpreter's."""
    b = cnncc.Builder()
    b.output(build(b, *(b.input(f"x{k}", a.shape) for k, a in enumerate(arrays))), "y")
    graph = b.finish()
    result = interpret(graph, {f"x{k}": a for k, a in enumerate(arrays)})["y"]
    if compiled:
        assert_close(cnncc.compile(graph, threads=1)(*arrays), result, "conv")
    return result


def image(*numbers: Any) -> np.ndarray:
    """Numbers as one image (or one kernel) of one channel: [1, 1, *size]."""
    return np.array(numbers, np.float32)[None, None]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    """Small integers: sums of products are exact in float32, in any order."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def layer(size: int, kernel: int, stride: int = 1, pad: int = 0, channels: int = 1, filters: int = 1) -> Graph:
    net = nn.Sequential(nn.Conv2d(channels, filters, kernel, stride, pad))
    return nn.trace(net, {"x": (1, channels, size, size)})
