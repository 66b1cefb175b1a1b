"""torch modules compile directly, and cnncc serves as a torch.compile backend."""

from __future__ import annotations

import pytest
import torch

import cnncc
from cnncc.errors import GraphError
from tests.tolerances import assert_close


def make() -> torch.nn.Module:
    torch.manual_seed(0)
    t = torch.nn
    return t.Sequential(
        t.Conv2d(3, 8, 3, padding=1), t.BatchNorm2d(8), t.SiLU(), t.MaxPool2d(2), t.Flatten(), t.Linear(128, 5)
    )


def test_module_with_example_inputs() -> None:
    module, x = make().train(), torch.randn(2, 3, 8, 8)
    exe = cnncc.compile(module, shapes=(x,))
    assert module.training, "the module's mode is left as it was"
    y = exe(x)
    assert isinstance(y, torch.Tensor), "torch in gives torch out"
    with torch.no_grad():
        assert_close(y.numpy(), module.eval()(x).numpy(), "network")


def test_module_without_inputs_is_an_error() -> None:
    with pytest.raises(GraphError, match="example inputs"):
        cnncc.compile(make())


def test_dynamo_backend() -> None:
    from cnncc.edges.torch_edge import dynamo_backend

    module, x = make().eval(), torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        compiled = torch.compile(module, backend=dynamo_backend)
        assert_close(compiled(x).numpy(), module(x).numpy(), "network")
