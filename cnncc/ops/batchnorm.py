"""Batch norm: with known statistics (inference), with those of the batch (training), and how the known ones follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cnncc.ir.graph import Value
from cnncc.ir.types import Type
from cnncc.ops.common import Gradients, check_float, check_shape, inverse_count, per_channel
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.moments import (
    EpsAttrs,
    channel_sum,
    check_channels,
    inverse_deviation,
    inverse_root,
    moments,
)
from cnncc.ops.plain import norm as plain
from cnncc.ops.registry import Arg, NoAttrs, Sample, define
from cnncc.ops.written import written

# -- batch_norm: with known statistics -------------------------------------------------------------------------------


def _batch_infer(attrs: EpsAttrs, x: Type, gamma: Type, beta: Type, mean: Type, var: Type) -> Type:
    """x [N, C, ...] and four vectors [C] --> the type of x."""
    check_channels(x, gamma=gamma, beta=beta, mean=mean, var=var)
    return x


def _batch_grad(g: Any) -> Gradients:
    """y = (x - mean) s gamma + beta with s = 1 / sqrt(var + eps); dvar = -1/2 gamma s^3 sum(dy (x - mean))."""
    x, gamma, _, mean, var = g.inputs
    b, rank = g.b, x.type.rank
    s = inverse_deviation(b, var, g.attrs.eps)
    scale = b.mul(gamma, s)
    dx = b.mul(g.dy, per_channel(b, scale, rank)) if g.needs(0) else None
    dgamma = dbeta = dmean = dvar = None
    if g.needs(2) or g.needs(3):
        dbeta = channel_sum(b, g.dy)
    if g.needs(3):
        dmean = b.neg(b.mul(dbeta, scale))
    if g.needs(1) or g.needs(4):
        centred = channel_sum(b, b.mul(g.dy, b.sub(x, per_channel(b, mean, rank))))
        dgamma = b.mul(centred, s)
        dvar = b.mul(b.mul(b.mul(dgamma, scale), s), -0.5) if g.needs(4) else None
    return dx, dgamma, dbeta, dmean, dvar


def _batch_element(c: Lowering, attrs: EpsAttrs, out: Type, xs: Sequence[Operand], index: tuple[Any, ...]) -> Any:
    x, gamma, beta, mean, var = xs
    ch = index[1]
    scale = gamma(ch) * inverse_root(c.math, var(ch), attrs.eps)
    return (x(*index) - mean(ch)) * scale + beta(ch)


_C = Arg((3,))
_VAR = Arg((3,), low=0.5, high=2.0)

batch_norm = define(
    "batch_norm",
    ("x", "gamma", "beta", "mean", "var"),
    attrs=EpsAttrs,
    infer=_batch_infer,
    **written(plain.batch_norm, lambda a, *x: {"eps": a.eps}),
    grad=_batch_grad,
    element=_batch_element,
    moves=False,
    samples=(
        Sample((Arg((2, 3, 4, 5)), _C, _C, _C, _VAR), EpsAttrs()),
        Sample((Arg((4, 3)), _C, _C, _C, _VAR), EpsAttrs(1e-3)),
        Sample((Arg((1, 3, 2, 2, 3)), _C, _C, _C, _VAR), EpsAttrs()),
    ),
    doc="(x - mean) gamma / sqrt(var + eps) + beta, per channel (axis 1).",
)

# -- batch_norm_train ------------------------------------------------------------------------------------------------


def _others(rank: int) -> tuple[int, ...]:
    """The axes that batch norm reduces: all but the channels."""
    return (0, *range(2, rank))


def _train_infer(attrs: EpsAttrs, x: Type, gamma: Type, beta: Type) -> tuple[Type, Type, Type]:
    """x [N, C, ...] and two vectors [C] --> y like x, mean [C], biased variance [C]."""
    check_channels(x, gamma=gamma, beta=beta)
    vector = x.with_(shape=(x.shape[1],))
    return x, vector, vector


def _train_grad(g: Any) -> Gradients:
    """n = (x - mean) s; dgamma = sum(dy n), dbeta = sum(dy), dx = gamma s (dy - mean(dy) - n mean(dy n)).

    A gradient of the results mean and var adds dmean / count and 2 (x - mean) dvar / count.
    """
    x, gamma, _ = g.inputs
    dy, dmean, dvar = g.dys
    b, rank = g.b, x.type.rank
    axes = _others(rank)
    mean = per_channel(b, g.outputs[1], rank)
    dx = dgamma = dbeta = None
    if dy is not None:
        s = inverse_deviation(b, g.outputs[2], g.attrs.eps)
        dbeta = channel_sum(b, dy)
        dgamma = b.mul(channel_sum(b, b.mul(dy, b.sub(x, mean))), s)
        if g.needs(0):
            share = inverse_count(b, x, axes)
            n = b.mul(b.sub(x, mean), per_channel(b, s, rank))
            inner = b.sub(dy, per_channel(b, b.mul(dbeta, share), rank))
            inner = b.sub(inner, b.mul(n, per_channel(b, b.mul(dgamma, share), rank)))
            dx = b.mul(inner, per_channel(b, b.mul(gamma, s), rank))
    if g.needs(0):
        for term in _moment_terms(g, mean, axes, dmean, dvar):
            dx = term if dx is None else b.add(dx, term)
    return dx, dgamma, dbeta


def _moment_terms(g: Any, mean: Value, axes: Sequence[int], dmean: Value | None, dvar: Value | None) -> list[Value]:
    x, b = g.inputs[0], g.b
    share = inverse_count(b, x, axes) if dmean is not None or dvar is not None else None
    terms = []
    if dmean is not None:
        terms.append(b.expand(per_channel(b, b.mul(dmean, share), x.type.rank), shape=x.type.shape))
    if dvar is not None:
        twice = per_channel(b, b.mul(b.mul(dvar, share), 2.0), x.type.rank)
        terms.append(b.mul(b.sub(x, mean), twice))
    return terms


def _train_compute(
    c: Lowering, attrs: EpsAttrs, outs: Sequence[Type], xs: Sequence[Operand]
) -> tuple[Operand, Operand, Operand]:
    x, gamma, beta = xs
    zero = c.dim(0)
    mean, var = moments(c, x, _others(x.type.rank))
    ones = (zero,) * (x.type.rank - 2)

    def element(*index: Any) -> Any:
        ch = index[1]
        at = (zero, ch, *ones)
        return (x(*index) - mean(*at)) * (gamma(ch) * inverse_root(c.math, var(*at), attrs.eps)) + beta(ch)

    y = c.stage(outs[0], element, "batch_norm_train")
    return (
        y,
        c.stage(outs[1], lambda ch: mean(zero, ch, *ones), "batch_mean"),
        c.stage(outs[2], lambda ch: var(zero, ch, *ones), "batch_var"),
    )


batch_norm_train = define(
    "batch_norm_train",
    ("x", "gamma", "beta"),
    attrs=EpsAttrs,
    infer=_train_infer,
    **written(plain.batch_norm_train, lambda a, *x: {"eps": a.eps}),
    grad=_train_grad,
    compute=_train_compute,
    samples=(
        Sample((Arg((2, 3, 4, 5)), _C, _C), EpsAttrs()),
        Sample((Arg((6, 3)), _C, _C), EpsAttrs(1e-3)),
        Sample((Arg((3, 3, 4)), _C, _C), EpsAttrs()),
    ),
    doc="Batch norm with the statistics of this batch; also gives them (the variance biased).",
)

# -- moving_average --------------------------------------------------------------------------------------------------


def _moving_infer(attrs: NoAttrs, old: Type, new: Type, rate: Type, count: Type | None) -> Type:
    """old and new alike, rate and count scalars of their dtype."""
    check_float(old=old, new=new, rate=rate, count=count)
    check_shape("new", new.shape, old.shape)
    check_shape("rate", rate.shape, ())
    if count is not None:
        check_shape("count", count.shape, ())
    return old


def _moving_formula(m: Any, attrs: NoAttrs, old: Any, new: Any, rate: Any, *count: Any) -> Any:
    one = m.like(1, old)
    if count and count[0] is not None:
        new = new * m.divide(count[0], m.maximum(count[0] - one, one))
    return old * (one - rate) + new * rate


moving_average = define(
    "moving_average",
    ("old", "new", "rate", "count?"),
    infer=_moving_infer,
    formula=_moving_formula,
    no_grad="running statistics are no part of what is differentiated",
    samples=(
        Sample((_C, _C, Arg((), value=0.25)), NoAttrs()),
        Sample((_VAR, _VAR, Arg((), value=0.1), Arg((), value=24.0)), NoAttrs()),
    ),
    doc="(1 - rate) old + rate new, as batch norm keeps statistics. With count, `new` is a variance of that many "
    "elements and is made unbiased first, count / (count - 1), as PyTorch does; without, as ONNX.",
)
