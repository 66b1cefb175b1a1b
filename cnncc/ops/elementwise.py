"""Elementwise arithmetic, rounding and casts, with numpy's broadcasting; comparison and logic are in logic.py.

Gradient rules give the gradient at the broadcast shape; the driver sums it back to each operand's own shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cnncc.errors import GraphError
from cnncc.ir.dims import broadcast
from cnncc.ir.dtype import NUMPY, is_float
from cnncc.ir.graph import Value
from cnncc.ir.types import Type
from cnncc.ops.registry import Arg, NoAttrs, Op, Sample, define

Gradients = Sequence["Value | None"]
A = Arg((2, 3, 4))
B = Arg((3, 1))


def infer_same(attrs: Any, *types: Type) -> Type:
    """Operands of one dtype broadcast to the result."""
    dtypes = {t.dtype for t in types}
    if len(dtypes) != 1:
        raise GraphError(f"operands must have one dtype, got {' and '.join(sorted(dtypes))}; insert a cast")
    return Type(types[0].dtype, broadcast([t.shape for t in types]))


def infer_float(attrs: Any, *types: Type) -> Type:
    """Floating-point operands of one dtype broadcast to the result."""
    result = infer_same(attrs, *types)
    if not is_float(result.dtype):
        raise GraphError(f"operands must be floating point, got {result.dtype}")
    return result


def unary(
    name: str,
    formula: Callable[..., Any],
    grad: Callable[[Any], Gradients] | None,
    *,
    infer: Callable[..., Type] = infer_float,
    no_grad: str = "",
    arg: Arg = A,
    doc: str = "",
    smooth: bool = True,
) -> Op:
    """Declare an elementwise op of one operand and no attributes."""
    samples = (Sample((arg,), NoAttrs(), smooth), Sample((Arg((7,), arg.dtype, arg.low, arg.high),), NoAttrs(), smooth))
    return define(
        name,
        ("x",),
        infer=infer,
        formula=lambda m, a, x: formula(m, x),
        grad=grad,
        no_grad=no_grad,
        samples=samples,
        doc=doc,
    )


def binary(
    name: str,
    formula: Callable[..., Any],
    grad: Callable[[Any], Gradients] | None,
    *,
    infer: Callable[..., Type] = infer_same,
    no_grad: str = "",
    args: tuple[Arg, Arg] = (A, B),
    commutative: bool = False,
    doc: str = "",
    smooth: bool = True,
) -> Op:
    """Declare an elementwise op of two operands and no attributes."""
    samples = (Sample(args, NoAttrs(), smooth), Sample((args[1], args[1]), NoAttrs(), smooth))
    return define(
        name,
        ("x", "y"),
        infer=infer,
        formula=lambda m, a, x, y: formula(m, x, y),
        grad=grad,
        no_grad=no_grad,
        samples=samples,
        commutative=commutative,
        doc=doc,
    )


# -- arithmetic ------------------------------------------------------------------------------------------------------

add = binary("add", lambda m, x, y: x + y, lambda g: (g.dy, g.dy), commutative=True, doc="x + y")
sub = binary("sub", lambda m, x, y: x - y, lambda g: (g.dy, g.b.neg(g.dy)), doc="x - y")


def _mul_grad(g: Any) -> Gradients:
    """z = x y; dx = y dz, dy = x dz."""
    x, y = g.inputs
    return (g.b.mul(g.dy, y) if g.needs(0) else None, g.b.mul(g.dy, x) if g.needs(1) else None)


def _div_grad(g: Any) -> Gradients:
    """z = x / y; dx = dz / y, dy = -dz z / y."""
    _, y = g.inputs
    dx = g.b.div(g.dy, y)
    return (dx, g.b.neg(g.b.mul(dx, g.outputs[0])) if g.needs(1) else None)


def _pow_grad(g: Any) -> Gradients:
    """z = x ** y; dx = dz y x ** (y - 1), dy = dz z log x."""
    x, y = g.inputs
    dx = g.b.mul(g.dy, g.b.mul(y, g.b.pow(x, g.b.sub(y, 1.0)))) if g.needs(0) else None
    dy = g.b.mul(g.dy, g.b.mul(g.outputs[0], g.b.log(x))) if g.needs(1) else None
    return (dx, dy)


mul = binary("mul", lambda m, x, y: x * y, _mul_grad, commutative=True, doc="x y")
POSITIVE = (Arg((2, 3, 4), low=0.5, high=2.0), Arg((3, 1), low=0.5, high=2.0))
div = binary("div", lambda m, x, y: m.divide(x, y), _div_grad, args=POSITIVE, doc="x / y; integers towards zero")
pow_ = binary("pow", lambda m, x, y: m.power(x, y), _pow_grad, infer=infer_float, args=POSITIVE, doc="x ** y")


def _select_grad(condition: str) -> Callable[[Any], Gradients]:
    def rule(g: Any) -> Gradients:
        """z = max(x, y) (min likewise); the gradient goes to the operand that was taken, to x at a tie."""
        x, y = g.inputs
        taken = g.b.op(condition, x, y)
        zero = g.b.zeros_like(g.dy)
        return (g.b.where(taken, g.dy, zero), g.b.where(taken, zero, g.dy))

    return rule


max_ = binary("max", lambda m, x, y: m.maximum(x, y), _select_grad("greater_equal"), commutative=True, doc="max(x, y)")
min_ = binary("min", lambda m, x, y: m.minimum(x, y), _select_grad("less_equal"), commutative=True, doc="min(x, y)")

neg = unary("neg", lambda m, x: -x, lambda g: (g.b.neg(g.dy),), infer=infer_same, doc="-x")
abs_ = unary(
    "abs", lambda m, x: m.abs(x), lambda g: (g.b.mul(g.dy, g.b.sign(g.inputs[0])),), infer=infer_same, doc="|x|"
)
exp = unary("exp", lambda m, x: m.exp(x), lambda g: (g.b.mul(g.dy, g.outputs[0]),), doc="e ** x")
log = unary(
    "log", lambda m, x: m.log(x), lambda g: (g.b.div(g.dy, g.inputs[0]),), arg=POSITIVE[0], doc="natural logarithm"
)
sqrt = unary(
    "sqrt",
    lambda m, x: m.sqrt(x),
    lambda g: (g.b.div(g.dy, g.b.mul(g.outputs[0], 2.0)),),
    arg=POSITIVE[0],
    doc="square root",
)
sin = unary("sin", lambda m, x: m.sin(x), lambda g: (g.b.mul(g.dy, g.b.cos(g.inputs[0])),), doc="sine")
cos = unary("cos", lambda m, x: m.cos(x), lambda g: (g.b.neg(g.b.mul(g.dy, g.b.sin(g.inputs[0]))),), doc="cosine")


def _erf_grad(g: Any) -> Gradients:
    """y = erf(x); dx = dy 2 / sqrt(pi) exp(-x^2)."""
    (x,) = g.inputs
    return (g.b.mul(g.dy, g.b.mul(g.b.exp(g.b.neg(g.b.mul(x, x))), 1.1283791670955126)),)


erf = unary("erf", lambda m, x: m.erf(x), _erf_grad, doc="error function")


def no_gradient(g: Any) -> Gradients:
    """The result does not depend on the operands, almost everywhere: all gradients are zero."""
    return (None,) * len(g.inputs)


floor = unary("floor", lambda m, x: m.floor(x), no_gradient, doc="largest integer not above x")
ceil = unary("ceil", lambda m, x: m.ceil(x), no_gradient, doc="smallest integer not below x")
round_ = unary("round", lambda m, x: m.round(x), no_gradient, doc="nearest integer, halves to even")
stop_gradient = unary(
    "stop_gradient", lambda m, x: x, no_gradient, infer=infer_same, smooth=False, doc="x, as a constant: no gradient"
)


def _sign(m: Any, x: Any) -> Any:
    def parts(v: Any) -> Any:
        zero, one = m.like(0, v), m.like(1, v)
        return m.where(v > zero, one, m.where(v < zero, zero - one, v))  # keeps NaN

    return m.let(x, parts)


sign = unary("sign", _sign, no_gradient, infer=infer_same, doc="-1, 0 or 1")

# -- with attributes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModAttrs:
    """fmod: the remainder has the sign of x, as in C, instead of y's, as in Python."""

    fmod: bool = False


