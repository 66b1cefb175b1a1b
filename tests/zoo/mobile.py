"""MobileNetV2 (Sandler 2018), SqueezeNet 1.1 (Iandola 2016), EfficientNet-B0 (Tan 2019)."""

from __future__ import annotations

import torch
from torch import nn

from tests.zoo.blocks import Branches, Residual, conv_bn, pooled_head, scaled


def _inverted(ic: int, oc: int, stride: int, expand: int) -> nn.Module:
    inner = ic * expand
    body: list[nn.Module] = [conv_bn(ic, inner, 1, activation=nn.ReLU6)] if expand > 1 else []
    body.append(conv_bn(inner, inner, 3, stride, groups=inner, activation=nn.ReLU6))
    body.append(conv_bn(inner, oc, 1, activation=None))
    return Residual(nn.Sequential(*body)) if stride == 1 and ic == oc else nn.Sequential(*body)


def mobilenetv2(width: float, size: tuple[int, ...]) -> nn.Module:
    """Inverted residuals with ReLU6."""
    c = scaled(width)
    layers: list[nn.Module] = [conv_bn(3, c(32), 3, 2, activation=nn.ReLU6)]
    ic = c(32)
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expand, oc, depth, stride in table:
        for block in range(depth):
            layers.append(_inverted(ic, c(oc), 1 if block else stride, expand))
            ic = c(oc)
    layers.append(conv_bn(ic, c(1280), 1, activation=nn.ReLU6))
    return nn.Sequential(*layers, *pooled_head(c(1280), 1000, dropout=0.2))


def _fire(ic: int, squeeze: int, expand: int) -> nn.Module:
    one = nn.Sequential(nn.Conv2d(squeeze, expand, 1), nn.ReLU())
    three = nn.Sequential(nn.Conv2d(squeeze, expand, 3, padding=1), nn.ReLU())
    return nn.Sequential(nn.Conv2d(ic, squeeze, 1), nn.ReLU(), Branches(one, three))


def squeezenet(width: float, size: tuple[int, ...]) -> nn.Module:
    """Version 1.1: pooling with ceil mode, a convolution as the classifier."""
    c = scaled(width)
    layers: list[nn.Module] = [nn.Conv2d(3, c(64), 3, 2), nn.ReLU()]
    ic = c(64)
    for step in ((), (16, 64), (16, 64), (), (32, 128), (32, 128), (), (48, 192), (48, 192), (64, 256), (64, 256)):
        if not step:
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            continue
        layers.append(_fire(ic, c(step[0]), c(step[1])))
        ic = 2 * c(step[1])
    head = (nn.Dropout(), nn.Conv2d(ic, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, *head)


class SqueezeExcite(nn.Module):
    """x * sigmoid(expand(silu(reduce(mean(x)))))."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.pool, self.reduce, self.expand = (
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, inner, 1),
            nn.Conv2d(inner, channels, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.expand(nn.functional.silu(self.reduce(self.pool(x)))))


def _mbconv(ic: int, oc: int, kernel: int, stride: int, expand: int) -> nn.Module:
    inner = ic * expand
    body: list[nn.Module] = [conv_bn(ic, inner, 1, activation=nn.SiLU)] if expand > 1 else []
    body.append(conv_bn(inner, inner, kernel, stride, groups=inner, activation=nn.SiLU))
    body += [SqueezeExcite(inner, max(1, ic // 4)), conv_bn(inner, oc, 1, activation=None)]
    return Residual(nn.Sequential(*body)) if stride == 1 and ic == oc else nn.Sequential(*body)


def efficientnet_b0(width: float, size: tuple[int, ...]) -> nn.Module:
    """MBConv blocks with squeeze-and-excitation and SiLU."""
    c = scaled(width)
    layers: list[nn.Module] = [conv_bn(3, c(32), 3, 2, activation=nn.SiLU)]
    ic = c(32)
    table = (
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 2),
        (6, 5, 2, 40, 2),
        (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3),
        (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    )
    for expand, kernel, stride, oc, depth in table:
        for block in range(depth):
            layers.append(_mbconv(ic, c(oc), kernel, 1 if block else stride, expand))
            ic = c(oc)
    layers.append(conv_bn(ic, c(1280), 1, activation=nn.SiLU))
    return nn.Sequential(*layers, *pooled_head(c(1280), 1000, dropout=0.2))
