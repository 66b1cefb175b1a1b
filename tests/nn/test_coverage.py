"""Which of torch.nn's layers there are here, and which are left out, and functions against torch's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cnncc import nn
from tests.tolerances import assert_close

LEFT_OUT = {
    "losses are in cnncc.losses": lambda n: n.endswith(("Loss", "LossWithLoss", "NLLLoss2d")),
    "recurrent": lambda n: n.startswith(("RNN", "LSTM", "GRU")),
    "sequences and attention": lambda n: n.startswith(("Transformer", "Multihead", "Embedding", "AdaptiveLogSoftmax")),
    "shapes are known when a layer is made": lambda n: n.startswith("Lazy"),
    "several machines": lambda n: n in ("DataParallel", "SyncBatchNorm"),
    "random windows, random slopes": lambda n: n.startswith(("FractionalMaxPool", "RReLU")),
    "distances, products of two inputs": lambda n: n in ("Bilinear", "CosineSimilarity", "PairwiseDistance"),
    "old names, containers of bare parameters": lambda n: (
        n in ("Container", "CrossMapLRN2d", "ParameterDict", "ParameterList")
    ),
}


def test_every_layer_of_torch_is_here_or_left_out_with_a_reason() -> None:
    names = {n for n, c in vars(torch.nn).items() if inspect.isclass(c) and issubclass(c, torch.nn.Module)}
    missing = [n for n in sorted(names - set(nn.__all__)) if not any(rule(n) for rule in LEFT_OUT.values())]
    assert missing == []
    for reason, rule in LEFT_OUT.items():
        assert not any(rule(n) for n in nn.__all__), reason


W2 = np.random.default_rng(0).standard_normal((6, 2, 3, 3)).astype(np.float32)
W3 = np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float32)
BIAS = np.linspace(-1, 1, 6, dtype=np.float32)
DENSE = np.random.default_rng(9).standard_normal((6, 5)).astype(np.float32)

# name: (a function of torch.nn.functional's namespace, of x and of something that makes tensors of arrays; shape of x)
FUNCTIONS: dict[str, tuple[Callable[[Any, Any, Any], Any], tuple[int, ...]]] = {
    "conv2d": (lambda f, x, t: f.conv2d(x, t(W2), t(BIAS), 2, 1, 1, 2), (2, 4, 7, 6)),
    "conv_transpose2d": (lambda f, x, t: f.conv_transpose2d(x, t(W3), stride=2, output_padding=1), (2, 4, 5, 4)),
    "linear": (lambda f, x, t: f.linear(x, t(DENSE), t(BIAS)), (3, 5)),
    "relu": (lambda f, x, t: f.relu(x), (3, 5)),
    "leaky_relu": (lambda f, x, t: f.leaky_relu(x, 0.3), (3, 5)),
    "softmax": (lambda f, x, t: f.softmax(x, dim=1), (3, 5)),
    "glu": (lambda f, x, t: f.glu(x, 1), (3, 6)),
    "avg_pool2d": (lambda f, x, t: f.avg_pool2d(x, 3, 2, 1), (2, 3, 7, 7)),
    "max_pool2d": (lambda f, x, t: f.max_pool2d(x, 3, 2, 1), (2, 3, 7, 7)),
    "adaptive_avg_pool2d": (lambda f, x, t: f.adaptive_avg_pool2d(x, 1), (2, 3, 7, 7)),
    "interpolate": (lambda f, x, t: f.interpolate(x, scale_factor=2.0, mode="nearest"), (2, 3, 4, 5)),
    "pad": (lambda f, x, t: f.pad(x, (1, 2, 0, 1), value=3.0), (2, 3, 4, 5)),
    "pad reflect": (lambda f, x, t: f.pad(x, (1, 2, 0, 1), mode="reflect"), (2, 3, 4, 5)),
    "normalize": (lambda f, x, t: f.normalize(x), (4, 5, 3)),
    "normalize 3": (lambda f, x, t: f.normalize(x, p=3.0, dim=2), (4, 5, 3)),
    "pixel_shuffle": (lambda f, x, t: f.pixel_shuffle(x, 2), (2, 8, 3, 2)),
    "dropout of evaluation": (lambda f, x, t: f.dropout(x, 0.5, training=False), (4, 5)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_equal_torch(name: str) -> None:
    function, shape = FUNCTIONS[name]

    class Net(nn.Module):
        def forward(self, x: nn.Tensor) -> nn.Tensor:
            return function(nn.functional, x, x.trace.constant)

    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = function(torch.nn.functional, torch.from_numpy(x), torch.from_numpy).numpy()
    assert_close(Net()(x), expected, "conv")


def test_cat_and_stack() -> None:
    class Net(nn.Module):
        def forward(self, x: nn.Tensor) -> nn.Tensor:
            return nn.functional.stack([nn.functional.cat([x, x * 2], -1), nn.functional.cat([x, x], -1)], 1)

    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    expected = np.stack([np.concatenate([x, x * 2], -1), np.concatenate([x, x], -1)], 1)
    np.testing.assert_array_equal(Net()(x), expected)