def _mod_grad(g: Any) -> Gradients:
    """z = x - n y with a whole n; dx = dz, dy = -n dz."""
    x, y = g.inputs
    return (g.dy, g.b.mul(g.dy, g.b.div(g.b.sub(g.outputs[0], x), y)) if g.needs(1) else None)


mod = define(
    "mod",
    ("x", "y"),
    attrs=ModAttrs,
    infer=infer_same,
    formula=lambda m, a, x, y: m.remainder(x, y) if a.fmod else m.modulo(x, y),
    grad=_mod_grad,
    samples=(
        Sample((Arg((2, 3, 4), low=-5, high=5), Arg((3, 1), low=0.5, high=2)), ModAttrs()),
        Sample((Arg((2, 3, 4), low=-5, high=5), Arg((3, 1), low=-2, high=-0.5)), ModAttrs(True)),
        Sample((Arg((2, 3, 4), "i32", -9, 9), Arg((3, 1), "i32", -4, 4)), smooth=False, attrs=ModAttrs()),
        Sample((Arg((2, 3, 4), "i32", -9, 9), Arg((3, 1), "i32", -4, 4)), smooth=False, attrs=ModAttrs(True)),
    ),
    doc="the remainder of x / y",
)


@dataclass(frozen=True)
class CastAttrs:
    """dtype: short name of the new element type."""

    dtype: str = "f32"


