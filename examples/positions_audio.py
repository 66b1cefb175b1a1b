"""Sounds that are learnt at one place and heard at another: a convolutional network does, a dense one cannot.

python examples/positions_audio.py [epochs]

Each signal is noise with a short chirp in it, rising, falling or steady. In training it begins in the first third of
the signal, in one of the tests in the last third. Shared filters and a maximum over time do not care; weights of their
own for every place have never seen anything there.
"""

from __future__ import annotations

import sys

import numpy as np

import cnncc
from cnncc import nn, optim
from cnncc.train import fit

LENGTH, CHIRP = 240, 60
THIRDS = {"first": (0, 30), "last": (150, 180)}


def sounds(count: int, third: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Signals [count, 1, 240] and which chirp is in them: 0 rises, 1 falls, 2 is steady."""
    rng = np.random.default_rng(seed)
    x = 0.3 * rng.standard_normal((count, 1, LENGTH))
    y = rng.integers(0, 3, count)
    t = np.arange(CHIRP) / CHIRP
    for k, start in enumerate(rng.integers(*THIRDS[third], count)):
        low, high = ((3, 12), (12, 3), (7.5, 7.5))[y[k]]
        phase = 2 * np.pi * (low * t + (high - low) * t**2 / 2 + rng.random())
        x[k, 0, start : start + CHIRP] += np.sin(phase) * np.hanning(CHIRP)
    return x.astype(np.float32), y


def convolutional() -> nn.Module:
    """Two filter banks, then the maximum over time."""
    return nn.Sequential(
        nn.Conv1d(1, 16, 9, padding=4), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(4),
        nn.Conv1d(16, 32, 9, padding=4), nn.BatchNorm1d(32), nn.ReLU(),
        nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(32, 3),
    )  # fmt: skip


def dense() -> nn.Module:
    """240 samples --> 128 units --> 3 logits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(LENGTH, 128), nn.ReLU(), nn.Linear(128, 3))


def main(epochs: int = 12, count: int = 1500) -> dict[str, tuple[float, float]]:
    """Print and return the accuracies of both networks at both places."""
    results = {}
    tests = [sounds(500, third, seed) for third, seed in (("first", 1), ("last", 2))]
    for make in (dense, convolutional):
        nn.manual_seed(0)
        net = make()
        fit(net, sounds(count, "first", 0), epochs=epochs, optimizer=optim.Adam(lr=2e-3))
        exe = cnncc.compile(net.eval(), shapes={"x": ("N", 1, LENGTH)})
        here, there = (float((exe(x).argmax(axis=1) == y).mean()) for x, y in tests)
        results[make.__name__] = here, there
        print(f"{make.__name__:14} where it was trained {here:.3f}   elsewhere {there:.3f}   (by chance 0.333)")
    return results


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
