"""Networks found by search: MNASNet-1.0 (Tan 2018), MobileNetV3-Large and -Small (Howard 2019)."""

from __future__ import annotations

import torch
from torch import nn

from tests.zoo.blocks import Residual, conv_bn, pooled_head, scaled

# kernel, expanded channels, channels, squeeze-and-excitation, hard swish (else ReLU), stride
_LARGE = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)
_SMALL = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)


class _HardSqueezeExcite(nn.Module):
    """x * hardsigmoid(expand(relu(reduce(mean(x)))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = scaled(0.25)(channels)
        self.reduce, self.expand = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = nn.functional.adaptive_avg_pool2d(x, 1)
        return x * nn.functional.hardsigmoid(self.expand(torch.relu(self.reduce(mean))))


def _mobilenetv3(table: tuple[tuple[int, int, int, bool, bool, int], ...], last: int, width: float) -> nn.Module:
    c = scaled(width)
    layers: list[nn.Module] = [conv_bn(3, c(16), 3, 2, activation=nn.Hardswish)]
    ic = c(16)
    for kernel, expanded, channels, excite, swish, stride in table:
        inner, oc, activation = c(expanded), c(channels), nn.Hardswish if swish else nn.ReLU
        body: list[nn.Module] = [conv_bn(ic, inner, 1, activation=activation)] if inner != ic else []
        body.append(conv_bn(inner, inner, kernel, stride, groups=inner, activation=activation))
        body += [_HardSqueezeExcite(inner)] if excite else []
        body.append(conv_bn(inner, oc, 1, activation=None))
        layers.append(Residual(nn.Sequential(*body)) if stride == 1 and ic == oc else nn.Sequential(*body))
        ic = oc
    layers.append(conv_bn(ic, 6 * ic, 1, activation=nn.Hardswish))
    head = (nn.Linear(6 * ic, c(last)), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(c(last), 1000))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)


def mobilenetv3_large(width: float, size: tuple[int, ...]) -> nn.Module:
    """Hard swish in the deeper half, squeeze-and-excitation in some blocks."""
    return _mobilenetv3(_LARGE, 1280, width)


def mobilenetv3_small(width: float, size: tuple[int, ...]) -> nn.Module:
    """The same with fewer blocks, most of them with squeeze-and-excitation."""
    return _mobilenetv3(_SMALL, 1024, width)


def mnasnet(width: float, size: tuple[int, ...]) -> nn.Module:
    """Inverted residuals with filters of 3x3 and 5x5."""
    c = scaled(width)
    layers = [
        conv_bn(3, c(32), 3, 2),
        conv_bn(c(32), c(32), 3, groups=c(32)),
        conv_bn(c(32), c(16), 1, activation=None),
    ]
    ic = c(16)
    table = (
        (3, 3, 24, 3, 2),
        (3, 5, 40, 3, 2),
        (6, 5, 80, 3, 2),
        (6, 3, 96, 2, 1),
        (6, 5, 192, 4, 2),
        (6, 3, 320, 1, 1),
    )
    for expand, kernel, channels, depth, first_stride in table:
        oc = c(channels)
        for block in range(depth):
            stride, inner = 1 if block else first_stride, ic * expand
            body = nn.Sequential(
                conv_bn(ic, inner, 1),
                conv_bn(inner, inner, kernel, stride, groups=inner),
                conv_bn(inner, oc, 1, activation=None),
            )
            layers.append(Residual(body) if stride == 1 and ic == oc else body)
            ic = oc
    layers.append(conv_bn(ic, c(1280), 1))
    return nn.Sequential(*layers, *pooled_head(c(1280), 1000, dropout=0.2))
