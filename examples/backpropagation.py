"""Backpropagation through a circuit, by the chain rule, as code to read (docs/lectures.md has the formulas).

python examples/backpropagation.py

Prints forward and backward as flat numpy, what the circuit gives at x = (-1, -2), w = (2, -3, -3), and the gradients of
a linear layer.
"""

from __future__ import annotations

import numpy as np

import cnncc
from cnncc.autodiff import value_and_grad, vjp
from cnncc.interpret import interpret


def circuit() -> cnncc.Graph:
    """1 / (1 + exp(-(w0 x0 + w1 x1 + w2))) and its gradients: upstream times local, gate by gate."""
    b = cnncc.Builder("circuit")
    x, w = b.input("x", (2,)), b.input("w", (3,))
    products = b.op("mul", x, b.slice(w, starts=(0,), ends=(2,)), hint="products")
    total = b.op("add", b.reduce_sum(products), b.slice(w, starts=(2,), ends=(3,)), hint="total")
    b.output(b.reduce_sum(b.op("sigmoid", total, hint="gate"), keepdims=False), "y")
    return value_and_grad(b.finish())


def linear() -> cnncc.Graph:
    """y = x w, with dx = dy w^T and dw = x^T dy for an upstream gradient dy, an input called d_y."""
    b = cnncc.Builder("linear")
    b.output(b.matmul(b.input("x", (2, 3)), b.input("w", (3, 4))), "y")
    return vjp(b.finish(), keep_outputs=True)


def show(graph: cnncc.Graph, **inputs: list[object]) -> None:
    """Run a graph on lists of numbers and print every output."""
    for name, value in interpret(graph, {n: np.array(a, np.float32) for n, a in inputs.items()}).items():
        print(f"{name} = {np.round(value.astype(float), 2).tolist()}")


def main() -> None:
    """Print the circuit, its numbers, and those of the linear layer."""
    graph = circuit()
    print(cnncc.to_numpy(graph))
    show(graph, x=[-1, -2], w=[2, -3, -3])
    show(
        linear(),
        x=[[2, 1, -3], [-3, 4, 2]],
        w=[[3, 2, 1, -1], [2, 1, 3, 2], [3, 2, 1, -2]],
        d_y=[[2, 3, -3, 9], [-8, 1, 4, 6]],
    )


if __name__ == "__main__":
    main()
