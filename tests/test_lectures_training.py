"""Worked examples from lectures, on the public API: backpropagation, the chain rule on a circuit, shared weights.

docs/lectures.md has the formula of each. Every gradient graph runs in the interpreter, compiled, and as printed numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnncc
from cnncc import nn
from cnncc.autodiff import grad, value_and_grad, vjp
from cnncc.interpret import interpret
from cnncc.ir.graph import Graph
from cnncc.nn.tracing import traced
from tests.lectures import random
from tests.tolerances import assert_close


def ways(graph: Graph, feeds: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The outputs of a graph: interpreted, compiled, and from the numpy that it prints."""
    scope: dict[str, Any] = {}
    exec(cnncc.to_numpy(graph), scope)
    printed = scope.get("step") or scope["forward"]
    params = {n: a for n, a in feeds.items() if "." in n}
    inputs = [a for n, a in feeds.items() if "." not in n]
    return [
        interpret(graph, feeds),
        cnncc.compile(graph, threads=1).run(feeds),
        printed(*inputs, params) if params else printed(*inputs),
    ]


def backward(build: Callable[..., Any], dy: Any = None, **arrays: Any) -> list[dict[str, np.ndarray]]:
    """y = build(b, inputs) and the gradients of all inputs for an upstream gradient (1 for a scalar)."""
    b = cnncc.Builder("example")
    feeds = {n: np.asarray(a, np.float32) for n, a in arrays.items()}
    b.output(build(b, **{n: b.input(n, a.shape) for n, a in feeds.items()}), "y")
    graph = b.finish()
    if dy is None:
        return ways(value_and_grad(graph), feeds)
    feeds["d_y"] = np.asarray(dy, np.float32)
    return ways(vjp(graph, list(arrays), keep_outputs=True), feeds)


# -- upstream gradients ------------------------------------------------------------------------------------------------


def test_relu_passes_the_upstream_gradient_where_it_was_open():
    for run in backward(lambda b, x: b.relu(x), (4, -1, 5, 9), x=(1, -2, 3, -1)):
        assert run["y"].tolist() == [1, 0, 3, 0]
        assert run["grad_x"].tolist() == [4, 0, 5, 0]


X = [[2, 1, -3], [-3, 4, 2]]
W = [[3, 2, 1, -1], [2, 1, 3, 2], [3, 2, 1, -2]]
DY = [[2, 3, -3, 9], [-8, 1, 4, 6]]


def test_a_linear_layer_by_hand():
    """y = x w, dx = dy w^T, dw = x^T dy: shapes fit in one way only."""
    for run in backward(lambda b, x, w: b.matmul(x, w), DY, x=X, w=W):
        assert run["y"].tolist() == [[-1, -1, 2, 6], [5, 2, 11, 7]]
        assert run["grad_x"].tolist() == [[0, 16, -9], [-24, 9, -30]]
        assert run["grad_w"].tolist() == [[28, 3, -18, 0], [-30, 7, 13, 33], [-22, -7, 17, -15]]


def test_the_jacobian_of_the_linear_layer_gives_the_same_and_is_never_built():
    """dx[n, d] = sum over m of dy[n, m] w[d, m]: row by row the product with the Jacobian w^T of each sample."""
    x, w, dy = (np.array(a, np.float32) for a in (X, W, DY))
    jacobian = np.zeros((2, 4, 2, 3), np.float32)  # dy[n, m] / dx[k, d], zero for n != k
    for n in range(2):
        jacobian[n, :, n, :] = w.T
    (run, *_) = backward(lambda b, x, w: b.matmul(x, w), DY, x=X, w=W)
    assert np.einsum("nm,nmkd->kd", dy, jacobian).tolist() == run["grad_x"].tolist()
    b = cnncc.Builder()
    b.output(b.matmul(b.input("x", x.shape), b.input("w", w.shape)), "y")
    assert max(v.type.elements for v in vjp(b.finish()).values()) < jacobian.size


# -- the chain rule on a circuit ---------------------------------------------------------------------------------------


def _circuit(b: cnncc.Builder, x: Any, w: Any) -> Any:
    """1 / (1 + exp(-(w0 x0 + w1 x1 + w2))), gate by gate."""

    def at(v: Any, k: int) -> Any:
        return b.slice(v, starts=(k,), ends=(k + 1,))

    total = b.add(b.add(b.mul(at(w, 0), at(x, 0)), b.mul(at(w, 1), at(x, 1))), at(w, 2))
    gate = b.reciprocal(b.add(b.exp(b.mul(total, -1.0)), 1.0))
    return b.reduce_sum(gate, keepdims=False)


def _as_one_gate(b: cnncc.Builder, x: Any, w: Any) -> Any:
    """The same, with the sigmoid as one operation: its gradient is y (1 - y)."""
    two = b.reduce_sum(b.mul(b.slice(w, starts=(0,), ends=(2,)), x))
    return b.reduce_sum(b.sigmoid(b.add(two, b.slice(w, starts=(2,), ends=(3,)))), keepdims=False)


