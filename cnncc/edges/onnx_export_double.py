"""Activations for which ONNX Runtime has no f64 kernel, written in operations for which it has one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnncc.edges.onnx_export import Exporter
    from cnncc.ir.graph import Node


def _line(e: Exporter, node: Node, x: str, slope: float, offset: float) -> str:
    """min(max(slope x + offset, 0), 1)."""
    v = node.outputs[0]
    scaled = e.emit("Mul", x, e.number(slope, v))
    return str(e.emit("Clip", e.emit("Add", scaled, e.number(offset, v)), e.number(0, v), e.number(1, v)))


def _hard_sigmoid(e: Exporter, node: Node, x: str) -> Any:
    return _line(e, node, x, node.attrs.alpha, node.attrs.beta)


def _hard_swish(e: Exporter, node: Node, x: str) -> Any:
    return e.emit("Mul", x, _line(e, node, x, 1 / 6, 0.5))


def _softsign(e: Exporter, node: Node, x: str) -> Any:
    return e.emit("Div", x, e.emit("Add", e.emit("Abs", x), e.number(1, node.outputs[0])))


def _softplus(e: Exporter, node: Node, x: str) -> Any:
    """max(x, 0) + log(1 + exp(-|x|))."""
    v = node.outputs[0]
    rest = e.emit("Log", e.emit("Add", e.emit("Exp", e.emit("Neg", e.emit("Abs", x))), e.number(1, v)))
    return e.emit("Add", e.emit("Max", x, e.number(0, v)), rest)


def _mish(e: Exporter, node: Node, x: str) -> Any:
    return e.emit("Mul", x, e.emit("Tanh", _softplus(e, node, x)))


def _leaky_relu(e: Exporter, node: Node, x: str) -> Any:
    v = node.outputs[0]
    return e.emit("Where", e.emit("Less", x, e.number(0, v)), e.emit("Mul", x, e.number(node.attrs.alpha, v)), x)


def _exponential(e: Exporter, node: Node, x: str, scale: float, rate: float, gamma: float) -> Any:
    """gamma x where x >= 0, else gamma scale (exp(rate x) - 1)."""
    v = node.outputs[0]
    grown = e.emit("Sub", e.emit("Exp", e.emit("Mul", x, e.number(rate, v))), e.number(1, v))
    low = e.emit("Mul", grown, e.number(scale, v))
    y = e.emit("Where", e.emit("Less", x, e.number(0, v)), low, x)
    return y if gamma == 1 else e.emit("Mul", y, e.number(gamma, v))


def _thresholded_relu(e: Exporter, node: Node, x: str) -> Any:
    v = node.outputs[0]
    return e.emit("Where", e.emit("Greater", x, e.number(node.attrs.alpha, v)), x, e.number(0, v))


def _gelu(e: Exporter, node: Node, x: str) -> Any:
    """x (1 + erf(x / sqrt(2))) / 2, or by tanh: ONNX Runtime rounds the constants to f32."""
    v = node.outputs[0]
    if node.attrs.approximate:
        cube = e.emit("Mul", e.emit("Mul", x, x), e.emit("Mul", x, e.number(0.044715, v)))
        inner = e.emit("Tanh", e.emit("Mul", e.emit("Add", x, cube), e.number(math.sqrt(2 / math.pi), v)))
    else:
        inner = e.emit("Erf", e.emit("Mul", x, e.number(math.sqrt(0.5), v)))
    return e.emit("Mul", e.emit("Mul", x, e.number(0.5, v)), e.emit("Add", inner, e.number(1, v)))


DOUBLE: dict[str, Callable[..., Any]] = {
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Gelu": _gelu,
    "Softsign": _softsign,
    "Softplus": _softplus,
    "Mish": _mish,
    "LeakyRelu": _leaky_relu,
    "Elu": lambda e, node, x: _exponential(e, node, x, node.attrs.alpha, 1.0, 1.0),
    "Celu": lambda e, node, x: _exponential(e, node, x, node.attrs.alpha, 1 / node.attrs.alpha, 1.0),
    "Selu": lambda e, node, x: _exponential(e, node, x, node.attrs.alpha, 1.0, node.attrs.gamma),
    "ThresholdedRelu": _thresholded_relu,
}
