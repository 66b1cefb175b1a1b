"""cnncc.nn against torch.nn: the same names, the same state_dict, the same results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cnncc import nn
from cnncc.errors import GraphError
from cnncc.interpret import interpret
from tests.tolerances import assert_close

# name: (how to make the layer in either library, input shape)
LAYERS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "Conv1d": (lambda m: m.Conv1d(3, 4, 3, stride=2, padding=1), (2, 3, 9)),
    "Conv2d": (lambda m: m.Conv2d(4, 6, (3, 2), padding=(1, 0), dilation=2, groups=2), (2, 4, 8, 7)),
    "Conv2d same": (lambda m: m.Conv2d(3, 4, 4, padding="same", bias=False), (1, 3, 6, 6)),
    "Conv2d reflect": (lambda m: m.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (1, 3, 6, 6)),
    "Conv3d": (lambda m: m.Conv3d(2, 3, 2), (1, 2, 4, 5, 3)),
    "ConvTranspose1d": (lambda m: m.ConvTranspose1d(3, 4, 3, 2, 1), (2, 3, 5)),
    "ConvTranspose2d": (lambda m: m.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2), (2, 4, 5, 4)),
    "ConvTranspose3d": (lambda m: m.ConvTranspose3d(2, 3, 2, 2), (1, 2, 2, 3, 2)),
    "Linear": (lambda m: m.Linear(5, 3), (2, 5)),
    "BatchNorm1d": (lambda m: m.BatchNorm1d(4), (3, 4, 5)),
    "BatchNorm2d": (lambda m: m.BatchNorm2d(4, eps=1e-3), (2, 4, 3, 3)),
    "GroupNorm": (lambda m: m.GroupNorm(2, 4), (2, 4, 3, 3)),
    "LayerNorm": (lambda m: m.LayerNorm((3, 4)), (2, 3, 4)),
    "LocalResponseNorm": (lambda m: m.LocalResponseNorm(3, 1e-2, 0.75, 2.0), (2, 5, 3, 3)),
    "MaxPool1d": (lambda m: m.MaxPool1d(3, 2, 1), (1, 2, 8)),
    "MaxPool2d": (lambda m: m.MaxPool2d(3, 2, 1, ceil_mode=True), (1, 2, 8, 7)),
    "MaxPool3d": (lambda m: m.MaxPool3d(2), (1, 2, 4, 4, 4)),
    "AvgPool2d": (lambda m: m.AvgPool2d(3, 2, 1), (1, 2, 7, 7)),
    "AvgPool2d exclude": (lambda m: m.AvgPool2d(3, 2, 1, count_include_pad=False), (1, 2, 7, 7)),
    "AdaptiveAvgPool2d": (lambda m: m.AdaptiveAvgPool2d((3, 2)), (1, 2, 7, 5)),
    "AdaptiveAvgPool2d 1": (lambda m: m.AdaptiveAvgPool2d(1), (1, 2, 7, 5)),
    "AdaptiveMaxPool1d": (lambda m: m.AdaptiveMaxPool1d(4), (2, 2, 8)),
    "AdaptiveMaxPool2d": (lambda m: m.AdaptiveMaxPool2d(3), (1, 2, 7, 5)),
    "AdaptiveMaxPool2d 1": (lambda m: m.AdaptiveMaxPool2d(1), (1, 2, 7, 5)),
    "AdaptiveMaxPool3d": (lambda m: m.AdaptiveMaxPool3d((2, 1, 3)), (1, 2, 4, 3, 5)),
    "Unfold": (lambda m: m.Unfold((2, 3), dilation=(2, 1), padding=(1, 0), stride=(1, 2)), (2, 3, 6, 7)),
    "Fold": (lambda m: m.Fold((6, 7), (2, 3), dilation=(2, 1), padding=(1, 0), stride=(1, 2)), (2, 18, 18)),
    "ReLU": (lambda m: m.ReLU(), (2, 7)),
    "ReLU6": (lambda m: m.ReLU6(), (2, 7)),
    "LeakyReLU": (lambda m: m.LeakyReLU(0.2), (2, 7)),
    "Sigmoid": (lambda m: m.Sigmoid(), (2, 7)),
    "Tanh": (lambda m: m.Tanh(), (2, 7)),
    "Hardswish": (lambda m: m.Hardswish(), (2, 7)),
    "Hardsigmoid": (lambda m: m.Hardsigmoid(), (2, 7)),
    "SiLU": (lambda m: m.SiLU(), (2, 7)),
    "GELU": (lambda m: m.GELU(), (2, 7)),
    "GELU tanh": (lambda m: m.GELU(approximate="tanh"), (2, 7)),
    "Mish": (lambda m: m.Mish(), (2, 7)),
    "ELU": (lambda m: m.ELU(0.7), (2, 7)),
    "SELU": (lambda m: m.SELU(), (2, 7)),
    "CELU": (lambda m: m.CELU(0.7), (2, 7)),
    "Softplus": (lambda m: m.Softplus(), (2, 7)),
    "Softsign": (lambda m: m.Softsign(), (2, 7)),
    "Hardtanh": (lambda m: m.Hardtanh(-0.5, 0.7), (2, 7)),
    "PReLU": (lambda m: m.PReLU(4), (2, 4, 3)),
    "Softmax": (lambda m: m.Softmax(1), (2, 7, 3)),
    "LogSoftmax": (lambda m: m.LogSoftmax(-1), (2, 7)),
    "Flatten": (lambda m: m.Flatten(), (2, 3, 4)),
    "Identity": (lambda m: m.Identity(), (2, 3)),
    "Dropout": (lambda m: m.Dropout(0.3), (2, 3)),
    "Upsample nearest": (lambda m: m.Upsample(scale_factor=2), (1, 2, 3, 4)),
    "Upsample bilinear": (lambda m: m.Upsample(size=(7, 5), mode="bilinear"), (1, 2, 3, 4)),
    "Upsample corners": (lambda m: m.Upsample(size=(7, 5), mode="bilinear", align_corners=True), (1, 2, 3, 4)),
    "ZeroPad2d": (lambda m: m.ZeroPad2d((1, 2, 0, 3)), (1, 2, 3, 4)),
    "InstanceNorm1d": (lambda m: m.InstanceNorm1d(4, affine=True), (2, 4, 5)),
    "InstanceNorm2d tracked": (lambda m: m.InstanceNorm2d(4, track_running_stats=True), (2, 4, 3, 3)),
    "InstanceNorm3d": (lambda m: m.InstanceNorm3d(2), (2, 2, 3, 3, 2)),
    "BatchNorm2d plain": (lambda m: m.BatchNorm2d(4, affine=False), (2, 4, 3, 3)),
    "BatchNorm2d untracked": (lambda m: m.BatchNorm2d(4, track_running_stats=False), (2, 4, 3, 3)),
    "BatchNorm3d": (lambda m: m.BatchNorm3d(2), (2, 2, 3, 3, 2)),
    "GroupNorm plain": (lambda m: m.GroupNorm(2, 4, affine=False), (2, 4, 3, 3)),
    "LayerNorm plain": (lambda m: m.LayerNorm(4, elementwise_affine=False), (2, 3, 4)),
    "LayerNorm no bias": (lambda m: m.LayerNorm(4, bias=False), (2, 3, 4)),
    "RMSNorm": (lambda m: m.RMSNorm((3, 4)), (2, 3, 4)),
    "Dropout2d": (lambda m: m.Dropout2d(0.3), (2, 3, 4, 4)),
    "AlphaDropout": (lambda m: m.AlphaDropout(0.3), (2, 3)),
    "Unflatten": (lambda m: m.Unflatten(1, (2, -1)), (2, 6, 4)),
    "PixelShuffle": (lambda m: m.PixelShuffle(2), (2, 8, 3, 4)),
    "PixelUnshuffle": (lambda m: m.PixelUnshuffle(2), (2, 3, 4, 6)),
    "ChannelShuffle": (lambda m: m.ChannelShuffle(2), (2, 6, 3, 4)),
    "Upsample linear": (lambda m: m.Upsample(scale_factor=2, mode="linear"), (1, 2, 5)),
    "Upsample trilinear": (lambda m: m.Upsample(scale_factor=2, mode="trilinear"), (1, 2, 3, 2, 4)),
    "Upsample bicubic": (lambda m: m.Upsample(size=(7, 5), mode="bicubic"), (1, 2, 4, 5)),
    "Upsample exact": (lambda m: m.Upsample(size=(7, 5), mode="nearest-exact"), (1, 2, 3, 4)),
    "Upsample fraction": (lambda m: m.Upsample(scale_factor=1.7, mode="bilinear"), (1, 2, 5, 4)),
    "UpsamplingNearest2d": (lambda m: m.UpsamplingNearest2d(scale_factor=3), (1, 2, 3, 4)),
    "UpsamplingBilinear2d": (lambda m: m.UpsamplingBilinear2d(size=(5, 6)), (1, 2, 3, 4)),
    **{
        f"{kind}Pad{rank}d": (
            lambda m, k=kind, r=rank: getattr(m, f"{k}Pad{r}d")(
                (1, 2, 0, 1, 2, 1)[: 2 * r], *((0.5,) if k == "Constant" else ())
            ),
            (1, 2, *(4, 5, 3)[:rank]),
        )
        for kind in ("Constant", "Zero", "Reflection", "Replication", "Circular")
        for rank in (1, 2, 3)
    },
    "LPPool1d": (lambda m: m.LPPool1d(2, 3), (1, 2, 9)),
    "LPPool2d": (lambda m: m.LPPool2d(4, 2), (1, 2, 6, 6)),
    "GLU": (lambda m: m.GLU(1), (2, 6, 3)),
    "LogSigmoid": (lambda m: m.LogSigmoid(), (2, 7)),
    "Softplus beta": (lambda m: m.Softplus(2.0, 1.0), (2, 7)),
    "Tanhshrink": (lambda m: m.Tanhshrink(), (2, 7)),
    "Hardshrink": (lambda m: m.Hardshrink(), (2, 7)),
    "Softshrink": (lambda m: m.Softshrink(), (2, 7)),
    "Threshold": (lambda m: m.Threshold(0.1, 3.0), (2, 7)),
    "Softmin": (lambda m: m.Softmin(1), (2, 7)),
    "Softmax2d": (lambda m: m.Softmax2d(), (2, 5, 3, 2)),
    "Sequential": (lambda m: m.Sequential(m.Conv2d(1, 2, 3), m.ReLU(), m.Flatten(), m.Linear(8, 3)), (2, 1, 4, 4)),
}


def shake(module: torch.nn.Module) -> None:
    """Random parameters and statistics, so that no default hides a mistake."""
    for p in module.parameters():
        torch.nn.init.normal_(p)
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_torch(name: str) -> None:
    make, shape = LAYERS[name]
    theirs, ours = make(torch.nn).eval(), make(nn).eval()
    shake(theirs)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x)).numpy()
    graph = nn.trace(ours, shape)
    assert_close(interpret(graph, {graph.inputs[0].name: x})["output"], expected, "conv")


def test_initialisation_has_torchs_bounds() -> None:
    nn.manual_seed(0)
    layer, torchs = nn.Conv2d(16, 64, 3), torch.nn.Conv2d(16, 64, 3)
    for ours, theirs in zip(layer.parameters(), torchs.parameters(), strict=True):
        bound = (16 * 9) ** -0.5
        assert ours.data.shape == tuple(theirs.shape)
        assert 0.9 * bound < np.abs(ours.data).max() <= bound
        assert abs(float(ours.data.std()) - float(theirs.std())) < 0.2 * bound


def test_state_dict_problems_are_listed_at_once() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    state = net.state_dict()
    del state["0.bias"]
    state["0.weight"] = np.zeros((2, 1, 5, 5), np.float32)
    state["extra"] = np.zeros(1)
    with pytest.raises(GraphError, match=r"shape must be .*; missing 0.bias; unexpected extra"):
        net.load_state_dict(state)


def test_forward_sees_operators_and_indexing() -> None:
    class Net(nn.Module):
        def forward(self, x: nn.Tensor) -> nn.Tensor:
            a, b = x.chunk(2, dim=1)
            y = (a * 2 - b / 4 + 1) ** 2
            return y[:, 0, 1:3, ..., None].mean(1) + (-x[:, -1]).sum((1, 2), keepdim=True)

    x = np.random.default_rng(0).standard_normal((2, 4, 5, 6)).astype(np.float32)

    def theirs(t: torch.Tensor) -> torch.Tensor:
        a, b = t.chunk(2, dim=1)
        y = (a * 2 - b / 4 + 1) ** 2
        return y[:, 0, 1:3, ..., None].mean(1) + (-t[:, -1]).sum((1, 2), keepdim=True)

    assert_close(Net()(x), theirs(torch.from_numpy(x)).numpy(), "reduction")


def test_layers_keep_their_names_as_sources() -> None:
    graph = nn.trace(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), (1, 1, 5, 5))
    assert [n.source for n in graph.nodes if n.op in ("conv", "relu")] == ["0", "1"]


def test_symbolic_batch() -> None:
    graph = nn.trace(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 3)), ("N", 1, 5, 5))
    assert str(graph.outputs[0].type) == "f32[N, 3]"


def test_modules_list_their_shape_errors_by_layer() -> None:
    with pytest.raises(GraphError, match=r"conv '0'.*channels"):
        nn.trace(nn.Sequential(nn.Conv2d(3, 2, 3)), (1, 4, 5, 5))
