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
ReLU6 = _plain("ReLU6", "clip", low=0.0, high=6.0, closed=False)
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
        super().__init__(low=min_val, high=max_val, closed=False)


class Softplus(Module):
    """torch.nn.Softplus: log(1 + exp(beta x)) / beta, and x where beta x is above the threshold."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        super().__init__()
        self.beta, self.threshold = beta, threshold

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if self.beta == 1 and self.threshold == 20:  # beyond, the difference is below the last place of float32
            return x._op("softplus", x)
        scaled = x * self.beta
        soft = x._op("softplus", scaled) / self.beta
        return x._op("where", x._op("greater", scaled, self.threshold), x, soft)


class LogSigmoid(Module):
    """torch.nn.LogSigmoid."""

    def forward(self, x: Tensor) -> Tensor:
        """log(1 / (1 + exp(-x))) = -softplus(-x)."""
        return -x._op("softplus", -x)


class Tanhshrink(Module):
    """torch.nn.Tanhshrink."""

    def forward(self, x: Tensor) -> Tensor:
        """x - tanh(x)."""
        return x - x.tanh()


class Threshold(Module):
    """torch.nn.Threshold: x above the threshold, otherwise the value."""

    def __init__(self, threshold: float, value: float, inplace: bool = False):
        super().__init__()
        self.threshold, self.value = threshold, value

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x._op("where", x._op("greater", x, self.threshold), x, x * 0.0 + self.value)


class Hardshrink(Module):
    """torch.nn.Hardshrink: 0 within [-lambda, lambda], otherwise x."""

    def __init__(self, lambd: float = 0.5):
        super().__init__()
        self.lambd = lambd

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x._op("where", x._op("greater", x._op("abs", x), self.lambd), x, x * 0.0)


class Softshrink(Module):
    """torch.nn.Softshrink: x moved towards 0 by lambda, and 0 within [-lambda, lambda]."""

    def __init__(self, lambd: float = 0.5):
        super().__init__()
        self.lambd = lambd

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x - x._op("clip", x, low=-float(self.lambd), high=float(self.lambd))


class GLU(Module):
    """torch.nn.GLU: the first half along `dim` times the sigmoid of the second."""

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        first, second = x.chunk(2, self.dim % x.ndim)
        return first * second.sigmoid()


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


class Softmin(Softmax):
    """torch.nn.Softmin: the softmax of -x."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return super().forward(-x)


class Softmax2d(Softmax):
    """torch.nn.Softmax2d: over the channels of [N, C, H, W]."""

    def __init__(self) -> None:
        super().__init__(1)


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
