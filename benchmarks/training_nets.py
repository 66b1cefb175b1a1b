"""The networks whose training steps are timed, written once for torch.nn and cnncc.nn: build("resnet18", torch.nn).

Layers have the same names in both, so that one's state_dict loads into the other. No dropout: its random numbers would
differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class TrainingNet:
    """A network: `make(kit)` builds it, `shape` is one image's, `small` a size for tests, with `classes` labels, one
    for each pixel where `per_pixel`."""

    make: Callable[[Kit, float], Any]
    shape: tuple[int, ...]
    small: tuple[int, ...]
    batch: int
    classes: int = 10
    per_pixel: bool = False


class Kit:
    """The layers of a framework, and the few forms that differ between the two."""

    def __init__(self, nn: Any):
        self.nn = nn
        joined = _joined

        class Residual(nn.Module):
            def __init__(self, body: Any, shortcut: Any, after: Any) -> None:
                super().__init__()
                self.body, self.shortcut, self.after = body, shortcut, after

            def forward(self, x: Any) -> Any:
                return self.after(self.body(x) + self.shortcut(x))

        class Joined(nn.Module):
            """[x, body(x)] along the channels."""

            def __init__(self, body: Any) -> None:
                super().__init__()
                self.body = body

            def forward(self, x: Any) -> Any:
                return joined(x, self.body(x))

        self.residual, self.joined = Residual, Joined

    def conv_bn(self, ic: int, oc: int, kernel: int, stride: int = 1, groups: int = 1, act: Any = None) -> list[Any]:
        """Convolution without bias that keeps the size at stride 1, batch norm, activation ("": none; None: ReLU)."""
        nn = self.nn
        conv = nn.Conv2d(ic, oc, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(oc), *([] if act == "" else [(act or nn.ReLU)()])]


def _joined(*parts: Any) -> Any:
    if type(parts[0]).__module__.startswith("cnncc"):
        return parts[0].trace.op("concat", *parts, axis=1)
    import torch

    return torch.cat(parts, 1)


def _scaled(width: float) -> Callable[[int], int]:
    return lambda channels: channels if width == 1 else max(8, round(channels * width / 8) * 8)


def _head(nn: Any, channels: int, classes: int) -> list[Any]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def _lenet5(kit: Kit, width: float) -> Any:
    nn = kit.nn
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)),
    )


def _resnet18(kit: Kit, width: float) -> Any:
    nn, c = kit.nn, _scaled(width)
    layers = [*kit.conv_bn(3, c(64), 7, 2), nn.MaxPool2d(3, 2, 1)]
    ic = c(64)
    for stage in range(4):
        oc = c(64 << stage)
        for block in range(2):
            stride = 2 if stage and not block else 1
            body = nn.Sequential(*kit.conv_bn(ic, oc, 3, stride), *kit.conv_bn(oc, oc, 3, act=""))
            short = nn.Sequential(*kit.conv_bn(ic, oc, 1, stride, act="")) if stride > 1 or ic != oc else nn.Identity()
            layers.append(kit.residual(body, short, nn.ReLU()))
            ic = oc
    return nn.Sequential(*layers, *_head(nn, ic, 1000))


def _mobilenetv2(kit: Kit, width: float) -> Any:
    nn, c = kit.nn, _scaled(width)
    layers = [*kit.conv_bn(3, c(32), 3, 2, act=nn.ReLU6)]
    ic = c(32)
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expand, oc, depth, stride in table:
        for block in range(depth):
            step, inner = 1 if block else stride, ic * expand
            body = kit.conv_bn(ic, inner, 1, act=nn.ReLU6) if expand > 1 else []
            body += kit.conv_bn(inner, inner, 3, step, groups=inner, act=nn.ReLU6)
            body += kit.conv_bn(inner, c(oc), 1, act="")
            same = step == 1 and ic == c(oc)
            layers.append(kit.residual(nn.Sequential(*body), nn.Identity(), nn.Identity()) if same
                          else nn.Sequential(*body))  # fmt: skip
            ic = c(oc)
    layers += kit.conv_bn(ic, c(1280), 1, act=nn.ReLU6)
    return nn.Sequential(*layers, *_head(nn, c(1280), 1000))


def _densenet121(kit: Kit, width: float) -> Any:
    nn, c = kit.nn, _scaled(width)
    channels, growth = c(64), c(32)
    layers = [*kit.conv_bn(3, channels, 7, 2), nn.MaxPool2d(3, 2, 1)]
    for stage, depth in enumerate((6, 12, 24, 16)):
        if stage:
            half = channels // 2
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, half, 1, bias=False), nn.AvgPool2d(2)]
            channels = half
        for _ in range(depth if width == 1 else 2):
            inner = 4 * growth
            layers.append(kit.joined(nn.Sequential(
                nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, inner, 1, bias=False),
                nn.BatchNorm2d(inner), nn.ReLU(), nn.Conv2d(inner, growth, 3, padding=1, bias=False),
            )))  # fmt: skip
            channels += growth
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), *_head(nn, channels, 1000))


def _vgg(kit: Kit, width: float) -> Any:
    nn, c = kit.nn, _scaled(width)
    layers: list[Any] = []
    ic = 3
    for step in (64, 64, 0, 128, 128, 0, 256, 256, 0, 512, 512, 0):
        layers += [nn.MaxPool2d(2)] if not step else [nn.Conv2d(ic, c(step), 3, padding=1), nn.ReLU()]
        ic = c(step) if step else ic
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(ic, 256), nn.ReLU(),
                         nn.Linear(256, 10))  # fmt: skip


def _unet(kit: Kit, width: float) -> Any:
    nn, c = kit.nn, _scaled(width)
    channels = [c(32 << level) for level in range(4)]

    def double(ic: int, oc: int) -> Any:
        return nn.Sequential(*kit.conv_bn(ic, oc, 3), *kit.conv_bn(oc, oc, 3))

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.pool = double(3, channels[0]), nn.MaxPool2d(2)
            self.down = nn.ModuleList([double(a, b) for a, b in pairwise(channels)])
            pairs = list(pairwise(channels))[::-1]
            self.up = nn.ModuleList([nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairs])
            self.merge = nn.ModuleList([double(2 * a, a) for a, _ in pairs])
            self.last = nn.Conv2d(channels[0], 2, 1)

        def forward(self, x: Any) -> Any:
            x = self.first(x)
            kept = []
            for down in self.down:
                kept.append(x)
                x = down(self.pool(x))
            for up, merge in zip(self.up, self.merge, strict=True):
                x = merge(_joined(kept.pop(), up(x)))
            return self.last(x)

    return UNet()


def _c3d(kit: Kit, width: float) -> Any:
    nn, c = kit.nn, _scaled(width)
    layers: list[Any] = []
    ic = 3
    for step in (32, 1, 64, 2, 128, 128, 2, 256, 256, 2):
        if step < 8:
            layers.append(nn.MaxPool3d((step, 2, 2)))
            continue
        layers += [nn.Conv3d(ic, c(step), 3, padding=1, bias=False), nn.BatchNorm3d(c(step)), nn.ReLU()]
        ic = c(step)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(ic, 101))


NETS: dict[str, TrainingNet] = {
    "lenet5": TrainingNet(_lenet5, (1, 28, 28), (1, 28, 28), 32),
    "resnet18": TrainingNet(_resnet18, (3, 64, 64), (3, 64, 64), 8, 1000),
    "mobilenetv2": TrainingNet(_mobilenetv2, (3, 64, 64), (3, 64, 64), 8, 1000),
    "densenet121": TrainingNet(_densenet121, (3, 64, 64), (3, 64, 64), 8, 1000),
    "vgg": TrainingNet(_vgg, (3, 64, 64), (3, 32, 32), 8),
    "unet": TrainingNet(_unet, (3, 64, 64), (3, 32, 32), 8, 2, per_pixel=True),
    "c3d": TrainingNet(_c3d, (3, 8, 56, 56), (3, 8, 32, 32), 4, 101),
}


def build(name: str, nn: Any, width: float = 1.0) -> Any:
    """A network of torch.nn or cnncc.nn; width: of its channels, for tests."""
    return NETS[name].make(Kit(nn), width)
