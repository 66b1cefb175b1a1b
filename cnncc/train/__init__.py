"""Training: forward, loss, backward and update as one compiled graph, and the loop around it."""

from cnncc.train.augment import Flip, Normalise, RandomCrop
from cnncc.train.fit import fit
from cnncc.train.history import Epoch, History
from cnncc.train.step import TrainStep
from cnncc.train.stopping import EarlyStopping

__all__ = ["EarlyStopping", "Epoch", "Flip", "History", "Normalise", "RandomCrop", "TrainStep", "fit"]
