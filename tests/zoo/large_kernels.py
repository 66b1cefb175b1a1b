"""Few layers with large filters: RepLKNet (Ding 2022) with depthwise filters of 31x31 to 13x13."""

from __future__ import annotations

import torch
from torch import nn

from tests.zoo.blocks import Residual, conv_bn, pooled_head, scaled


class _LargeKernel(nn.Module):
    """relu of a large depthwise filter and a 5x5 one beside it, as in training."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.large, self.small = (conv_bn(channels, channels, k, groups=channels, activation=None) for k in (kernel, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.large(x) + self.small(x))


def _block(channels: int, kernel: int) -> nn.Module:
    large = (
        conv_bn(channels, channels, 1),
        _LargeKernel(channels, kernel),
        conv_bn(channels, channels, 1, activation=None),
    )
    feed = (conv_bn(channels, 4 * channels, 1, activation=nn.GELU), conv_bn(4 * channels, channels, 1, activation=None))
    mix, feed_forward = (Residual(nn.Sequential(nn.BatchNorm2d(channels), *body)) for body in (large, feed))
    return nn.Sequential(mix, feed_forward)


def replknet(width: float, size: tuple[int, ...]) -> nn.Module:
    """Kernels 31, 29, 27, 13 in one block a stage (two in the third), half the channels of the paper's smallest."""
    channels = [scaled(width)(64) << stage for stage in range(4)]
    first = channels[0]
    layers: list[nn.Module] = [
        conv_bn(3, first, 3, 2), conv_bn(first, first, 3, groups=first),
        conv_bn(first, first, 1), conv_bn(first, first, 3, 2, groups=first),
    ]  # fmt: skip
    for stage, (kernel, depth) in enumerate(((31, 1), (29, 1), (27, 2), (13, 1))):
        if stage:
            before, now = channels[stage - 1], channels[stage]
            layers += [conv_bn(before, now, 1), conv_bn(now, now, 3, 2, groups=now)]
        layers += [_block(channels[stage], kernel) for _ in range(depth)]
    return nn.Sequential(*layers, *pooled_head(channels[-1], 1000))
