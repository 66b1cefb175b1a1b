"""Optimizers under torch.optim's names: update rules of parameters, as graph operations."""

from cnncc.optim.base import Optimizer
from cnncc.optim.groups import Group
from cnncc.optim.sgd import SGD

__all__ = ["SGD", "Group", "Optimizer"]
