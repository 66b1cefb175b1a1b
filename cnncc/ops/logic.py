"""Comparison, logic and selection, with numpy's broadcasting."""

from __future__ import annotations

from typing import Any

from cnncc.errors import GraphError
from cnncc.ir.dims import broadcast
from cnncc.ir.types import Type
from cnncc.ops.common import Gradients
from cnncc.ops.elementwise import A, B, binary, infer_same, unary
from cnncc.ops.registry import Arg, NoAttrs, Sample, define

_BOOL = "the result is bool"


def infer_compare(attrs: Any, *types: Type) -> Type:
    """Operands of one dtype broadcast to a bool result."""
    return infer_same(attrs, *types).with_(dtype="bool")


def infer_logic(attrs: Any, *types: Type) -> Type:
    """bool operands broadcast to a bool result."""
    result = infer_same(attrs, *types)
    if result.dtype != "bool":
        raise GraphError(f"operands must be bool, got {result.dtype}")
    return result


isnan = unary("isnan", lambda m, x: m.isnan(x), None, infer=infer_compare, no_grad=_BOOL, doc="whether x is NaN")
isinf = unary("isinf", lambda m, x: m.isinf(x), None, infer=infer_compare, no_grad=_BOOL, doc="whether x is infinite")

_INTS = (Arg((2, 3, 4), "i32", 0, 2), Arg((3, 1), "i32", 0, 2))
_BITS = (Arg((2, 3, 4), "bool"), Arg((3, 1), "bool"))
equal = binary(
    "equal",
    lambda m, x, y: m.equal(x, y),
    None,
    infer=infer_compare,
    no_grad=_BOOL,
    args=_INTS,
    commutative=True,
    doc="x == y",
)
not_equal = binary(
    "not_equal",
    lambda m, x, y: m.not_equal(x, y),
    None,
    infer=infer_compare,
    no_grad=_BOOL,
    args=_INTS,
    commutative=True,
    doc="x != y",
)
less = binary("less", lambda m, x, y: x < y, None, infer=infer_compare, no_grad=_BOOL, args=_INTS, doc="x < y")
less_equal = binary(
    "less_equal", lambda m, x, y: x <= y, None, infer=infer_compare, no_grad=_BOOL, args=_INTS, doc="x <= y"
)
greater = binary("greater", lambda m, x, y: x > y, None, infer=infer_compare, no_grad=_BOOL, args=_INTS, doc="x > y")
greater_equal = binary(
    "greater_equal", lambda m, x, y: x >= y, None, infer=infer_compare, no_grad=_BOOL, args=_INTS, doc="x >= y"
)
and_ = binary(
    "and",
    lambda m, x, y: m.logical_and(x, y),
    None,
    infer=infer_logic,
    no_grad=_BOOL,
    args=_BITS,
    commutative=True,
    doc="x and y",
)
or_ = binary(
    "or",
    lambda m, x, y: m.logical_or(x, y),
    None,
    infer=infer_logic,
    no_grad=_BOOL,
    args=_BITS,
    commutative=True,
    doc="x or y",
)
xor = binary(
    "xor",
    lambda m, x, y: m.not_equal(x, y),
    None,
    infer=infer_logic,
    no_grad=_BOOL,
    args=_BITS,
    commutative=True,
    doc="either x or y",
)
not_ = unary("not", lambda m, x: m.logical_not(x), None, infer=infer_logic, no_grad=_BOOL, arg=_BITS[0], doc="not x")


def _where_infer(attrs: NoAttrs, condition: Type, x: Type, y: Type) -> Type:
    if condition.dtype != "bool" or x.dtype != y.dtype:
        raise GraphError(f"where takes (bool, T, T), got ({condition.dtype}, {x.dtype}, {y.dtype})")
    return Type(x.dtype, broadcast([condition.shape, x.shape, y.shape]))


def _where_grad(g: Any) -> Gradients:
    """z = x where c, else y; each operand gets the gradient where it was taken."""
    zero = g.b.zeros_like(g.dy)
    c = g.inputs[0]
    return (None, g.b.where(c, g.dy, zero), g.b.where(c, zero, g.dy))


where = define(
    "where",
    ("condition", "x", "y"),
    infer=_where_infer,
    formula=lambda m, a, c, x, y: m.where(c, x, y),
    grad=_where_grad,
    samples=(Sample((Arg((3, 1), "bool"), A, B)),),
    doc="x where the condition holds, otherwise y",
)
