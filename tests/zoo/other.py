"""Not image classifiers: U-Net (Ronneberger 2015), M5 on raw audio (Dai 2016), C3D on video (Tran 2014)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from tests.zoo.blocks import conv_bn, scaled


class UNet(nn.Module):
    """Four levels; the way up by transposed convolutions of two kinds: 2 by 2, and 4 by 2 with padding."""

    def __init__(self, base: int, classes: int = 2) -> None:
        super().__init__()
        channels = [base << level for level in range(4)]
        self.first = self._double(3, channels[0])
        self.down = nn.ModuleList(self._double(a, b) for a, b in pairwise(channels))
        self.pool = nn.MaxPool2d(2)
        kinds = ((2, 0), (4, 1), (2, 0))
        pairs = list(pairwise(channels))[::-1]
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(b, a, k, stride=2, padding=p) for (a, b), (k, p) in zip(pairs, kinds, strict=True)
        )
        self.merge = nn.ModuleList(self._double(2 * a, a) for a, _ in pairs)
        self.last = nn.Conv2d(channels[0], classes, 1)

    @staticmethod
    def _double(ic: int, oc: int) -> nn.Sequential:
        return nn.Sequential(conv_bn(ic, oc, 3), conv_bn(oc, oc, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        kept = []
        for down in self.down:
            kept.append(x)
            x = down(self.pool(x))
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([kept.pop(), up(x)], 1))
        return self.last(x)


def unet(width: float, size: tuple[int, ...]) -> nn.Module:
    """Sides divisible by 8; two scores for each pixel."""
    return UNet(scaled(width)(32))


def audio_m5(width: float, size: tuple[int, ...]) -> nn.Module:
    """One second at 8 kHz; strided filters of 80 samples, log-probabilities of 35 words."""
    c = scaled(width)
    layers: list[nn.Module] = []
    ic = 1
    for oc, kernel, stride in ((128, 80, 4), (128, 3, 1), (256, 3, 1), (512, 3, 1)):
        layers += [nn.Conv1d(ic, c(oc), kernel, stride), nn.BatchNorm1d(c(oc)), nn.ReLU(), nn.MaxPool1d(4)]
        ic = c(oc)
    head = (nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(ic, 35), nn.LogSoftmax(dim=1))
    return nn.Sequential(*layers, *head)


def video_c3d(width: float, size: tuple[int, ...]) -> nn.Module:
    """16 frames of 112x112; 3x3x3 convolutions with batch norm, the first pooling keeps the frames."""
    c = scaled(width)
    layers: list[nn.Module] = []
    ic = 3
    for step in (64, 1, 128, 2, 256, 256, 2, 512, 512, 2):
        if step < 8:
            layers.append(nn.MaxPool3d((step, 2, 2)))
            continue
        layers += [nn.Conv3d(ic, c(step), 3, padding=1, bias=False), nn.BatchNorm3d(c(step)), nn.ReLU()]
        ic = c(step)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(ic, 101))
