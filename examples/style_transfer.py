"""Style transfer: one picture drawn in the manner of another (Gatys et al. 2016), on small pictures made here.

python examples/style_transfer.py [steps] [folder]

What is trained is the picture itself. The features are three layers of random filters, which are enough for textures
(Ustyuzhaninov et al. 2016): content is the features, style their Gram matrices. Pictures are written to the folder.
"""

from __future__ import annotations

import sys

import numpy as np

from cnncc import nn, optim
from cnncc.train import TrainStep

SIZE = 48


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Content: a disc and a square on a slope. Style: slanted stripes of two colours. Both [1, 3, 48, 48] in [0, 1]."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    disc, square = (x - 0.35) ** 2 + (y - 0.4) ** 2 < 0.06, (abs(x - 0.7) < 0.15) & (abs(y - 0.7) < 0.15)
    content = np.stack([0.3 + 0.6 * disc, 0.2 + 0.5 * x, 0.3 + 0.6 * square])
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (5 * x + 3 * y))
    style = np.stack([wave, 0.6 * (1 - wave) + 0.2, 0.3 + 0.5 * np.sin(2 * np.pi * 4 * (x - y)) ** 2])
    return content[None].astype(np.float32), style[None].astype(np.float32)


class Picture(nn.Module):
    """The features of a picture that is a parameter: (content, Gram matrices). The filters stay as they are."""

    def __init__(self, start: np.ndarray):
        super().__init__()
        self.pixels = nn.Parameter(start.copy())
        self.layers = nn.ModuleList(nn.Conv2d(c, 32, 5, padding=2, bias=False) for c in (3, 32, 32))
        self.layers.requires_grad_(False)
        nn.manual_seed(0)
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, x: nn.Tensor) -> tuple[nn.Tensor, ...]:
        """x [N, 3, H, W] is added to the pixels: zeros, or a picture where those are zeros."""
        y, grams = x + x.trace.value(self.pixels), []
        for layer in self.layers:
            y = layer(y).relu()
            grams.append(y.flatten(2) @ y.flatten(2).transpose(1, 2) * (1 / SIZE**2))
        return (y, *grams)


def distance(b, outputs, targets):
    """Squared differences of content, and of all Gram matrices, weighted."""
    parts = [b.reduce_mean(b.square(b.sub(o, t)), keepdims=False) for o, t in zip(outputs, targets, strict=True)]
    return b.add(b.mul(parts[0], 0.05), b.add(parts[1], b.add(parts[2], parts[3])))


def main(steps: int = 200, folder: str = "") -> tuple[float, float]:
    """Transfer the style; print and return the distance of the Gram matrices to the style's at first and at last."""
    (content, style), nothing = pictures(), np.zeros((1, 3, SIZE, SIZE), np.float32)
    look = TrainStep(Picture(nothing), distance, optim.SGD(lr=0.0))
    wanted, manner, plain = look.predict(content)[0], look.predict(style)[1:], look.predict(content)[1:]
    step = TrainStep(Picture(content), distance, optim.Adam(lr=0.03))
    for _ in range(steps):
        step(nothing, (wanted, *manner))
    drawn = step.state_dict()["pixels"].clip(0, 1)
    grams = (plain, look.predict(drawn)[1:])
    first, last = (sum(float(((a - b) ** 2).mean()) for a, b in zip(g, manner, strict=True)) for g in grams)
    print(f"distance to the style {first:.4f} --> {last:.4f}")
    if folder:
        from matplotlib import image

        for name, picture in (("content", content), ("style", style), ("drawn", drawn)):
            image.imsave(f"{folder}/{name}.png", picture[0].transpose(1, 2, 0))
    return first, last


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:3])
