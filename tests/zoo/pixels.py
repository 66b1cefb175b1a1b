"""Answers for places in the image: a detector after YOLOv5n (Redmon 2016, Jocher 2020), DeepLabv3 on a ResNet-18 (Chen
2017), sub-pixel super resolution (Shi 2016)."""

from __future__ import annotations

import torch
from torch import nn

from tests.zoo.blocks import Branches, Residual, conv_bn, scaled


def _unit(ic: int, oc: int, kernel: int = 1, stride: int = 1) -> nn.Module:
    return conv_bn(ic, oc, kernel, stride, activation=nn.SiLU, eps=1e-3)


class _CrossStage(nn.Module):
    """Half of the channels through bottlenecks, the other half beside them."""

    def __init__(self, ic: int, oc: int, depth: int, residual: bool = True) -> None:
        super().__init__()
        half = oc // 2
        chain = [nn.Sequential(_unit(half, half), _unit(half, half, 3)) for _ in range(depth)]
        body = [Residual(link) for link in chain] if residual else chain
        self.branches = Branches(nn.Sequential(_unit(ic, half), *body), _unit(ic, half))
        self.last = _unit(2 * half, oc)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.branches(x))


class _PyramidPool(nn.Module):
    """Max pooling of 5, 9 and 13 pixels, side by side with the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.first, self.last = _unit(channels, half), _unit(4 * half, channels)
        self.pools = Branches(nn.Identity(), *(nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.pools(self.first(x)))


class Detector(nn.Module):
    """Three scales, joined downwards and upwards; every row of the result is a box, its score, and its classes."""

    ANCHORS = (
        ((10, 13), (16, 30), (33, 23)),
        ((30, 61), (62, 45), (59, 119)),
        ((116, 90), (156, 198), (373, 326)),
    )

    def __init__(self, base: int, classes: int) -> None:
        super().__init__()
        c2, c3, c4, c5 = (base << k for k in range(1, 5))
        self.classes = classes
        self.stem = nn.Sequential(
            conv_bn(3, base, 6, 2, 2, activation=nn.SiLU, eps=1e-3), _unit(base, c2, 3, 2), _CrossStage(c2, c2, 1)
        )
        self.stage3 = nn.Sequential(_unit(c2, c3, 3, 2), _CrossStage(c3, c3, 2))
        self.stage4 = nn.Sequential(_unit(c3, c4, 3, 2), _CrossStage(c4, c4, 3))
        self.stage5 = nn.Sequential(_unit(c4, c5, 3, 2), _CrossStage(c5, c5, 1), _PyramidPool(c5))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.narrow5, self.down4 = _unit(c5, c4), _CrossStage(2 * c4, c4, 1, False)
        self.narrow4, self.down3 = _unit(c4, c3), _CrossStage(2 * c3, c3, 1, False)
        self.halve3, self.up4 = _unit(c3, c3, 3, 2), _CrossStage(2 * c3, c4, 1, False)
        self.halve4, self.up5 = _unit(c4, c4, 3, 2), _CrossStage(2 * c4, c5, 1, False)
        self.heads = nn.ModuleList(nn.Conv2d(c, 3 * (5 + classes), 1) for c in (c3, c4, c5))

    def _boxes(self, y: torch.Tensor, level: int) -> torch.Tensor:
        n, _, h, w = y.shape
        y = y.view(n, 3, 5 + self.classes, h, w).permute(0, 1, 3, 4, 2).sigmoid()
        rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        cells = torch.stack([columns, rows], 2).reshape(1, 1, h, w, 2).float()
        anchors = torch.tensor(self.ANCHORS[level], dtype=torch.float32).reshape(1, 3, 1, 1, 2)
        stride = 8 << level
        place = (y[..., :2] * 2 - 0.5 + cells) * (1 / (h * stride))
        extent = (y[..., 2:4] * 2) ** 2 * anchors * (1 / (h * stride))
        return torch.cat([place, extent, y[..., 4:]], 4).reshape(n, -1, 5 + self.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x3 = self.stage3(self.stem(x))
        x4 = self.stage4(x3)
        n5 = self.narrow5(self.stage5(x4))
        n4 = self.narrow4(self.down4(torch.cat([self.up(n5), x4], 1)))
        y3 = self.down3(torch.cat([self.up(n4), x3], 1))
        y4 = self.up4(torch.cat([self.halve3(y3), n4], 1))
        y5 = self.up5(torch.cat([self.halve4(y4), n5], 1))
        return torch.cat(
            [self._boxes(head(y), k) for k, (head, y) in enumerate(zip(self.heads, (y3, y4, y5), strict=True))], 1
        )


def detector(width: float, size: tuple[int, ...]) -> nn.Module:
    """Sides divisible by 32; boxes relative to the image."""
    return Detector(scaled(width)(16), 20)


class _PooledBranch(nn.Module):
    """The mean over the image, at every pixel."""

    def __init__(self, ic: int, oc: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_bn(ic, oc, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(self.body(x), x.shape[-2:], mode="bilinear", align_corners=False)


def _dilated(ic: int, oc: int, rate: int, activation: type[nn.Module] | None = nn.ReLU) -> nn.Module:
    layers = [nn.Conv2d(ic, oc, 3, padding=rate, dilation=rate, bias=False), nn.BatchNorm2d(oc)]
    return nn.Sequential(*layers, *([activation()] if activation else []))


class _DeepLab(nn.Module):
    def __init__(self, base: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn(3, base, 7, 2), nn.MaxPool2d(3, 2, 1)]
        ic = base
        for stage, (stride, rate) in enumerate(((1, 1), (2, 1), (1, 2), (1, 4))):
            oc = base << stage
            for block in range(2):
                first = conv_bn(ic, oc, 3, 2) if stride == 2 and not block else _dilated(ic, oc, rate)
                shortcut = None if ic == oc else conv_bn(ic, oc, 1, stride, activation=None)
                layers.append(Residual(nn.Sequential(first, _dilated(oc, oc, rate, None)), shortcut, nn.ReLU()))
                ic = oc
        inner = 4 * base
        pyramid = (
            conv_bn(ic, inner, 1),
            *(_dilated(ic, inner, rate) for rate in (12, 24, 36)),
            _PooledBranch(ic, inner),
        )
        head = (conv_bn(5 * inner, inner, 1), conv_bn(inner, inner, 3), nn.Conv2d(inner, classes, 1))
        self.body = nn.Sequential(*layers, Branches(*pyramid), *head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(self.body(x), x.shape[-2:], mode="bilinear", align_corners=False)


def deeplab(width: float, size: tuple[int, ...]) -> nn.Module:
    """Output stride 8 by dilation, pyramid of rates 12, 24, 36 and the mean, scores resized to the input."""
    return _DeepLab(scaled(width)(64), 21)


def espcn(width: float, size: tuple[int, ...]) -> nn.Module:
    """Luminance three times as wide and as high, by pixel shuffle."""
    c = scaled(width)
    layers = (nn.Conv2d(1, c(64), 5, padding=2), nn.Tanh(), nn.Conv2d(c(64), c(64), 3, padding=1), nn.Tanh())
    last = (nn.Conv2d(c(64), c(32), 3, padding=1), nn.Tanh(), nn.Conv2d(c(32), 9, 3, padding=1), nn.PixelShuffle(3))
    return nn.Sequential(*layers, *last)