def _cast_infer(attrs: CastAttrs, x: Type) -> Type:
    if attrs.dtype not in NUMPY:
        raise GraphError(f"dtype must be one of {', '.join(NUMPY)}, got {attrs.dtype!r}")
    return x.with_(dtype=attrs.dtype)


def _cast_grad(g: Any) -> Gradients:
    """y = cast(x); dx = cast(dy) between floating-point types, otherwise none."""
    x = g.inputs[0].type.dtype
    return (g.b.cast(g.dy, dtype=x) if is_float(x) and is_float(g.dy.type.dtype) else None,)


cast = define(
    "cast",
    ("x",),
    attrs=CastAttrs,
    infer=_cast_infer,
    formula=lambda m, a, x: m.cast(x, a.dtype),
    grad=_cast_grad,
    samples=(
        Sample((Arg((2, 3), low=-5, high=5),), CastAttrs("i32"), smooth=False),
        Sample((Arg((2, 3), "i32", -5, 5),), CastAttrs("f32"), smooth=False),
        Sample((A,), CastAttrs("bool"), smooth=False),
        Sample((A,), CastAttrs("f64")),
    ),
    doc="The same values in another element type; float to integer rounds towards zero.",
)


@dataclass(frozen=True)
class ClipAttrs:
    """Bounds; min(max(x, low), high). closed: whether the gradient passes where x is a bound, as in torch.clamp (not
    in ReLU6 and Hardtanh)."""

    low: float = float("-inf")
    high: float = float("inf")
    closed: bool = True


def _clip_formula(m: Any, attrs: ClipAttrs, x: Any) -> Any:
    if attrs.low != float("-inf"):
        x = m.maximum(x, m.like(attrs.low, x))
    return m.minimum(x, m.like(attrs.high, x)) if attrs.high != float("inf") else x


def _clip_grad(g: Any) -> Gradients:
    """y = clip(x); dx = dy where low <= x <= high (low < x < high where the bounds are not closed), else 0."""
    (x,), y = g.inputs, g.outputs[0]
    if g.attrs.closed:
        inside = g.b.equal(x, y)
    else:
        inside = g.b.op("and", g.b.greater(y, g.attrs.low), g.b.less(y, g.attrs.high))
    return (g.b.where(inside, g.dy, g.b.zeros_like(g.dy)),)


clip = define(
    "clip",
    ("x",),
    attrs=ClipAttrs,
    infer=infer_same,
    formula=_clip_formula,
    grad=_clip_grad,
    samples=(
        Sample((Arg((2, 3, 4), low=-3, high=9),), ClipAttrs(0.0, 6.0)),
        Sample((A,), ClipAttrs(low=-0.5)),
        Sample((Arg((2, 3, 4), low=-3, high=9),), ClipAttrs(0.0, 6.0, closed=False)),
        Sample((Arg((5,), "i32", -9, 9),), ClipAttrs(-3, 4), smooth=False),
    ),
    doc="min(max(x, low), high)",
)

relu = unary(
    "relu",
    lambda m, x: m.maximum(x, m.like(0, x)),
    lambda g: (g.b.where(g.b.greater(g.outputs[0], g.b.zeros_like(g.outputs[0])), g.dy, g.b.zeros_like(g.dy)),),
    infer=infer_same,
    doc="max(x, 0)",
)
