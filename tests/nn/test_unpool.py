"""Pooling with indices and unpooling against torch.nn: values, indices, gradients, compiled, and as ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import cnncc
from cnncc import nn
from cnncc.autodiff import vjp
from cnncc.errors import GraphError
from cnncc.interpret import interpret
from tests import zoo
from tests.tolerances import assert_close

# rank, arguments of both layers, input shape, whether the unpooling is told the size
CASES: dict[str, tuple[int, tuple[Any, ...], tuple[int, ...], bool]] = {
    "1-D": (1, (2,), (2, 3, 8), False),
    "2-D": (2, (2, 2), (2, 3, 6, 8), False),
    "2-D odd": (2, (2, 2), (2, 3, 7, 5), True),
    "2-D padded": (2, (3, 3, 1), (1, 2, 7, 8), True),
    "3-D": (3, (2,), (1, 2, 4, 4, 6), False),
}


class Net(nn.Module):
    def __init__(self, rank: int, window: tuple[Any, ...], sized: bool):
        super().__init__()
        self.pool = getattr(nn, f"MaxPool{rank}d")(*window, return_indices=True)
        self.unpool = getattr(nn, f"MaxUnpool{rank}d")(*window)
        self.sized = sized

    def forward(self, x: nn.Tensor) -> Any:
        y, indices = self.pool(x)
        z = y * y
        return self.unpool(z, indices, output_size=x.shape if self.sized else None), indices


def torchs(rank: int, window: tuple[Any, ...], x: torch.Tensor, sized: bool) -> Any:
    y, indices = getattr(torch.nn, f"MaxPool{rank}d")(*window, return_indices=True)(x)
    z = getattr(torch.nn, f"MaxUnpool{rank}d")(*window)(y * y, indices, output_size=x.shape if sized else None)
    return z, indices


@pytest.mark.parametrize("name", CASES)
def test_unpooling_equals_torch(name: str):
    rank, window, shape, sized = CASES[name]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    t = torch.tensor(x, requires_grad=True)
    expected, indices = torchs(rank, window, t, sized)
    dy = np.random.default_rng(1).standard_normal(expected.shape).astype(np.float32)
    expected.backward(torch.tensor(dy))
    graph = nn.trace(Net(rank, window, sized), {"x": ("N", *shape[1:])})
    both = vjp(graph, ["x"], ["output0"], keep_outputs=True)
    feeds = {"x": x, "d_output0": dy}
    for run in (interpret(both, feeds), cnncc.compile(both, threads=1).run(feeds)):
        assert_close(run["output0"], expected.detach().numpy(), "elementwise")
        assert_close(run["output1"], indices.numpy(), "exact")
        assert_close(run["grad_x"], t.grad.numpy(), "elementwise")
    model = cnncc.to_onnx(graph)
    assert "MaxUnpool" in {n.op_type for n in model.graph.node}
    for run in (zoo.reference(model, {"x": x}), interpret(cnncc.load_onnx(model), {"x": x})):
        assert_close(run["output0"], expected.detach().numpy(), "elementwise")


def test_overlapping_windows_keep_the_last_and_its_gradient():
    """PyTorch leaves the order open where windows name one place; here the last in row-major order is kept."""
    b = cnncc.Builder()
    x, i = b.input("x", (1, 1, 3), "f64"), b.input("i", (1, 1, 3), "i64")
    b.output(b.max_unpool(x, i, kernel=3, strides=1, size=(5,)), "y")
    graph = b.finish()
    feeds = {"x": np.array([[[1.0, 2.0, 3.0]]]), "i": np.array([[[2, 2, 4]]]), "d_y": np.arange(1.0, 6.0)[None, None]}
    both = vjp(graph, ["x"], keep_outputs=True)
    for run in (interpret(both, feeds), cnncc.compile(both, threads=1).run(feeds)):
        assert run["y"].tolist() == [[[0, 0, 2, 0, 3]]]
        assert run["grad_x"].tolist() == [[[0, 3, 5]]]


@pytest.mark.parametrize("size", [4, 3, 1])
def test_adaptive_pooling_gives_indices(size: int):
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    layer = nn.AdaptiveMaxPool2d(size, return_indices=True)
    y, indices = cnncc.compile(layer, shapes={"x": ("N", 3, 8, 8)}, threads=1)(x)
    expected, places = torch.nn.AdaptiveMaxPool2d(size, return_indices=True)(torch.tensor(x))
    assert_close(y, expected.numpy(), "exact")
    assert_close(indices, places.numpy(), "exact")


def test_ties_go_to_the_first():
    """As PyTorch: a window of equal elements gives the first index, and its gradient to that element alone."""
    x = np.zeros((1, 2, 6, 6), np.float32)
    x[0, 1] = np.random.default_rng(0).integers(0, 2, (6, 6))
    for make in (lambda m: m.MaxPool2d(3, 2, 1), lambda m: m.AdaptiveMaxPool2d(3), lambda m: m.AdaptiveMaxPool2d(4)):
        t = torch.tensor(x, requires_grad=True)
        make(torch.nn)(t).sum().backward()
        graph = nn.trace(make(nn), {"x": ("N", 2, 6, 6)})
        ones = np.ones((1, *(int(d) for d in graph.outputs[0].type.shape[1:])), np.float32)
        feeds = {"x": x, "d_output": ones}
        both = vjp(graph, ["x"])
        for run in (interpret(both, feeds), cnncc.compile(both, threads=1).run(feeds)):
            assert_close(run["grad_x"], t.grad.numpy(), "exact")


def test_fold_is_the_adjoint_of_unfold():
    """<unfold(x), y> = <x, fold(y)>, and fold(unfold(1)) counts the windows over every place."""
    rng = np.random.default_rng(0)
    window: dict[str, Any] = {"kernel_size": (3, 2), "dilation": (1, 2), "padding": (1, 1), "stride": (2, 1)}
    unfold, fold = nn.Unfold(**window), nn.Fold((7, 6), **window)
    x = rng.standard_normal((2, 3, 7, 6)).astype(np.float32)
    columns = unfold(x)
    y = rng.standard_normal(columns.shape).astype(np.float32)
    assert_close(float((columns * y).sum()), float((x * fold(y)).sum()), "reduction")
    again = cnncc.compile(nn.Sequential(unfold, fold), shapes={"x": ("N", 3, 7, 6)}, threads=1)(np.ones_like(x))
    expected = torch.nn.Fold((7, 6), **window)(torch.nn.Unfold(**window)(torch.ones(2, 3, 7, 6)))
    assert_close(again, expected.numpy(), "exact")


def test_fold_says_what_does_not_fit():
    with pytest.raises(GraphError, match=r"x must be \[N, C 4, 9\] for size \(4, 4\) and kernel \(2, 2\)"):
        nn.trace(nn.Fold(4, 2), (1, 6, 9))


def test_kernels_are_scheduled():
    """Unpooling, unfold and fold are elementwise kernels, not the fallback."""
    net = nn.Sequential(nn.Unfold(5, padding=2), nn.Fold(16, 5, padding=2))
    for graph in (nn.trace(net, ("N", 4, 16, 16)), nn.trace(Net(2, (2, 2), False), {"x": ("N", 4, 16, 16)})):
        rows = cnncc.compile(vjp(graph, ["x"], graph.output_names[:1]), threads=1).report().rows
        assert not [r for r in rows if r.fallback and ("fold" in r.ops or "unpool" in r.ops)]
