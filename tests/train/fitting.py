"""A small problem, and a short run of `fit` on it, for the tests of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cnncc import nn, optim
from cnncc.train import TrainStep, fit

RNG = np.random.default_rng(0)
X = RNG.standard_normal((50, 6)).astype(np.float32)
Y = (X[:, :3].sum(1) > 0).astype(np.int64)
SGD = {"lr": 0.1, "momentum": 0.9}


def network() -> nn.Module:
    nn.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def mlp() -> nn.Module:
    nn.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))


def train(folder: Path | None = None, epochs: int = 4, **options):
    """A short run: 50 samples in batches of 16 (the last one is smaller), a falling rate."""
    if folder is not None:
        options |= {"checkpoint": folder / "run.npz"}
    step = TrainStep(mlp(), "cross_entropy", optim.SGD(**SGD), threads=1)
    if "scheduled" in options:
        options["schedule"] = options.pop("scheduled")(step.optimizer)
    defaults = {"batch": 16, "validation": (X[:20], Y[:20]), "schedule": lambda steps: 0.1 * 0.95**steps, "seed": 3}
    history = fit(step, (X, Y), epochs=epochs, **(defaults | options))
    return step, history


def bits(step: TrainStep) -> dict[str, bytes]:
    return {n: a.tobytes() for n, a in step.state_dict().items()}


def numbers(history) -> list:
    return [(e.epoch, e.step, e.lr, dict(e.train), dict(e.validation)) for e in history.epochs]
