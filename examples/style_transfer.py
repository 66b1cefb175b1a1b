"""Style transfer: one picture drawn in the manner of another (Gatys et al. 2016), on small pictures made here.

python examples/style_transfer.py [steps] [folder]

What is trained is the picture itself, by a training step whose only parameter it is. The features are three layers of
random filters, which are enough for textures (Ustyuzhaninov et al. 2016): content is the features themselves, style
their Gram matrix, which says what goes together with what, but not where. With a folder the three pictures are written.
"""

from __future__ import annotations

import sys
from pathlib import Path

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
        for k, layer in enumerate(self.layers):
            w = layer.weight
            w.data = np.random.default_rng(k).normal(0, (2 / w.data[0].size) ** 0.5, w.shape).astype(np.float32)

    def forward(self, x: nn.Tensor) -> tuple[nn.Tensor, ...]:
        """x [N, 3, H, W] is added to the pixels: zeros, or a picture where those are zeros."""
        y, grams = x + x.trace.value(self.pixels), []
        for layer in self.layers:
            y = layer(y).relu()
            flat = y.flatten(2)
            grams.append(flat @ flat.transpose(1, 2) * (1 / SIZE**2))
        return (y, *grams)


def distance(b, outputs, targets):
    """Squared differences of content, and of all Gram matrices, weighted."""
    parts = [b.reduce_mean(b.square(b.sub(o, t)), keepdims=False) for o, t in zip(outputs, targets, strict=True)]
    return b.add(b.mul(parts[0], 0.05), b.add(parts[1], b.add(parts[2], parts[3])))


def main(steps: int = 200, folder: str = "") -> tuple[float, float]:
    """Transfer the style; print and return the distance of the Gram matrices to the style's at first and at last."""
    content, style = pictures()
    nothing = np.zeros_like(content)
    look = TrainStep(Picture(nothing), distance, optim.SGD(lr=0.0))
    wanted, manner, plain = look.predict(content)[0], look.predict(style)[1:], look.predict(content)[1:]
    optimizer = optim.Adam(lr=0.03)
    step = TrainStep(Picture(content), distance, optimizer)
    for k in range(steps):
        loss = step(nothing, (wanted, *manner))["loss"]
        if k % max(steps // 5, 1) == 0:
            print(f"step {k:4}  loss {loss:.4f}")
    drawn = step.state_dict()["pixels"].clip(0, 1)
    now = look.predict(drawn)
    first, last = (sum(float(((a - b) ** 2).mean()) for a, b in zip(g, manner, strict=True)) for g in (plain, now[1:]))
    print(f"distance to the style {first:.4f} --> {last:.4f}")
    if folder:
        from matplotlib import image

        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, picture in (("content", content), ("style", style), ("drawn", drawn)):
            image.imsave(Path(folder) / f"{name}.png", picture[0].transpose(1, 2, 0))
    return first, last


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:3])
