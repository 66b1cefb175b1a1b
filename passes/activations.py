"""Rules of canonicalize: activations that a file spells out as arithmetic.

GELU is x P(x) with the normal distribution's P(x) = (1 + erf(x / sqrt(2))) / 2, or by tanh (Hendrycks and Gimpel,
2016). ONNX has had the operator since opset 20; exporters before write the formula, in one of a few orders. As one
operation its constants are known to the compiler (a division by one becomes a product), and it runs on padded blocks.
"""

from __future__ import annotations

from collections.abc import Callable

from cnncc.builder import Builder
from cnncc.ir.graph import Value
from cnncc.passes.rules import Decline, Rule, rule

_ARGUMENTS = ("div(x, 1.4142135623730951)", "mul(x, 0.7071067811865476)")
_ORDERS = ("mul(mul(x, {gate}), 0.5)", "mul(mul(x, 0.5), {gate})", "mul(x, mul({gate}, 0.5))")
_INNER = "mul(add(x, mul(mul(mul(x, x), x), 0.044715)), 0.7978845608028654)"


def _gelu_rules(gates: tuple[str, ...], function: Callable[..., Value | Decline]) -> tuple[Rule, ...]:
    """A rewrite for every order of the product x gate / 2."""
    return tuple(rule(order.format(gate=gate))(function) for order in _ORDERS for gate in gates)


def gelu_by_erf(b: Builder, x: Value) -> Value | Decline:
    """x (erf(x / sqrt(2)) + 1) / 2 --> gelu(x)."""
    return _gelu(b, x, approximate=False)


def gelu_by_tanh(b: Builder, x: Value) -> Value | Decline:
    """x (tanh((x + 0.044715 x^3) sqrt(2 / pi)) + 1) / 2 --> gelu(x) by tanh."""
    return _gelu(b, x, approximate=True)


def _gelu(b: Builder, x: Value, approximate: bool) -> Value | Decline:
    if x.type.dtype not in ("f32", "f64"):
        return Decline("rounding of narrow types would differ")
    return b.gelu(x, approximate=approximate)


RULES: tuple[Rule, ...] = (
    *_gelu_rules(tuple(f"add(erf({argument}), 1)" for argument in _ARGUMENTS), gelu_by_erf),
    *_gelu_rules((f"add(tanh({_INNER}), 1)",), gelu_by_tanh),
)
