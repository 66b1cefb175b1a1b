"""Train a convolutional network on scikit-learn's digits; the training step is one compiled graph.

python examples/train_digits.py [epochs]
"""

from __future__ import annotations

import sys

import numpy as np

import cnncc
from cnncc import nn, optim
from cnncc.demo.train_digits import load_digits
from cnncc.train import TrainStep

BATCH = 64


def main(epochs: int = 5) -> float:
    """Print the loss of every epoch and the accuracy on 397 images that were held back; returns that."""
    images, labels, test_images, test_labels = load_digits()
    nn.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    optimizer = optim.SGD(lr=0.1, momentum=0.9)
    step = TrainStep(net, loss="cross_entropy", optimizer=optimizer)
    rng = np.random.default_rng(0)
    for epoch in range(epochs):
        order = rng.permutation(len(images))
        batches = np.split(order, range(BATCH, len(order), BATCH))  # the last is smaller: no second compilation
        losses = [step(images[part], labels[part])["loss"] for part in batches]
        optimizer.lr *= 0.9  # no second compilation either
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}")
    exe = cnncc.compile(step.sync().eval(), shapes={"x": ("N", 1, 8, 8)})
    accuracy = float((exe(test_images).argmax(axis=1) == test_labels).mean())
    print(f"test accuracy {accuracy:.4f}")
    return accuracy


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
