"""Jacobians stay implicit: no value of a backward graph is larger than the largest value of the forward graph.

The Jacobian of a linear layer with N = 64 and D = M = 4096 would have 64 * 4096 * 64 * 4096 = 6.9e10 elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import cnncc
from cnncc.autodiff import vjp
from cnncc.ir.dims import substitute
from cnncc.ir.graph import Graph
from cnncc.losses import cross_entropy

N, D, M = 64, 4096, 4096


def _size(value: Any, batch: int = N) -> int:
    return int(substitute(value.type.elements, {"N": batch}))


def _linear(b: cnncc.Builder) -> Any:
    y = b.matmul(b.input("x", (N, D)), b.input("w", (M, D)), transpose_w=True)
    return b.add(y, b.input("b", (M,)))


def _cross_entropy(b: cnncc.Builder) -> Any:
    return cross_entropy(b, b.input("x", (N, M)), b.input("label", (N,), "i64"))


def _relu_chain(b: cnncc.Builder) -> Any:
    return b.relu(b.mul(b.input("x", (N, D)), b.input("w", (D,))))


CASES: dict[str, Callable[[cnncc.Builder], Any]] = {
    "linear": _linear,
    "cross-entropy": _cross_entropy,
    "softmax": lambda b: b.softmax(b.input("x", (N, M)), axis=1),
    "log-softmax": lambda b: b.log_softmax(b.input("x", (N, M)), axis=1),
    "relu": _relu_chain,
    "max-pool": lambda b: b.max_pool(b.input("x", ("N", 64, 112, 112)), kernel=3, strides=2, pads=1),
    "average-pool": lambda b: b.average_pool(b.input("x", ("N", 64, 112, 112)), kernel=3, strides=2, pads=1),
    "adaptive max-pool": lambda b: b.adaptive_max_pool(b.input("x", ("N", 64, 30, 30)), size=7),
    "conv": lambda b: b.conv(b.input("x", ("N", 64, 56, 56)), b.input("w", (64, 64, 3, 3)), pads=1),
    "strided conv": lambda b: b.conv(b.input("x", ("N", 64, 56, 56)), b.input("w", (128, 64, 3, 3)), strides=2, pads=1),
    "transposed conv": lambda b: b.conv_transpose(
        b.input("x", ("N", 64, 28, 28)), b.input("w", (64, 32, 2, 2)), strides=2
    ),
    "embedding": lambda b: b.gather(b.input("table", (50_000, 512)), b.input("words", (N, 128), "i64")),
    "gather elements": lambda b: b.gather_elements(b.input("x", (N, M)), b.input("i", (N, 1), "i64"), axis=1),
    "batch norm": lambda b: b.batch_norm_train(
        b.input("x", ("N", 64, 56, 56)), b.input("g", (64,)), b.input("b", (64,))
    )[0],
    "layer norm": lambda b: b.layer_norm(b.input("x", (N, D)), b.input("g", (D,)), b.input("b", (D,)), axis=1),
    "reduce": lambda b: b.reduce_max(b.reduce_sum(b.input("x", (N, 64, D)), axes=(1,), keepdims=False), axes=(1,)),
    "resize": lambda b: b.resize(b.input("x", ("N", 16, 28, 28)), size=(56, 56), mode="linear"),
    "unpooling": lambda b: b.max_unpool(
        b.input("x", (N, 8, 28, 28)), b.input("i", (N, 8, 28, 28), "i64"), kernel=2, strides=2
    ),
    "unfold": lambda b: b.unfold(b.input("x", ("N", 16, 28, 28)), kernel=3, pads=1),
}  # fmt: skip


def _forward(name: str) -> Graph:
    b = cnncc.Builder(name)
    b.output(CASES[name](b), "y")
    return b.finish()


@pytest.mark.parametrize("name", CASES)
def test_no_value_exceeds_the_largest_operand(name: str):
    graph = _forward(name)
    largest = max(_size(v) for v in graph.values())
    backward = vjp(graph)
    sizes = {f"{n.op} {v.type}": _size(v) for n in backward.nodes for v in n.outputs}
    assert not {k: s for k, s in sizes.items() if s > largest}


def test_of_the_linear_layer_the_largest_value_is_the_weight():
    backward = vjp(_forward("linear"))
    assert max(_size(v) for v in backward.values()) == M * D
    assert sorted(n.op for n in backward.nodes) == ["matmul", "matmul", "reduce_sum"]
    second = vjp(backward, ["x", "w"], ["grad_x", "grad_w"])
    assert max(_size(v) for v in second.values()) == M * D


def test_neither_does_the_compiled_graph_hold_one():
    """Everything the kernels keep in between fits into a few activations (4 bytes each)."""
    exe = cnncc.compile(vjp(_forward("cross-entropy"), ["x"]), threads=1)
    assert int(exe.memory["arena"]) <= 4 * 4 * N * M
