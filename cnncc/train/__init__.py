"""Training: forward, loss, backward and update as one compiled graph."""

from cnncc.train.step import TrainStep

__all__ = ["TrainStep"]
