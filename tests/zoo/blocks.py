"""Pieces that several of the networks share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def scaled(width: float) -> Callable[[int], int]:
    """channels --> channels * width, a multiple of 8 (so that narrow test networks keep whole vectors)."""
    return lambda channels: channels if width == 1 else max(8, round(channels * width / 8) * 8)


def conv_bn(
    ic: int,
    oc: int,
    kernel: int | tuple[int, ...],
    stride: int = 1,
    padding: int | tuple[int, ...] | None = None,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU,
    eps: float = 1e-5,
) -> nn.Sequential:
    """Convolution without bias, batch norm, activation. padding None keeps the size at stride 1."""
    if padding is None:
        padding = tuple((k - 1) // 2 for k in kernel) if isinstance(kernel, tuple) else (kernel - 1) // 2
    layers: list[nn.Module] = [
        nn.Conv2d(ic, oc, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(oc, eps=eps),
    ]
    return nn.Sequential(*layers, *([activation()] if activation else []))


class Branches(nn.Module):
    """Several modules on one input, their results concatenated along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Residual(nn.Module):
    """after(body(x) + shortcut(x))."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut, self.after = body, shortcut or nn.Identity(), after or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.body(x) + self.shortcut(x))


def pooled_head(channels: int, classes: int, dropout: float = 0.0) -> list[nn.Module]:
    """Global average, flatten, dropout, dense."""
    drop: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *drop, nn.Linear(channels, classes)]
