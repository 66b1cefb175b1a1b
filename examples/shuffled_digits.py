"""Which networks care where pixels are? Digits, and the same digits with their pixels shuffled by one permutation.

python examples/shuffled_digits.py [epochs]

A dense network has no notion of neighbours: it learns both equally well. A convolutional network bets that near pixels
belong together; shuffled, they do not, and it loses accuracy.
"""

from __future__ import annotations

import sys

import numpy as np

import cnncc
from cnncc import nn, optim
from cnncc.demo.train_digits import load_digits
from cnncc.optim.schedules import CosineAnnealingLR
from cnncc.train import fit


def dense() -> nn.Module:
    """64 pixels --> 64 units --> 10 logits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def convolutional() -> nn.Module:
    """Features of 5x5 pixels, and how much there is of each in the image."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def accuracy(net: nn.Module, epochs: int, images: np.ndarray, tests: np.ndarray) -> float:
    """Train on some images and labels as they stand in the data set; the share of test images that are right."""
    _, labels, _, test_labels = load_digits()
    optimizer = optim.SGD(lr=0.05, momentum=0.9, weight_decay=1e-4)
    fit(net, (images, labels), epochs=epochs, optimizer=optimizer, schedule=CosineAnnealingLR(optimizer, epochs))
    exe = cnncc.compile(net.eval(), shapes={"x": ("N", 1, 8, 8)})
    return float((exe(tests).argmax(axis=1) == test_labels).mean())


def main(epochs: int = 30) -> dict[str, tuple[float, float]]:
    """Print and return the accuracies of both networks on both kinds of images."""
    images, _, tests, _ = load_digits()
    order = np.random.default_rng(1).permutation(64)
    shuffled, shuffled_tests = (a.reshape(-1, 64)[:, order].reshape(-1, 1, 8, 8) for a in (images, tests))
    results = {}
    for make in (dense, convolutional):
        rows = []
        for x, t in ((images, tests), (shuffled, shuffled_tests)):
            nn.manual_seed(0)
            rows.append(accuracy(make(), epochs, x, t))
        results[make.__name__] = rows[0], rows[1]
        print(f"{make.__name__:14} digits {rows[0]:.4f}   shuffled {rows[1]:.4f}   lost {rows[0] - rows[1]:+.4f}")
    return results


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
