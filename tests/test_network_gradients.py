"""The gradient of whole networks with respect to their input, against PyTorch in float64.

Where a ReLU's operand rounds to the other side of zero, or two elements of a pooling window change places, a whole
receptive field differs (PyTorch's own float32 gradient of Inception-v3 is 1 percent off), so that gradients are
compared by the norm of their difference.
"""

from __future__ import annotations

import numpy as np
import pytest

import cnncc
from cnncc.autodiff import vjp
from tests import zoo
from tests.tolerances import assert_close

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.slow  # dozens of kernels each

NORM = 2e-2  # of the gradient's, for the difference that flipped ReLUs make


@pytest.mark.parametrize("name", list(zoo.NETS))
def test_input_gradient(name: str):
    net = zoo.NETS[name]
    graph = cnncc.load_onnx(zoo.export(name, dynamo=False, size=net.small, width=net.small_width))
    x = zoo.inputs(name, 1, net.small)["input"]
    t = torch.tensor(x.astype(np.float64), requires_grad=True)
    y = zoo.build(name, size=net.small, width=net.small_width).double()(t)
    seed = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    y.backward(torch.tensor(seed.astype(np.float64)))
    expected = t.grad.numpy()

    backward = vjp(graph, ["input"], ["output"], keep_outputs=True)
    feeds = {"input": x, "d_output": seed}
    compiled = cnncc.compile(backward, accuracy="strict").run(feeds)
    assert_close(compiled["output"], y.detach().numpy(), "network", "f32", name)
    assert np.linalg.norm(compiled["grad_input"] - expected) < NORM * np.linalg.norm(expected)
