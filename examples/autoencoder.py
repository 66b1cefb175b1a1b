"""An autoencoder: strided convolutions squeeze a digit into eight numbers, transposed convolutions draw it again.

python examples/autoencoder.py [epochs]

Prints the error beside that of the best linear code of eight numbers (principal components), and a few digits with what
was drawn of them.
"""

from __future__ import annotations

import sys

import numpy as np

from cnncc import nn, optim
from cnncc.demo.train_digits import load_digits
from cnncc.optim.schedules import CosineAnnealingLR
from cnncc.train import TrainStep, fit

CODE = 8


class Autoencoder(nn.Module):
    """[N, 1, 8, 8] --> [N, 8] --> [N, 1, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(256, CODE),
        )  # fmt: skip
        self.grow = nn.Sequential(nn.Linear(CODE, 256), nn.ReLU())
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(64, 32, 3, 2, 1, output_padding=1), nn.ReLU(),
            nn.ConvTranspose2d(32, 1, 3, 2, 1, output_padding=1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """x as it comes out of its code."""
        return self.decoder(self.grow(self.encoder(x)).reshape(-1, 64, 2, 2))


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Training images, and what is to come out for them: the same."""
    images = load_digits()[0]
    return images, images


def principal_components(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Test images from their coordinates along the directions of most variance of the training images."""
    mean = train.mean(axis=0)
    _, _, directions = np.linalg.svd((train - mean).reshape(len(train), -1), full_matrices=False)
    basis = directions[:CODE]
    return ((test - mean).reshape(len(test), -1) @ basis.T @ basis).reshape(test.shape) + mean


def main(epochs: int = 30) -> tuple[float, float]:
    """Print and return the mean squared errors on test images: of the autoencoder, of principal components."""
    images, _, tests, _ = load_digits()
    nn.manual_seed(0)
    optimizer = optim.Adam(lr=3e-3)
    step = TrainStep(Autoencoder(), "mse", optimizer)
    fit(step, pairs(), epochs=epochs, schedule=CosineAnnealingLR(optimizer, epochs))
    drawn, linear = step.predict(tests), principal_components(images, tests)
    errors = float(((drawn - tests) ** 2).mean()), float(((linear - tests) ** 2).mean())
    print(f"mean squared error: autoencoder {errors[0]:.4f}, principal components {errors[1]:.4f}")
    for pictures in (tests[:8], drawn[:8]):
        for line in pictures[:, 0].clip(0, 0.99).transpose(1, 0, 2):
            print("  ".join("".join(" .:-=+*#"[int(v)] for v in part * 8) for part in line))
        print()
    return errors


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
