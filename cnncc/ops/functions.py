"""Elementary functions that networks use rarely: powers, trigonometric and hyperbolic functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cnncc.ops.common import Gradients
from cnncc.ops.elementwise import infer_same, unary
from cnncc.ops.registry import Arg

_INNER = Arg((2, 3, 4), low=-0.9, high=0.9)
_ABOVE = Arg((2, 3, 4), low=1.1, high=4.0)
_POSITIVE = Arg((2, 3, 4), low=0.5, high=2.0)


def _over(below: Callable[[Any, Any], Any]) -> Callable[[Any], Gradients]:
    """dx = dy / below(b, x)."""
    return lambda g: (g.b.div(g.dy, below(g.b, g.inputs[0])),)


def _one_minus_square(b: Any, x: Any) -> Any:
    return b.sub(1.0, b.mul(x, x))


def _one_plus_square(b: Any, x: Any) -> Any:
    return b.add(b.mul(x, x), 1.0)


def _reciprocal_grad(g: Any) -> Gradients:
    """y = 1 / x; dx = -dy y^2."""
    y = g.outputs[0]
    return (g.b.neg(g.b.mul(g.dy, g.b.mul(y, y))),)


def _tan_grad(g: Any) -> Gradients:
    """y = tan x; dx = dy (1 + y^2)."""
    return (g.b.mul(g.dy, _one_plus_square(g.b, g.outputs[0])),)


reciprocal = unary("reciprocal", lambda m, x: m.like(1, x) / x, _reciprocal_grad, arg=_POSITIVE, doc="1 / x")
square = unary(
    "square",
    lambda m, x: m.let(x, lambda v: v * v),
    lambda g: (g.b.mul(g.dy, g.b.mul(g.inputs[0], 2.0)),),
    infer=infer_same,
    doc="x^2",
)
log1p = unary("log1p", lambda m, x: m.log1p(x), _over(lambda b, x: b.add(x, 1.0)), arg=_INNER, doc="log(1 + x)")
expm1 = unary("expm1", lambda m, x: m.expm1(x), lambda g: (g.b.mul(g.dy, g.b.add(g.outputs[0], 1.0)),), doc="e^x - 1")
tan = unary("tan", lambda m, x: m.tan(x), _tan_grad, doc="tangent")
asin = unary(
    "asin", lambda m, x: m.asin(x), _over(lambda b, x: b.sqrt(_one_minus_square(b, x))), arg=_INNER, doc="inverse sine"
)
acos = unary(
    "acos",
    lambda m, x: m.acos(x),
    _over(lambda b, x: b.neg(b.sqrt(_one_minus_square(b, x)))),
    arg=_INNER,
    doc="inverse cosine",
)
atan = unary("atan", lambda m, x: m.atan(x), _over(_one_plus_square), doc="inverse tangent")
sinh = unary("sinh", lambda m, x: m.sinh(x), lambda g: (g.b.mul(g.dy, g.b.cosh(g.inputs[0])),), doc="hyperbolic sine")
cosh = unary("cosh", lambda m, x: m.cosh(x), lambda g: (g.b.mul(g.dy, g.b.sinh(g.inputs[0])),), doc="hyperbolic cosine")
asinh = unary(
    "asinh", lambda m, x: m.asinh(x), _over(lambda b, x: b.sqrt(_one_plus_square(b, x))), doc="inverse hyperbolic sine"
)
acosh = unary(
    "acosh",
    lambda m, x: m.acosh(x),
    _over(lambda b, x: b.sqrt(b.sub(b.mul(x, x), 1.0))),
    arg=_ABOVE,
    doc="inverse hyperbolic cosine",
)
atanh = unary("atanh", lambda m, x: m.atanh(x), _over(_one_minus_square), arg=_INNER, doc="inverse hyperbolic tangent")
