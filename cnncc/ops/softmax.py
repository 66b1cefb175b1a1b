"""softmax and its logarithm along one axis, computed on x - max(x) so that nothing overflows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cnncc.ir.types import Type
from cnncc.ops.common import Gradients, check_float, resolve_axis
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.plain import norm as plain
from cnncc.ops.reducers import maximum
from cnncc.ops.registry import Arg, Sample, define
from cnncc.ops.written import written


@dataclass(frozen=True)
class SoftmaxAttrs:
    """axis: along which the results add up to 1; canonically counted from the start."""

    axis: int = -1


def _infer(attrs: SoftmaxAttrs, x: Type) -> Type:
    """x and the result have one floating-point type."""
    check_float(x=x)
    resolve_axis(attrs.axis, x.rank)
    return x


def _canonical(attrs: SoftmaxAttrs, x: Type) -> SoftmaxAttrs:
    return replace(attrs, axis=resolve_axis(attrs.axis, x.rank))


def _softmax_grad(g: Any) -> Gradients:
    """dx = y (dy - sum(dy y))."""
    y = g.outputs[0]
    weighted = g.b.mul(g.dy, y)
    total = g.b.reduce_sum(weighted, axes=(g.attrs.axis,), keepdims=True)
    return (g.b.sub(weighted, g.b.mul(y, total)),)


def _log_grad(g: Any) -> Gradients:
    """dx = dy - exp(y) sum(dy)."""
    total = g.b.reduce_sum(g.dy, axes=(g.attrs.axis,), keepdims=True)
    return (g.b.sub(g.dy, g.b.mul(g.b.exp(g.outputs[0]), total)),)


def _stages(c: Lowering, attrs: SoftmaxAttrs, x: Operand) -> tuple[Operand, Operand, Operand]:
    """The maximum, exp(x - maximum), and its sum."""
    from tvm import te

    axis = resolve_axis(attrs.axis, x.type.rank)
    rest = x.type.with_(shape=(*x.type.shape[:axis], *x.type.shape[axis + 1 :])).plain

    def along(i: Sequence[Any], k: Any) -> tuple[Any, ...]:
        return (*i[:axis], k, *i[axis:])

    def without(i: Sequence[Any]) -> tuple[Any, ...]:
        return (*i[:axis], *i[axis + 1 :])

    k = c.axis(x.type.shape[axis], "k")
    top = c.stage(rest, lambda *i: maximum(x.type.dtype)(x(*along(i, k)), axis=k), "softmax_max")
    e = c.stage(x.type.plain, lambda *i: c.math.exp(x(*i) - top(*without(i))), "softmax_exp")
    r = c.axis(x.type.shape[axis], "r")
    total = c.stage(rest, lambda *i: te.sum(e(*along(i, r)), axis=r), "softmax_sum")
    return top, e, total


def _softmax_compute(c: Lowering, attrs: SoftmaxAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    axis = resolve_axis(attrs.axis, outs[0].rank)
    _, e, total = _stages(c, attrs, xs[0])
    return c.stage(outs[0], lambda *i: e(*i) / total(*i[:axis], *i[axis + 1 :]), "softmax")


def _log_compute(c: Lowering, attrs: SoftmaxAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    axis = resolve_axis(attrs.axis, outs[0].rank)
    top, _, total = _stages(c, attrs, xs[0])

    def element(*i: Any) -> Any:
        rest = (*i[:axis], *i[axis + 1 :])
        return xs[0](*i) - top(*rest) - c.math.log(total(*rest))

    return c.stage(outs[0], element, "log_softmax")


_SAMPLES = (
    Sample((Arg((3, 5), low=-4, high=4),), SoftmaxAttrs()),
    Sample((Arg((2, 4, 3, 2), low=-4, high=4),), SoftmaxAttrs(1)),
    Sample((Arg((6,), low=-90, high=90),), SoftmaxAttrs(0), smooth=False),
)

softmax = define(
    "softmax",
    ("x",),
    attrs=SoftmaxAttrs,
    infer=_infer,
    **written(plain.softmax, lambda a, x: {"axis": resolve_axis(a.axis, x.rank)}),
    grad=_softmax_grad,
    compute=_softmax_compute,
    normalise=_canonical,
    samples=_SAMPLES,
    doc="exp(x) / sum(exp(x)) along an axis",
)

log_softmax = define(
    "log_softmax",
    ("x",),
    attrs=SoftmaxAttrs,
    infer=_infer,
    **written(plain.log_softmax, lambda a, x: {"axis": resolve_axis(a.axis, x.rank)}),
    grad=_log_grad,
    compute=_log_compute,
    normalise=_canonical,
    samples=_SAMPLES,
    doc="x - log(sum(exp(x))) along an axis",
)
