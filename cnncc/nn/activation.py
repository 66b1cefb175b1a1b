"""Activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cnncc.nn import init
from cnncc.nn.module import Module
from cnncc.nn.tensor import Tensor


class _Activation(Module):
    """An elementwise op with fixed attributes. `names` maps torch's argument names to the op's attributes."""

    op = ""

    def __init__(self, inplace: bool = False, **attributes: Any):
        super().__init__()
        self.attributes = attributes

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function to every element."""
        return x._op(self.op, x, **self.attributes)

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in self.attributes.items())


def _plain(name: str, op: str, **attributes: Any) -> type[_Activation]:
    def init_(self: _Activation, inplace: bool = False) -> None:
        _Activation.__init__(self, inplace, **attributes)

    return type(
        name, (_Activation,), {"op": op, "__init__": init_, "__doc__": f"torch.nn.{name}.", "__module__": __name__}
    )


ReLU = _plain("ReLU", "relu")
ReLU6 = _plain("ReLU6", "clip", low=0.0, high=6.0)
Sigmoid = _plain("Sigmoid", "sigmoid")
Tanh = _plain("Tanh", "tanh")
Hardswish = _plain("Hardswish", "hard_swish")
Hardsigmoid = _plain("Hardsigmoid", "hard_sigmoid")
SiLU = _plain("SiLU", "silu")
Mish = _plain("Mish", "mish")
Softsign = _plain("Softsign", "softsign")
SELU = _plain("SELU", "selu")


class LeakyReLU(_Activation):
    """torch.nn.LeakyReLU."""

    op = "leaky_relu"

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False):
        super().__init__(alpha=negative_slope)


class ELU(_Activation):
    """torch.nn.ELU."""

    op = "elu"

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        super().__init__(alpha=alpha)


class CELU(_Activation):
    """torch.nn.CELU."""

    op = "celu"

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        super().__init__(alpha=alpha)


class GELU(_Activation):
    """torch.nn.GELU."""

    op = "gelu"

    def __init__(self, approximate: str = "none"):
        super().__init__(approximate=approximate == "tanh")


class Hardtanh(_Activation):
    """torch.nn.Hardtanh."""

    op = "clip"

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False):
        super().__init__(low=min_val, high=max_val)


class Softplus(_Activation):
    """torch.nn.Softplus with beta = 1."""

    op = "softplus"


class Softmax(Module):
    """torch.nn.Softmax."""

    op = "softmax"

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Normalised exponentials along `dim`."""
        return x._op(self.op, x, axis=self.dim % x.ndim)


class LogSoftmax(Softmax):
    """torch.nn.LogSoftmax."""

    op = "log_softmax"


class PReLU(Module):
    """torch.nn.PReLU: one slope, or one per channel."""

    def __init__(self, num_parameters: int = 1, init: float = 0.25):
        super().__init__()
        self.weight = _full((num_parameters,), init)

    def forward(self, x: Tensor) -> Tensor:
        """x where it is positive, slope * x elsewhere."""
        slope = x.trace.value(self.weight)
        return x._op("prelu", x, slope.reshape((1, -1) + (1,) * (x.ndim - 2)) if x.ndim > 1 else slope)


_full: Callable[..., Any] = init.full
