"""Build a graph in Python, look at it as text, and run it: one compilation for every batch size.

python examples/build_graph.py
"""

from __future__ import annotations

import numpy as np

import cnncc


def build() -> cnncc.Graph:
    """A small residual network on [N, 3, 32, 32]; "N" is a symbolic dimension."""
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    b = cnncc.Builder("residual")
    x = b.input("image", ("N", 3, 32, 32))
    y = b.relu(b.add(b.conv(x, weights(16, 3, 3, 3), pads="same"), weights(16, 1, 1)))
    z = b.conv(b.relu(b.conv(y, weights(16, 16, 3, 3), pads=1)), weights(16, 16, 3, 3), pads=1)
    pooled = b.reduce_mean(b.relu(b.add(y, z)), axes=(2, 3), keepdims=False)
    b.output(b.softmax(b.matmul(pooled, weights(16, 10)), axis=1), "probabilities")
    return b.finish()


def main() -> None:
    """Print the graph, compile it, run it on several batches."""
    graph = build()
    print(graph)
    weights = {v.name: v.data for v in graph.constants}  # the text names large constants by their digest
    assert str(cnncc.parse(str(graph), weights)) == str(graph), "text in, text out"

    exe = cnncc.compile(graph)
    print(f"\n{exe.inputs} --> {exe.outputs}\n")
    for batch in (1, 2, 7):
        images = np.random.default_rng(batch).standard_normal((batch, 3, 32, 32)).astype(np.float32)
        print(f"batch {batch}: {exe(images).sum(axis=1)}")
    print(f"\n{exe.report()}")


if __name__ == "__main__":
    main()
