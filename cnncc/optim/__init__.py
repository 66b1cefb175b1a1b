"""Optimizers under torch.optim's names: update rules of parameters, as graph operations."""

from cnncc.optim import schedules
from cnncc.optim.adagrad import Adagrad
from cnncc.optim.adam import Adam, AdamW
from cnncc.optim.base import Optimizer
from cnncc.optim.groups import Group
from cnncc.optim.rmsprop import RMSprop
from cnncc.optim.sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Group", "Optimizer", "RMSprop", "schedules"]
