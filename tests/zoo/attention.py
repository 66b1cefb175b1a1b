"""After the transformers: ConvNeXt-Tiny (Liu 2022), and attention behind a convolutional stem (Xiao 2021)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from tests.zoo.blocks import Residual, conv_bn, scaled


class _ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of N C H W."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _ConvNextBlock(nn.Module):
    """x + scale * linear(gelu(linear(norm(depthwise 7x7)))), the last four with channels last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand, self.reduce = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.linspace(0.2, 0.4, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.reduce(nn.functional.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


def convnext_tiny(width: float, size: tuple[int, ...]) -> nn.Module:
    """Depths 3, 3, 9, 3; patches of 4x4 first, 2x2 between the stages."""
    channels = [scaled(width)(96) << stage for stage in range(4)]
    layers: list[nn.Module] = [nn.Conv2d(3, channels[0], 4, 4), _ChannelNorm(channels[0], eps=1e-6)]
    for stage, depth in enumerate((3, 3, 9, 3)):
        if stage:
            before, now = channels[stage - 1], channels[stage]
            layers += [_ChannelNorm(before, eps=1e-6), nn.Conv2d(before, now, 2, 2)]
        layers += [_ConvNextBlock(channels[stage]) for _ in range(depth)]
    last = channels[-1]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(last, eps=1e-6), nn.Linear(last, 1000))
    return nn.Sequential(*layers, *head)


class _Attention(nn.Module):
    """softmax(q k' / sqrt(d)) v for each head of d channels."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, tokens, channels = x.shape
        parts = self.qkv(x).reshape(n, tokens, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        return self.out(y.transpose(1, 2).reshape(n, tokens, channels))


class _ConvViT(nn.Module):
    """Strided convolutions to patches of 16x16, a class token, positions, encoder blocks."""

    def __init__(self, channels: int, heads: int, depth: int, tokens: int) -> None:
        super().__init__()
        steps = [3, channels // 8, channels // 4, channels // 2, channels]
        self.stem = nn.Sequential(*(conv_bn(a, b, 3, 2) for a, b in pairwise(steps)), nn.Conv2d(channels, channels, 1))
        self.token = nn.Parameter(torch.linspace(-1, 1, channels).reshape(1, 1, channels))
        self.positions = nn.Parameter(torch.sin(torch.arange((tokens + 1) * channels) * 0.7).reshape(1, -1, channels))
        blocks = []
        for _ in range(depth):
            mlp = (
                nn.LayerNorm(channels),
                nn.Linear(channels, 4 * channels),
                nn.GELU(),
                nn.Linear(4 * channels, channels),
            )
            blocks += [
                Residual(nn.Sequential(nn.LayerNorm(channels), _Attention(channels, heads))),
                Residual(nn.Sequential(*mlp)),
            ]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, 1000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], 1) + self.positions
        return self.head(self.blocks(x)[:, 0])


def conv_vit(width: float, size: tuple[int, ...]) -> nn.Module:
    """The size of DeiT-Tiny: 12 blocks of 192 channels in 3 heads; half of them at a smaller width."""
    height, columns = size
    channels = int(64 * round(3 * width)) if width < 1 else 192
    return _ConvViT(channels, channels // 64, 12 if width == 1 else 6, (height // 16) * (columns // 16))
