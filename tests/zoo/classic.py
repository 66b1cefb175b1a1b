"""LeNet-5 (LeCun 1998), AlexNet (Krizhevsky 2014, the single tower), VGG-16 (Simonyan 2014), ResNet (He 2015)."""

from __future__ import annotations

from torch import nn

from tests.zoo.blocks import Residual, conv_bn, pooled_head, scaled


def lenet5(width: float, size: tuple[int, ...]) -> nn.Module:
    """28x28 padded to 32x32 by the first convolution; average pooling and tanh as in the paper."""
    c = scaled(width)
    side = [((s // 2) - 4) // 2 for s in size]
    return nn.Sequential(
        *(nn.Conv2d(1, c(6), 5, padding=2), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(c(6), c(16), 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(c(16) * side[0] * side[1], c(120)), nn.Tanh(), nn.Linear(c(120), c(84)), nn.Tanh()),
        nn.Linear(c(84), 10),
    )


def alexnet(width: float, size: tuple[int, ...]) -> nn.Module:
    """224x224, without local response normalisation."""
    c = scaled(width)
    relu, pool = nn.ReLU, lambda: nn.MaxPool2d(3, 2)

    def left(s: int) -> int:
        """What three poolings of 3 by 2 leave of a side after the first stride of 4."""
        s = (s + 4 - 11) // 4 + 1
        for _ in range(3):
            s = (s - 3) // 2 + 1
        return s

    features = c(256) * left(size[0]) * left(size[1])
    return nn.Sequential(
        *(nn.Conv2d(3, c(64), 11, 4, 2), relu(), pool(), nn.Conv2d(c(64), c(192), 5, padding=2), relu(), pool()),
        *(nn.Conv2d(c(192), c(384), 3, padding=1), relu(), nn.Conv2d(c(384), c(256), 3, padding=1), relu()),
        *(nn.Conv2d(c(256), c(256), 3, padding=1), relu(), pool(), nn.Flatten()),
        *(nn.Dropout(), nn.Linear(features, c(4096)), relu(), nn.Dropout(), nn.Linear(c(4096), c(4096)), relu()),
        nn.Linear(c(4096), 1000),
    )


def vgg16(width: float, size: tuple[int, ...]) -> nn.Module:
    """Thirteen 3x3 convolutions with bias and no batch norm."""
    c = scaled(width)
    layers: list[nn.Module] = []
    ic = 3
    for step in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if not step:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(ic, c(step), 3, padding=1), nn.ReLU()]
        ic = c(step)
    dense = [nn.Linear(ic * (size[0] // 32) * (size[1] // 32), c(4096)), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(
        *layers, nn.Flatten(), *dense, nn.Linear(c(4096), c(4096)), nn.ReLU(), nn.Linear(c(4096), 1000)
    )


def _basic(ic: int, oc: int, stride: int) -> nn.Module:
    body = nn.Sequential(conv_bn(ic, oc, 3, stride), conv_bn(oc, oc, 3, activation=None))
    shortcut = conv_bn(ic, oc, 1, stride, activation=None) if stride > 1 or ic != oc else None
    return Residual(body, shortcut, nn.ReLU())


def _bottleneck(ic: int, oc: int, stride: int) -> nn.Module:
    inner = oc // 4
    body = (conv_bn(ic, inner, 1), conv_bn(inner, inner, 3, stride), conv_bn(inner, oc, 1, activation=None))
    shortcut = conv_bn(ic, oc, 1, stride, activation=None) if stride > 1 or ic != oc else None
    return Residual(nn.Sequential(*body), shortcut, nn.ReLU())


def _resnet(depths: tuple[int, ...], bottleneck: bool, width: float) -> nn.Module:
    c = scaled(width)
    layers: list[nn.Module] = [conv_bn(3, c(64), 7, 2), nn.MaxPool2d(3, 2, 1)]
    ic = c(64)
    for stage, depth in enumerate(depths):
        oc = c(64 << stage) * (4 if bottleneck else 1)
        for block in range(depth):
            stride = 2 if stage and not block else 1
            layers.append((_bottleneck if bottleneck else _basic)(ic, oc, stride))
            ic = oc
    return nn.Sequential(*layers, *pooled_head(ic, 1000))


def resnet18(width: float, size: tuple[int, ...]) -> nn.Module:
    """Basic blocks 2, 2, 2, 2."""
    return _resnet((2, 2, 2, 2), False, width)


def resnet50(width: float, size: tuple[int, ...]) -> nn.Module:
    """Bottlenecks 3, 4, 6, 3, the stride in the 3x3 (version 1.5)."""
    return _resnet((3, 4, 6, 3), True, width)
