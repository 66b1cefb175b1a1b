"""Second derivatives: every rule's gradient graph against finite differences of the first derivatives, in float64.

Convolutions, their transposes and their weight gradients also against PyTorch's double backward, over strides, pads,
dilations, groups and ranks.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from cnncc.autodiff import grad, vjp
from cnncc.builder import Builder
from cnncc.interpret import interpret
from cnncc.ir.graph import Graph
from tests.ops.harness import Case
from tests.ops.test_grads import STEP, WITH_RULE, _feeds, _graph, _seeds
from tests.tolerances import assert_close


def _inner(values: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> float:
    return sum(float((values[n.removeprefix("d_")] * w).sum()) for n, w in weights.items())


@pytest.mark.parametrize("case", WITH_RULE, ids=str)
def test_second_derivative_equals_finite_differences(case: Case):
    graph = _graph(case, case.attrs, case.types)
    feeds = _feeds(case)
    names = [n for n, a in feeds.items() if a.dtype == np.float64]
    if not names or not all(a.size for a in feeds.values()):
        pytest.skip("nothing to differentiate")
    first = vjp(graph, names)
    leaves = {**feeds, **_seeds(graph, feeds)}
    rng = np.random.default_rng(3)
    weights = {f"d_grad_{n}": rng.standard_normal(feeds[n].shape) for n in names}
    variables = [n for n, a in leaves.items() if a.dtype == np.float64]
    second = interpret(vjp(first, variables, first.output_names), {**leaves, **weights})
    for name in variables:
        v = rng.standard_normal(leaves[name].shape)
        ahead, behind = (interpret(first, {**leaves, name: leaves[name] + s * STEP * v}) for s in (1, -1))
        numeric = (_inner(ahead, weights) - _inner(behind, weights)) / (2 * STEP)
        analytic = float((second[f"grad_{name}"] * v).sum())
        scale = max(1.0, abs(_inner(interpret(first, leaves), weights)))  # rounding is relative to the loss
        assert_close(
            np.array([analytic, scale]), np.array([numeric, scale]), "finite-difference", "f64", f"{case} {name}"
        )


# rank, strides, pads, dilations, groups
WINDOWS = [
    (rank, s, p, d, g)
    for rank, s, p, d, g in itertools.product((1, 2, 3), (1, 2, 3), (0, 1), (1, 2), (1, 2))
    if rank < 3 or s + d + g < 6  # some of the three-dimensional ones
]


def _loss(op: str, window: dict[str, Any], x: tuple[int, ...], w: tuple[int, ...]) -> Graph:
    """sum(sin(op(x, w))): its second derivatives hold those of op."""
    b = Builder()
    y = b.op(op, b.input("x", x, "f64"), b.input("w", w, "f64"), **window)
    b.output(b.reduce_sum(b.sin(y), keepdims=False), "loss")
    return b.finish()


@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: "-".join(map(str, w)))
@pytest.mark.parametrize("op", ["conv", "conv_transpose", "conv_dw"])
def test_convolutions_are_closed_under_differentiation(op: str, window: tuple[int, ...]):
    torch = pytest.importorskip("torch")
    rank, s, p, d, groups = window
    size, kernel = (8, 7, 6)[:rank], (3, 2, 3)[:rank]
    out = [(i + 2 * p - d * (k - 1) - 1) // s + 1 for i, k in zip(size, kernel, strict=True)]
    rng = np.random.default_rng(rank)
    shapes = {"conv": ((2, 4, *size), (6, 4 // groups, *kernel)),
              "conv_transpose": ((2, 6, *out), (6, 4 // groups, *kernel)),
              "conv_dw": ((2, 4, *size), (2, 6, *out))}[op]  # fmt: skip
    numbers: dict[str, Any] = {"strides": s, "pads": p, "dilations": d, "groups": groups}
    numbers |= {"kernel": kernel} if op == "conv_dw" else {}
    graph = _loss(op, {**numbers, "pads": (p,) * (2 * rank), "strides": (s,) * rank, "dilations": (d,) * rank}, *shapes)
    feeds = {n: rng.standard_normal(shape) for n, shape in zip("xw", shapes, strict=True)}

    first = grad(graph, ["x", "w"])
    assert {n.op for n in first.nodes} <= {
        "conv",
        "conv_transpose",
        "conv_dw",
        "sin",
        "cos",
        "mul",
        "expand",
        "reshape",
    }
    again = {f"d_grad_{n}": rng.standard_normal(a.shape) for n, a in feeds.items()}
    second = interpret(vjp(first, ["x", "w"]), {**feeds, **again})

    x, w = (torch.tensor(a, requires_grad=True) for a in feeds.values())
    conv = getattr(torch.nn.functional, f"conv{rank}d")
    words = {"stride": s, "padding": p, "dilation": d, "groups": groups}
    if op == "conv":
        y = conv(x, w, **words)
    elif op == "conv_transpose":
        y = getattr(torch.nn.functional, f"conv_transpose{rank}d")(x, w, **words)
    else:
        zero = torch.zeros(6, 4 // groups, *kernel, dtype=x.dtype, requires_grad=True)
        y = torch.autograd.grad(conv(x, zero, **words), zero, w, create_graph=True)[0]
    theirs = torch.autograd.grad(y.sin().sum(), (x, w), create_graph=True)
    total = sum((g * torch.tensor(e)).sum() for g, e in zip(theirs, again.values(), strict=True))
    for name, expected in zip("xw", torch.autograd.grad(total, (x, w)), strict=True):
        assert_close(second[f"grad_{name}"], expected.numpy(), "conv", "f64", f"{op} {window} {name}")


def test_the_gradient_of_a_transposed_convolution_is_a_convolution():
    b = Builder()
    x, w = b.input("x", (1, 4, 5, 5)), b.input("w", (4, 3, 3, 3))
    b.output(b.conv_transpose(x, w, strides=2), "y")
    nodes = {n.op: n for n in vjp(b.finish()).nodes}
    assert set(nodes) == {"conv", "conv_dw"}
    assert nodes["conv"].attrs.strides == (2, 2)
