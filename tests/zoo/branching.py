"""GoogLeNet (Szegedy 2014), DenseNet-121 (Huang 2016), Inception-v3 (Szegedy 2015), as evaluated: one classifier."""

from __future__ import annotations

import torch
from torch import nn

from tests.zoo.blocks import Branches, conv_bn, pooled_head, scaled


class _DenseLayer(nn.Module):
    def __init__(self, ic: int, growth: int) -> None:
        super().__init__()
        inner = 4 * growth
        self.body = nn.Sequential(
            *(nn.BatchNorm2d(ic), nn.ReLU(), nn.Conv2d(ic, inner, 1, bias=False)),
            *(nn.BatchNorm2d(inner), nn.ReLU(), nn.Conv2d(inner, growth, 3, padding=1, bias=False)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet121(width: float, size: tuple[int, ...]) -> nn.Module:
    """Growth 32; blocks 6, 12, 24, 16; each transition halves channels and sides."""
    return densenet((6, 12, 24, 16), width)


def densenet(depths: tuple[int, ...], width: float) -> nn.Module:
    """DenseNet with bottleneck layers, so many in each block."""
    c = scaled(width)
    channels, growth = c(64), c(32)
    layers: list[nn.Module] = [conv_bn(3, channels, 7, 2), nn.MaxPool2d(3, 2, 1)]
    for stage, depth in enumerate(depths):
        if stage:
            half = channels // 2
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, half, 1, bias=False), nn.AvgPool2d(2)]
            channels = half
        for _ in range(depth):
            layers.append(_DenseLayer(channels, growth))
            channels += growth
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), *pooled_head(channels, 1000))


def inception_v3(width: float, size: tuple[int, ...]) -> nn.Module:
    """299x299; 75x75 is the smallest input that its poolings allow."""
    c = scaled(width)

    def unit(ic: int, oc: int, kernel: int | tuple[int, int] = 1, stride: int = 1, same: bool = True) -> nn.Module:
        return conv_bn(ic, c(oc), kernel, stride, None if same else 0, eps=1e-3)

    def chain(ic: int, *steps: tuple[int, int | tuple[int, int]], last_stride: int = 1) -> nn.Sequential:
        layers = []
        for i, (oc, kernel) in enumerate(steps):
            last = i == len(steps) - 1
            layers.append(unit(ic, oc, kernel, last_stride if last else 1, same=not last or last_stride == 1))
            ic = c(oc)
        return nn.Sequential(*layers)

    def pooled(ic: int, oc: int) -> nn.Sequential:
        return nn.Sequential(nn.AvgPool2d(3, 1, 1), unit(ic, oc))

    def block_a(ic: int, pool: int) -> nn.Module:
        return Branches(
            *(unit(ic, 64), chain(ic, (48, 1), (64, 5)), chain(ic, (64, 1), (96, 3), (96, 3))), pooled(ic, pool)
        )

    def block_c(ic: int, inner: int) -> nn.Module:
        row, column = (1, 7), (7, 1)
        double = ((inner, 1), (inner, column), (inner, row), (inner, column), (192, row))
        return Branches(
            *(unit(ic, 192), chain(ic, (inner, 1), (inner, row), (192, column)), chain(ic, *double)), pooled(ic, 192)
        )

    def block_e(ic: int) -> nn.Module:
        def fork(oc: int) -> nn.Module:
            return Branches(unit(c(oc), oc, (1, 3)), unit(c(oc), oc, (3, 1)))

        three = nn.Sequential(unit(ic, 384), fork(384))
        double = nn.Sequential(unit(ic, 448), unit(c(448), 384, 3), fork(384))
        return Branches(unit(ic, 320), three, double, pooled(ic, 192))

    layers: list[nn.Module] = [unit(3, 32, 3, 2, same=False), unit(c(32), 32, 3, same=False), unit(c(32), 64, 3)]
    layers += [nn.MaxPool2d(3, 2), unit(c(64), 80), unit(c(80), 192, 3, same=False), nn.MaxPool2d(3, 2)]
    a = c(64) + c(64) + c(96)
    layers += [block_a(c(192), 32), block_a(a + c(32), 64), block_a(a + c(64), 64)]
    ic = a + c(64)
    double = chain(ic, (64, 1), (96, 3), (96, 3), last_stride=2)
    layers.append(Branches(unit(ic, 384, 3, 2, same=False), double, nn.MaxPool2d(3, 2)))
    ic += c(384) + c(96)
    for inner in (128, 160, 160, 192):
        layers.append(block_c(ic, inner))
        ic = 4 * c(192)
    seven = chain(ic, (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3), last_stride=2)
    layers.append(Branches(chain(ic, (192, 1), (320, 3), last_stride=2), seven, nn.MaxPool2d(3, 2)))
    ic += c(320) + c(192)
    for _ in range(2):
        layers.append(block_e(ic))
        ic = c(320) + 4 * c(384) + c(192)
    return nn.Sequential(*layers, *pooled_head(ic, 1000, dropout=0.5))


def googlenet(width: float, size: tuple[int, ...]) -> nn.Module:
    """Inception blocks with batch norm; poolings with ceil mode."""
    c = scaled(width)
    layers: list[nn.Module] = [conv_bn(3, c(64), 7, 2), nn.MaxPool2d(3, 2, ceil_mode=True)]
    layers += [conv_bn(c(64), c(64), 1), conv_bn(c(64), c(192), 3), nn.MaxPool2d(3, 2, ceil_mode=True)]
    table = (
        (64, 96, 128, 16, 32, 32),
        (128, 128, 192, 32, 96, 64),
        (),
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
        (),
        (256, 160, 320, 32, 128, 128),
        (384, 192, 384, 48, 128, 128),
    )
    ic = c(192)
    for row in table:
        if not row:
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            continue
        one, to_three, three, to_five, five, pooled = map(c, row)
        layers.append(
            Branches(
                conv_bn(ic, one, 1),
                nn.Sequential(conv_bn(ic, to_three, 1), conv_bn(to_three, three, 3)),
                nn.Sequential(conv_bn(ic, to_five, 1), conv_bn(to_five, five, 5)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), conv_bn(ic, pooled, 1)),
            )
        )
        ic = one + three + five + pooled
    return nn.Sequential(*layers, *pooled_head(ic, 1000, dropout=0.2))
