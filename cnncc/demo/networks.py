"""The two networks of the demo, in cnncc.nn."""

from __future__ import annotations

import itertools

from cnncc import nn


class LeNet(nn.Module):
    """A LeNet-5 for 8 x 8 digits: two convolutions, two poolings, two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """x [N, 1, 8, 8] --> logits [N, 10]."""
        logits: nn.Tensor = self.classifier(self.features(x))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection (He et al. 2016)."""

    def __init__(self, width_in: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.downsample = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """relu(f(x) + x)."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        z: nn.Tensor = self.relu(y + self.downsample(x))
        return z


class ResNet18(nn.Module):
    """ResNet-18 under torchvision's names."""

    def __init__(self, classes: int = 1000):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = (64, 64, 128, 256, 512)
        for k, (width_in, width) in enumerate(itertools.pairwise(widths)):
            stride = 1 if k == 0 else 2
            setattr(
                self, f"layer{k + 1}", nn.Sequential(BasicBlock(width_in, width, stride), BasicBlock(width, width, 1))
            )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, classes)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """x [N, 3, H, W] --> logits [N, classes]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for k in range(1, 5):
            x = getattr(self, f"layer{k}")(x)
        logits: nn.Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits
