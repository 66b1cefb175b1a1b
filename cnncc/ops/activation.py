"""Activation functions with their gradients; relu and clip are in elementwise.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cnncc.errors import GraphError
from cnncc.ops.common import Gradients
from cnncc.ops.elementwise import infer_float
from cnncc.ops.registry import Arg, NoAttrs, Op, Sample, define

X = Arg((2, 3, 4), low=-4.0, high=4.0)


@dataclass(frozen=True)
class AlphaAttrs:
    """alpha: the slope or scale of the negative part, or a threshold."""

    alpha: float = 1.0


@dataclass(frozen=True)
class LeakyReluAttrs:
    """alpha: the slope of the negative part."""

    alpha: float = 0.01


@dataclass(frozen=True)
class HardSigmoidAttrs:
    """min(max(alpha x + beta, 0), 1)."""

    alpha: float = 1.0 / 6.0
    beta: float = 0.5


@dataclass(frozen=True)
class SeluAttrs:
    """The fixed point of Klambauer et al. 2017, as ONNX rounds it."""

    alpha: float = 1.67326319217681884765625
    gamma: float = 1.05070102214813232421875


@dataclass(frozen=True)
class GeluAttrs:
    """approximate: by tanh (Hendrycks and Gimpel 2016) instead of erf."""

    approximate: bool = False


def _activation(
    name: str, formula: Callable[..., Any], grad: Callable[[Any], Gradients], doc: str, attrs: Any = None
) -> Op:
    """Declare an activation of one operand; `attrs` is a record of attributes for the samples."""
    record = NoAttrs() if attrs is None else attrs
    samples = (Sample((X,), record), Sample((Arg((7,), "f64"),), record), Sample((X,), type(record)()))
    return define(
        name, ("x",), attrs=type(record), infer=infer_float, formula=formula, grad=grad, samples=samples, doc=doc
    )


def _zero(m: Any, x: Any) -> Any:
    return m.like(0, x)


# -- saturating ------------------------------------------------------------------------------------------------------


def _sigmoid_grad(g: Any) -> Gradients:
    """dx = dy y (1 - y)."""
    y = g.outputs[0]
    return (g.b.mul(g.dy, g.b.mul(y, g.b.sub(1.0, y))),)


def _tanh_grad(g: Any) -> Gradients:
    """dx = dy (1 - y^2)."""
    y = g.outputs[0]
    return (g.b.mul(g.dy, g.b.sub(1.0, g.b.mul(y, y))),)


def _hard_sigmoid(m: Any, attrs: HardSigmoidAttrs, x: Any) -> Any:
    line = x * m.like(attrs.alpha, x) + m.like(attrs.beta, x)
    return m.minimum(m.maximum(line, m.like(0, x)), m.like(1, x))


def _hard_sigmoid_grad(g: Any) -> Gradients:
    """dx = alpha dy where 0 < y < 1, else 0."""
    y = g.outputs[0]
    inside = g.b.op("and", g.b.greater(y, 0.0), g.b.less(y, 1.0))
    return (g.b.where(inside, g.b.mul(g.dy, g.attrs.alpha), g.b.zeros_like(g.dy)),)


def _softsign_grad(g: Any) -> Gradients:
    """dx = dy / (1 + |x|)^2."""
    below = g.b.add(g.b.abs(g.inputs[0]), 1.0)
    return (g.b.div(g.dy, g.b.mul(below, below)),)


sigmoid = _activation("sigmoid", lambda m, a, x: m.sigmoid(x), _sigmoid_grad, "1 / (1 + exp(-x))")
tanh = _activation("tanh", lambda m, a, x: m.tanh(x), _tanh_grad, "hyperbolic tangent")
hard_sigmoid = _activation(
    "hard_sigmoid", _hard_sigmoid, _hard_sigmoid_grad, "min(max(alpha x + beta, 0), 1)", HardSigmoidAttrs(0.2, 0.4)
)
softsign = _activation(
    "softsign", lambda m, a, x: m.let(x, lambda v: v / (m.abs(v) + m.like(1, v))), _softsign_grad, "x / (1 + |x|)"
)

# -- gates: x times something between 0 and 1 ------------------------------------------------------------------------


def _silu_grad(g: Any) -> Gradients:
    """s = sigmoid(x); dx = dy (s + y (1 - s))."""
    s = g.b.sigmoid(g.inputs[0])
    return (g.b.mul(g.dy, g.b.add(s, g.b.mul(g.outputs[0], g.b.sub(1.0, s)))),)


def _hard_swish(m: Any, attrs: NoAttrs, x: Any) -> Any:
    def gate(v: Any) -> Any:
        line = v * m.like(1.0 / 6.0, v) + m.like(0.5, v)
        return v * m.minimum(m.maximum(line, m.like(0, v)), m.like(1, v))

    return m.let(x, gate)


def _hard_swish_grad(g: Any) -> Gradients:
    """dx = 0 for x <= -3, dy (x / 3 + 1/2) below 3, dy from there (as in PyTorch)."""
    x, b = g.inputs[0], g.b
    inner = b.mul(g.dy, b.add(b.mul(x, 1.0 / 3.0), 0.5))
    return (b.where(b.less_equal(x, -3.0), b.zeros_like(g.dy), b.where(b.less(x, 3.0), inner, g.dy)),)


_SQRT_HALF = 0.7071067811865476
_SQRT_2_OVER_PI = 0.7978845608028654
_CUBIC = 0.044715


def _gelu(m: Any, attrs: GeluAttrs, x: Any) -> Any:
    def gate(v: Any) -> Any:
        half, one = m.like(0.5, v), m.like(1, v)
        if not attrs.approximate:
            return v * half * (m.erf(v * m.like(_SQRT_HALF, v)) + one)
        inner = (v * v * m.like(_CUBIC, v) + one) * v * m.like(_SQRT_2_OVER_PI, v)
        return v * half * (m.tanh(inner) + one)

    return m.let(x, gate)


def _gelu_grad(g: Any) -> Gradients:
    """y = x P(x); dx = dy (P + x P'), P' = exp(-x^2 / 2) / sqrt(2 pi), or of the tanh form (1 - t^2) u' / 2."""
    x, b = g.inputs[0], g.b
    square = b.mul(x, x)
    if not g.attrs.approximate:
        p = b.mul(b.add(b.erf(b.mul(x, _SQRT_HALF)), 1.0), 0.5)
        slope = b.mul(b.exp(b.mul(square, -0.5)), 0.3989422804014327)
    else:
        u = b.mul(b.mul(b.add(b.mul(square, _CUBIC), 1.0), x), _SQRT_2_OVER_PI)
        t = b.tanh(u)
        p = b.mul(b.add(t, 1.0), 0.5)
        du = b.mul(b.add(b.mul(square, 3 * _CUBIC), 1.0), 0.5 * _SQRT_2_OVER_PI)
        slope = b.mul(b.sub(1.0, b.mul(t, t)), du)
    return (b.mul(g.dy, b.add(p, b.mul(x, slope))),)


def _softplus(m: Any, x: Any) -> Any:
    """max(x, 0) + log(1 + exp(-|x|))."""
    return m.let(x, lambda v: m.maximum(v, m.like(0, v)) + m.log1p(m.exp(-m.abs(v))))


def _mish_grad(g: Any) -> Gradients:
    """t = tanh(softplus(x)); dx = dy (t + x (1 - t^2) sigmoid(x))."""
    x, b = g.inputs[0], g.b
    t = b.tanh(b.softplus(x))
    return (b.mul(g.dy, b.add(t, b.mul(b.mul(x, b.sigmoid(x)), b.sub(1.0, b.mul(t, t))))),)


silu = _activation("silu", lambda m, a, x: m.let(x, lambda v: v * m.sigmoid(v)), _silu_grad, "x sigmoid(x)")
hard_swish = _activation("hard_swish", _hard_swish, _hard_swish_grad, "x min(max(x / 6 + 1/2, 0), 1)")
gelu = _activation("gelu", _gelu, _gelu_grad, "x times the normal distribution's P(x)", GeluAttrs(True))
mish = _activation(
    "mish", lambda m, a, x: m.let(x, lambda v: v * m.tanh(_softplus(m, v))), _mish_grad, "x tanh(softplus(x))"
)

# -- rectifiers ------------------------------------------------------------------------------------------------------


def _leaky(m: Any, attrs: LeakyReluAttrs, x: Any) -> Any:
    return m.let(x, lambda v: m.where(v > _zero(m, v), v, v * m.like(attrs.alpha, v)))


def _leaky_grad(g: Any) -> Gradients:
    """dx = dy where x > 0, else alpha dy."""
    return (g.b.where(g.b.greater(g.inputs[0], 0.0), g.dy, g.b.mul(g.dy, g.attrs.alpha)),)


def _exponential(m: Any, x: Any, alpha: float, rate: float, gamma: float) -> Any:
    """gamma x where x > 0, else gamma alpha (exp(rate x) - 1)."""

    def parts(v: Any) -> Any:
        below = m.expm1(v if rate == 1 else v * m.like(rate, v)) * m.like(gamma * alpha, v)
        return m.where(v > _zero(m, v), v if gamma == 1 else v * m.like(gamma, v), below)

    return m.let(x, parts)


def _exponential_grad(
    alpha: Callable[[Any], float], rate: Callable[[Any], float], gamma: Callable[[Any], float]
) -> Any:
    def rule(g: Any) -> Gradients:
        """dx = gamma dy where x > 0, else rate dy (y + gamma alpha)."""
        a, b = g.attrs, g.b
        scale = gamma(a)
        above = g.dy if scale == 1 else b.mul(g.dy, scale)
        below = b.mul(b.mul(g.dy, rate(a)), b.add(g.outputs[0], scale * alpha(a)))
        return (b.where(b.greater(g.inputs[0], 0.0), above, below),)

    return rule


def _threshold_grad(g: Any) -> Gradients:
    """dx = dy where x > alpha, else 0."""
    return (g.b.where(g.b.greater(g.inputs[0], g.attrs.alpha), g.dy, g.b.zeros_like(g.dy)),)


def _one(attrs: Any) -> float:
    return 1.0


def _alpha(attrs: Any) -> float:
    return float(attrs.alpha)


def _softplus_grad(g: Any) -> Gradients:
    """dx = dy sigmoid(x)."""
    return (g.b.mul(g.dy, g.b.sigmoid(g.inputs[0])),)


leaky_relu = _activation("leaky_relu", _leaky, _leaky_grad, "x where x > 0, else alpha x", LeakyReluAttrs(0.3))
elu = _activation(
    "elu",
    lambda m, a, x: _exponential(m, x, a.alpha, 1.0, 1.0),
    _exponential_grad(_alpha, _one, _one),
    "x where x > 0, else alpha (exp(x) - 1)",
    AlphaAttrs(0.7),
)
selu = _activation(
    "selu",
    lambda m, a, x: _exponential(m, x, a.alpha, 1.0, a.gamma),
    _exponential_grad(_alpha, _one, lambda a: float(a.gamma)),
    "gamma x where x > 0, else gamma alpha (exp(x) - 1)",
    SeluAttrs(2.0, 3.0),
)
celu = _activation(
    "celu",
    lambda m, a, x: _exponential(m, x, a.alpha, 1.0 / a.alpha, 1.0),
    _exponential_grad(_alpha, lambda a: 1.0 / a.alpha, _one),
    "x where x > 0, else alpha (exp(x / alpha) - 1)",
    AlphaAttrs(0.7),
)
softplus = _activation("softplus", lambda m, a, x: _softplus(m, x), _softplus_grad, "log(1 + exp(x))")
thresholded_relu = _activation(
    "thresholded_relu",
    lambda m, a, x: m.let(x, lambda v: m.where(v > m.like(a.alpha, v), v, _zero(m, v))),
    _threshold_grad,
    "x where x > alpha, else 0",
    AlphaAttrs(0.6),
)


def _prelu_infer(attrs: NoAttrs, x: Any, slope: Any) -> Any:
    result = infer_float(attrs, x, slope)
    if result.shape != x.shape:
        raise GraphError(f"slope must broadcast to the shape of x, got {slope} for {x}")
    return result


def _prelu_grad(g: Any) -> Gradients:
    """dx = dy where x > 0, else slope dy; dslope = x dy where x <= 0, else 0."""
    x, slope = g.inputs
    above = g.b.greater(x, 0.0)
    dx = g.b.where(above, g.dy, g.b.mul(g.dy, slope)) if g.needs(0) else None
    return dx, g.b.where(above, g.b.zeros_like(g.dy), g.b.mul(g.dy, x)) if g.needs(1) else None


prelu = define(
    "prelu",
    ("x", "slope"),
    infer=_prelu_infer,
    formula=lambda m, a, x, slope: m.let(x, lambda v: m.where(v > _zero(m, v), v, v * slope)),
    grad=_prelu_grad,
    samples=(Sample((X, Arg((3, 1)))), Sample((X, Arg((1,))))),
    doc="x where x > 0, else slope x; slope broadcasts as in numpy",
)
