"""Segmentation: a small U-Net finds discs, squares and triangles in noise, pixel by pixel.

python examples/segment_shapes.py [epochs]

Prints the intersection over union of every class on images that were held back, and one image beside what was found.
"""

from __future__ import annotations

import sys

import numpy as np

from cnncc import nn, optim
from cnncc.nn.functional import cat
from cnncc.train import Flip, TrainStep, fit

SIZE, NAMES = 32, ("ground", "disc", "square", "triangle")


def shapes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [count, 1, 32, 32] of one to three shapes in noise, and the class [count, 32, 32] of every pixel."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:SIZE, :SIZE]
    labels = np.zeros((count, SIZE, SIZE), np.int64)
    for image in labels:
        for kind in rng.integers(1, 4, rng.integers(1, 4)):
            (r, c), s = rng.integers(6, SIZE - 6, 2), rng.integers(4, 8)
            dr, dc = row - r, column - c
            disc, square = dr**2 + dc**2 <= s**2, np.maximum(abs(dr), abs(dc)) <= 0.85 * s
            triangle = (abs(dr) <= s) & (2 * abs(dc) <= dr + s)
            image[(disc, square, triangle)[kind - 1]] = kind
    x = (labels > 0) + rng.normal(0, 0.25, labels.shape)
    return x[:, None].astype(np.float32), labels


def block(channels_in: int, channels: int) -> nn.Module:
    """Twice convolution, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
    )  # fmt: skip


class UNet(nn.Module):
    """Down twice, up twice, with what was there before going down beside what comes up (Ronneberger et al. 2015)."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.down1, self.down2, self.low = block(1, width), block(width, 2 * width), block(2 * width, 4 * width)
        self.up2, self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.join2, self.join1 = block(4 * width, 2 * width), block(2 * width, width)
        self.pool, self.head = nn.MaxPool2d(2), nn.Conv2d(width, len(NAMES), 1)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """x [N, 1, H, W] --> logits [N, 4, H, W]."""
        a = self.down1(x)
        b = self.down2(self.pool(a))
        b = self.join2(cat((self.up2(self.low(self.pool(b))), b), 1))
        return self.head(self.join1(cat((self.up1(b), a), 1)))


def main(epochs: int = 12, count: int = 600) -> list[float]:
    """Print and return the intersection over union of every class."""
    nn.manual_seed(0)
    step = TrainStep(UNet(), "cross_entropy", optim.Adam(lr=3e-3), metrics=["accuracy"])
    fit(step, shapes(count, 0), validation=shapes(100, 1), epochs=epochs, batch=20, progress="lines",
        augment=[Flip(target=True)])  # fmt: skip
    x, y = shapes(200, 2)
    found = step.predict(x).argmax(axis=1)
    both = [float(((found == k) & (y == k)).sum() / ((found == k) | (y == k)).sum()) for k in range(len(NAMES))]
    print("intersection over union: " + "  ".join(f"{n} {v:.3f}" for n, v in zip(NAMES, both, strict=True)))
    for noisy, line in zip(x[0, 0, ::2], found[0, ::2], strict=True):
        print("".join(".:+#"[int(v)] for v in np.clip(noisy, 0, 0.99) * 4) + "   " + "".join(".os^"[k] for k in line))
    return both


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
