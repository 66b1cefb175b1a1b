"""The arithmetic of convolutional layers: worked examples from lectures (docs/lectures.md has the formulas).

python examples/lectures.py
"""

from __future__ import annotations

from typing import Any

import numpy as np

import cnncc
from cnncc import nn
from cnncc.check import check
from cnncc.filters import receptive_field, toeplitz, true_convolution
from cnncc.interpret import interpret
from cnncc.parameters import count_parameters


def convolve(x: Any, w: Any, pads: str = "full") -> list[Any]:
    """The true convolution of two arrays of one channel."""
    x, w = (np.array(a, np.float32)[None, None] for a in (x, w))
    b = cnncc.Builder()
    b.output(true_convolution(b, b.input("x", x.shape), w, pads=pads), "y")
    result: list[Any] = interpret(b.finish(), {"x": x})["y"][0, 0].tolist()
    return result


def layer(size: int, channels: int, filters: int, kernel: int, stride: int = 1, pad: int = 0) -> cnncc.Graph:
    """One convolutional layer on a square image."""
    net = nn.Sequential(nn.Conv2d(channels, filters, kernel, stride, pad))
    return nn.trace(net, {"x": (1, channels, size, size)})


def main() -> None:
    """Print the examples."""
    print("(2, -1, 1) * (1, 1, 2) =", convolve((2, -1, 1), (1, 1, 2)))
    print("as a matrix:\n", toeplitz(np.array([[[1, 1, 2]]], np.float32), (3,), flip=True, pads="full"))
    print("in two dimensions:", convolve([[1, 3, 1], [0, -1, 1], [2, 2, -1]], [[1, 2], [0, -1]]))

    for stride in (1, 2, 3):
        graph = layer(7, 1, 1, 3, stride)
        print(f"7x7, filter 3x3, stride {stride}: {graph.outputs[0].type.shape[-1]} places", end="")
        print(*(f"\n  {f.message}" for f in check(graph).findings[:1]))
    print(check(layer(10, 1, 1, 3, 2)).findings[0].message)

    for name, graph in {
        "32x32x3, ten 5x5 filters, pad 2": layer(32, 3, 10, 5, pad=2),
        "AlexNet's first layer": layer(227, 3, 96, 11, 4),
    }.items():
        (row,) = count_parameters(graph)
        print(f"{name}: {row.result}, {row.shared:,} parameters ({row.local:,} not shared, {row.dense:,} dense)")

    for depth in range(1, 5):
        net = nn.Sequential(*(nn.Conv1d(1, 1, 3, dilation=2**k) for k in range(depth)))
        field = receptive_field(nn.trace(net, {"x": (1, 1, 64)}))
        print(f"dilations {[2**k for k in range(depth)]}: receptive field {field.size[0]}")

    b = cnncc.Builder()
    y = b.conv(b.input("x", (1, 1, 7, 7)), np.ones((1, 1, 3, 3), np.float32), strides=2)
    back = b.conv_transpose(y, np.ones((1, 1, 3, 3), np.float32), strides=2)
    print(f"a transposed convolution recovers the shape: 7x7 --> {y.type} --> {back.type}")


if __name__ == "__main__":
    main()
