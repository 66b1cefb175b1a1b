"""Train a convolutional network on scikit-learn's digits, until a tenth of the training data says that it is enough.

python examples/train_digits.py [epochs]        (the same from a file: cnncc train examples/train_digits.toml)

Prints an epoch a line, and the accuracy on 397 images that were held back: at least 98.5 percent.
"""

from __future__ import annotations

import sys

import numpy as np

import cnncc
from cnncc import nn, optim
from cnncc.demo.train_digits import load_digits
from cnncc.optim.schedules import CosineAnnealingLR
from cnncc.train import RandomCrop, fit


def network() -> nn.Module:
    """Images [N, 1, 8, 8] --> logits [N, 10]."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


def training_images() -> tuple[np.ndarray, np.ndarray]:
    """1,400 images and their labels."""
    return load_digits()[:2]


def test_images() -> tuple[np.ndarray, np.ndarray]:
    """The other 397."""
    return load_digits()[2:]


def main(epochs: int = 40) -> float:
    """Train, and return the accuracy on the test images."""
    nn.manual_seed(0)
    optimizer = optim.SGD(lr=0.05, momentum=0.9, weight_decay=5e-4)
    history = fit(
        network(), training_images(), validation=0.1, epochs=epochs, batch=32, optimizer=optimizer,
        schedule=CosineAnnealingLR(optimizer, epochs), augment=[RandomCrop(1)], early_stopping=10, progress="lines",
    )  # fmt: skip
    print(f"best epoch {history.best}; stopped by {history.stopped}")
    exe = cnncc.compile(history.model.eval(), shapes={"x": ("N", 1, 8, 8)})
    images, labels = test_images()
    accuracy = float((exe(images).argmax(axis=1) == labels).mean())
    print(f"test accuracy {accuracy:.4f}")
    return accuracy


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