@pytest.mark.parametrize("circuit", [_circuit, _as_one_gate])
def test_the_sigmoid_circuit(circuit: Callable[..., Any]):
    for run in backward(circuit, x=(-1, -2), w=(2, -3, -3)):
        assert round(float(run["y"]), 2) == 0.73
        assert run["grad_x"].round(2).tolist() == pytest.approx([0.39, -0.59])
        y = 1 / (1 + np.exp(-1))
        assert_close(run["grad_w"], y * (1 - y) * np.array([-1, -2, 1]), "elementwise")


def test_gradients_of_branches_add_up():
    """y = x a + x b: the gradient of x is the sum over its uses."""
    for run in backward(lambda b, x: b.reduce_sum(b.add(b.mul(x, 3.0), b.mul(x, x)), keepdims=False), x=(1, -2)):
        assert run["grad_x"].tolist() == [5, -1]


# -- convolutions, shared weights --------------------------------------------------------------------------------------


def test_the_gradients_of_a_convolution_in_one_dimension():
    """y_d = sum_k w_k x_{d+k-1}: dw_k = sum_d dy_d x_{d+k-1}, dx_t = sum_k dy_{t-k+1} w_k (counted from 1)."""
    x, w, dy = random(7), random(3, seed=1), random(5, seed=2)
    steps = {
        "grad_w": [sum(dy[d] * x[d + k] for d in range(5)) for k in range(3)],
        "grad_x": [sum(dy[t - k] * w[k] for k in range(3) if 0 <= t - k < 5) for t in range(7)],
    }
    for run in backward(lambda b, x, w: b.conv(x, w), dy[None, None], x=x[None, None], w=w[None, None]):
        assert run["y"][0, 0].tolist() == np.correlate(x, w, "valid").tolist()
        for name, expected in steps.items():
            assert run[name][0, 0].tolist() == [float(v) for v in expected]


def test_tied_weights_sum_their_gradients_over_all_positions():
    """A convolution is a locally connected layer whose filters are one: its gradient is the sum of theirs."""
    x, w, dy = random(2, 3, 6, 5), random(4, 3, 3, 3, seed=1), random(2, 4, 4, 3, seed=2)
    places = np.broadcast_to(w, (4, 3, *w.shape)).copy()
    (shared, *others) = backward(lambda b, x, w: b.conv(x, w), dy, x=x, w=w)
    local = backward(lambda b, x, w: b.locally_connected(x, w), dy, x=x, w=places)
    for run in local:
        assert np.array_equal(run["y"], shared["y"])
        assert np.array_equal(run["grad_w"].sum((0, 1)), shared["grad_w"])
        assert np.array_equal(run["grad_x"], shared["grad_x"])
    assert all(np.array_equal(o["grad_w"], shared["grad_w"]) for o in others)


def test_one_parameter_in_two_layers():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 3, bias=False)
            self.two = self.one

        def forward(self, x: nn.Tensor) -> nn.Tensor:
            return self.two(self.one(x).relu()).sum()

    net = Tied()
    graph = traced(net, {"x": (2, 3)}, as_inputs=True).graph
    w, x = random(3, 3), random(2, 3, seed=1)
    hidden = np.maximum(x @ w.T, 0)
    expected = np.outer(np.ones(3), hidden.sum(0)) + ((np.ones((2, 3)) @ w) * (hidden > 0)).T @ x
    for run in ways(grad(graph, ["one.weight"]), {"x": x, "one.weight": w}):
        assert_close(run["grad_one.weight"], expected, "exact")


# -- printed -----------------------------------------------------------------------------------------------------------


def test_forward_and_backward_as_numpy():
    """The two-layer network of the lectures: what to_numpy prints is what one would write by hand."""
    b = cnncc.Builder("two_layers")
    x, y = b.input("x", (64, 1000)), b.input("y", (64, 10))
    w1, w2 = b.input("w1", (1000, 100)), b.input("w2", (100, 10))
    h = b.op("relu", b.op("matmul", x, w1, hint="a"), hint="h")
    difference = b.op("sub", b.op("matmul", h, w2, hint="y_pred"), y, hint="difference")
    b.output(b.reduce_sum(b.square(difference), keepdims=False), "loss")
    text = cnncc.to_numpy(value_and_grad(b.finish(), ["w1", "w2"]))
    lines = [line.strip() for line in text.splitlines()]
    for line in (
        "def step(x, y, w1, w2):",
        "a = x @ w1",
        "h = np.maximum(a, 0)",
        "y_pred = h @ w2",
        "difference = y_pred - y",
        "loss = square.sum()",
        "# backward of y_pred",
        "d_w2 = h.T @ d_difference",
        "d_h = d_difference @ w2.T",
        "d_w1 = x.T @ d_a",
    ):
        assert line in lines, f"{line} is not in\n{text}"
