"""Gradients of activations where they have a kink, which two libraries may define differently: as torch.nn's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnncc
from cnncc import nn
from cnncc.autodiff import vjp
from cnncc.interpret import interpret
from tests.tolerances import assert_close

torch = pytest.importorskip("torch")

KINKS: dict[str, tuple[Callable[[Any], Any], tuple[float, ...]]] = {
    "ReLU": (lambda m: m.ReLU(), (0,)),
    "ReLU6": (lambda m: m.ReLU6(), (0, 6)),
    "Hardtanh": (lambda m: m.Hardtanh(-0.5, 0.75), (-0.5, 0.75)),
    "LeakyReLU": (lambda m: m.LeakyReLU(0.2), (0,)),
    "PReLU": (lambda m: m.PReLU(), (0,)),
    "ELU": (lambda m: m.ELU(0.7), (0,)),
    "CELU": (lambda m: m.CELU(0.7), (0,)),
    "SELU": (lambda m: m.SELU(), (0,)),
    "Hardsigmoid": (lambda m: m.Hardsigmoid(), (-3, 3)),
    "Hardswish": (lambda m: m.Hardswish(), (-3, 3)),
    "Threshold": (lambda m: m.Threshold(0.5, 2.0), (0.5,)),
    "Hardshrink": (lambda m: m.Hardshrink(0.5), (-0.5, 0.5)),
    "Softshrink": (lambda m: m.Softshrink(0.5), (-0.5, 0.5)),
}


class Net(nn.Module):
    """One layer."""

    def __init__(self, layer: Any):
        super().__init__()
        self.layer = layer

    def forward(self, x: Any) -> Any:
        return self.layer(x)


@pytest.mark.parametrize("name", KINKS)
def test_gradients_at_kinks_equal_torch(name: str):
    make, kinks = KINKS[name]
    x = np.array([[*kinks, -9.0, 0.125, 9.0]], np.float32)
    t = torch.tensor(x, requires_grad=True)
    make(torch.nn)(t).sum().backward()
    graph = vjp(nn.trace(Net(make(nn)), {"x": x.shape}), ["x"], ["output"])
    feeds = {"x": x, "d_output": np.ones_like(x)}
    for run in (interpret(graph, feeds), cnncc.compile(graph, threads=1).run(feeds)):
        assert_close(run["grad_x"], t.grad.numpy(), "elementwise")


def test_relu6_of_a_file_has_the_gradient_of_relu6():
    graph = cnncc.load_onnx(cnncc.to_onnx(nn.trace(Net(nn.ReLU6()), {"x": (1, 3)})))
    feeds = {"x": np.array([[0, 3, 6]], np.float32), "d_output": np.ones((1, 3), np.float32)}
    assert interpret(vjp(graph, ["x"], ["output"]), feeds)["grad_x"].tolist() == [[0, 1, 0]]
