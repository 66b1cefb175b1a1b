"""Layers and modules under torch.nn's names, with its argument order, defaults and initialisation."""

from cnncc.nn.activation import (
    CELU,
    ELU,
    GELU,
    SELU,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Softsign,
    Tanh,
)
from cnncc.nn.containers import ModuleList, Sequential
from cnncc.nn.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    LocallyConnected1d,
    LocallyConnected2d,
)
from cnncc.nn.layers import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Dropout,
    Flatten,
    GroupNorm,
    Identity,
    LayerNorm,
    Linear,
    LocalResponseNorm,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    Upsample,
    ZeroPad2d,
)
from cnncc.nn.module import Module, Parameter, manual_seed
from cnncc.nn.tensor import Tensor
from cnncc.nn.tracing import trace, traced

__all__ = [name for name in dir() if name[0].isupper()] + ["manual_seed", "trace", "traced"]
