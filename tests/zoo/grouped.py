"""Grouped convolutions: ResNeXt-50 32x4d (Xie 2016), ShuffleNetV2 (Ma 2018), RegNetX/Y-400MF (Radosavovic 2020)."""

from __future__ import annotations

import torch
from torch import nn

from tests.zoo.blocks import Residual, conv_bn, pooled_head, scaled


def _bottleneck(ic: int, inner: int, oc: int, stride: int, groups: int, excite: nn.Module | None = None) -> nn.Module:
    body = [conv_bn(ic, inner, 1), conv_bn(inner, inner, 3, stride, groups=groups)]
    body += [] if excite is None else [excite]
    shortcut = None if stride == 1 and ic == oc else conv_bn(ic, oc, 1, stride, activation=None)
    return Residual(nn.Sequential(*body, conv_bn(inner, oc, 1, activation=None)), shortcut, nn.ReLU())


def resnext50(width: float, size: tuple[int, ...]) -> nn.Module:
    """32 groups of 4 channels in the first stage, of 32 in the last."""
    c = scaled(width)
    layers: list[nn.Module] = [conv_bn(3, c(64), 7, 2), nn.MaxPool2d(3, 2, 1)]
    ic, groups = c(64), c(32)
    for stage, depth in enumerate((3, 4, 6, 3)):
        inner, oc = c(128) << stage, c(256) << stage
        for block in range(depth):
            layers.append(_bottleneck(ic, inner, oc, 2 if stage and not block else 1, groups))
            ic = oc
    return nn.Sequential(*layers, *pooled_head(ic, 1000))


class _Shuffle(nn.Module):
    """Half of the channels goes by; where sides are halved, all go both ways. Then the halves are interleaved."""

    def __init__(self, ic: int, oc: int, stride: int) -> None:
        super().__init__()
        half = oc // 2
        start = ic if stride == 2 else ic // 2
        self.split = stride == 1
        self.right = nn.Sequential(
            conv_bn(start, half, 1),
            conv_bn(half, half, 3, stride, groups=half, activation=None),
            conv_bn(half, half, 1),
        )
        self.left = (
            nn.Identity()
            if self.split
            else nn.Sequential(conv_bn(ic, ic, 3, 2, groups=ic, activation=None), conv_bn(ic, half, 1))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, 1) if self.split else (x, x)
        y = torch.cat([self.left(left), self.right(right)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenetv2(width: float, size: tuple[int, ...]) -> nn.Module:
    """Channels are split, and shuffled by reshape, transpose, reshape."""
    c = scaled(width)
    layers: list[nn.Module] = [conv_bn(3, c(24), 3, 2), nn.MaxPool2d(3, 2, 1)]
    ic = c(24)
    for channels, depth in ((58, 4), (116, 8), (232, 4)):
        oc = 2 * (c(channels) if width != 1 else channels)
        for block in range(depth):
            layers.append(_Shuffle(ic, oc, 1 if block else 2))
            ic = oc
    layers.append(conv_bn(ic, c(1024), 1))
    return nn.Sequential(*layers, *pooled_head(c(1024), 1000))


class _SqueezeExcite(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True)))))


def _regnet(stages: tuple[tuple[int, int], ...], group: int, excite: bool, width: float) -> nn.Module:
    def c(channels: int) -> int:
        return max(group, round(channels * width / group) * group)

    layers: list[nn.Module] = [conv_bn(3, 32, 3, 2)]
    ic = 32
    for depth, channels in stages:
        oc = c(channels)
        for block in range(depth):
            squeeze = _SqueezeExcite(oc, ic // 4) if excite else None
            layers.append(_bottleneck(ic, oc, oc, 1 if block else 2, oc // group, squeeze))
            ic = oc
    return nn.Sequential(*layers, *pooled_head(ic, 1000))


def regnetx_400mf(width: float, size: tuple[int, ...]) -> nn.Module:
    """Groups of 16 channels."""
    return _regnet(((1, 32), (2, 64), (7, 160), (12, 400)), 16, False, width)


def regnety_400mf(width: float, size: tuple[int, ...]) -> nn.Module:
    """Groups of 8 channels, squeeze-and-excitation."""
    return _regnet(((1, 48), (3, 104), (6, 208), (6, 440)), 8, True, width)
