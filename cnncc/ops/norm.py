"""Normalisations over axes of one sample: layer, instance, group, and local response. Batch norm is in batchnorm.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, broadcast, normal, product, shape_text
from cnncc.ir.graph import Value
from cnncc.ir.types import Type
from cnncc.ops.common import Gradients, check_float, check_rank, per_channel, resolve_axis
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.moments import (
    EpsAttrs,
    channel_sum,
    check_channels,
    inverse_root,
    moments,
    normalised_grad,
    normalised_value,
)
from cnncc.ops.plain import norm as plain
from cnncc.ops.registry import Arg, Sample, define
from cnncc.ops.written import written

_C = Arg((3,))


@dataclass(frozen=True)
class LayerNormAttrs(EpsAttrs):
    """axis: the first of the axes that are normalised together, up to the last."""

    axis: int = -1


@dataclass(frozen=True)
class GroupNormAttrs(EpsAttrs):
    """groups: the channels are split into that many groups, each normalised together with its space."""

    groups: int = 1


@dataclass(frozen=True)
class LrnAttrs:
    """size: number of neighbouring channels whose squares are averaged."""

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0


# -- layer_norm ------------------------------------------------------------------------------------------------------


def _layer_axes(attrs: LayerNormAttrs, rank: int) -> tuple[int, ...]:
    return tuple(range(resolve_axis(attrs.axis, rank), rank))


def _layer_infer(attrs: LayerNormAttrs, x: Type, gamma: Type, beta: Type | None) -> Type:
    """gamma and beta broadcast to the shape of the normalised axes."""
    check_float(x=x, gamma=gamma, beta=beta)
    inner = x.shape[resolve_axis(attrs.axis, x.rank) :]
    for name, v in (("gamma", gamma), ("beta", beta)):
        if v is not None and broadcast([inner, v.shape]) != inner:
            raise GraphError(f"{name} must broadcast to {shape_text(inner)}, got {shape_text(v.shape)}")
    return x


def _layer_grad(g: Any) -> Gradients:
    """y = n gamma + beta; dn = dy gamma, dgamma = dy n, dbeta = dy (both summed over the outer axes)."""
    x, gamma, beta = g.inputs
    b, axes, eps = g.b, _layer_axes(g.attrs, g.inputs[0].type.rank), g.attrs.eps
    dx = normalised_grad(b, x, b.mul(g.dy, gamma), axes, eps) if g.needs(0) else None
    dgamma = b.mul(g.dy, normalised_value(b, x, axes, eps)[0]) if g.needs(1) else None
    return dx, dgamma, None if beta is None else g.dy


def _layer_compute(c: Lowering, attrs: LayerNormAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    x, gamma, *rest = xs
    mean, var = moments(c, x, _layer_axes(attrs, x.type.rank))

    def element(*index: Any) -> Any:
        scale = inverse_root(c.math, var.broadcast(index), attrs.eps)
        y = (x(*index) - mean.broadcast(index)) * scale * gamma.broadcast(index)
        return y + rest[0].broadcast(index) if rest and rest[0] is not None else y

    return c.stage(outs[0], element, "layer_norm")


layer_norm = define(
    "layer_norm",
    ("x", "gamma", "beta?"),
    attrs=LayerNormAttrs,
    infer=_layer_infer,
    **written(plain.layer_norm, lambda a, x, *rest: {"axis": resolve_axis(a.axis, x.rank), "eps": a.eps}),
    grad=_layer_grad,
    compute=_layer_compute,
    normalise=lambda attrs, x, *rest: replace(attrs, axis=resolve_axis(attrs.axis, x.rank)),
    samples=(
        Sample((Arg((2, 3, 8)), Arg((8,)), Arg((8,))), LayerNormAttrs(axis=2)),
        Sample((Arg((2, 3, 4, 5)), Arg((3, 4, 5)), None), LayerNormAttrs(1e-3, 1)),
    ),
    doc="(x - mean) gamma / sqrt(var + eps) + beta over the trailing axes.",
)

# -- instance_norm, group_norm ---------------------------------------------------------------------------------------


def _instance_infer(attrs: EpsAttrs, x: Type, gamma: Type, beta: Type) -> Type:
    """x [N, C, ...] with at least one spatial axis, gamma and beta [C]."""
    check_channels(x, gamma=gamma, beta=beta)
    check_rank("x", x, 3)
    return x


def _affine_grad(g: Any, n: Value) -> tuple[Value, Value]:
    """dgamma = sum(dy n), dbeta = sum(dy)."""
    return channel_sum(g.b, g.b.mul(g.dy, n)), channel_sum(g.b, g.dy)


def _instance_grad(g: Any) -> Gradients:
    """y = n gamma + beta with n normalised over space."""
    x, gamma, _ = g.inputs
    axes = tuple(range(2, x.type.rank))
    dn = g.b.mul(g.dy, per_channel(g.b, gamma, x.type.rank))
    dx = normalised_grad(g.b, x, dn, axes, g.attrs.eps) if g.needs(0) else None
    return dx, *_affine_grad(g, normalised_value(g.b, x, axes, g.attrs.eps)[0])


def _instance_compute(c: Lowering, attrs: EpsAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    x, gamma, beta = xs
    mean, var = moments(c, x, tuple(range(2, x.type.rank)))

    def element(*index: Any) -> Any:
        scale = gamma(index[1]) * inverse_root(c.math, var.broadcast(index), attrs.eps)
        return (x(*index) - mean.broadcast(index)) * scale + beta(index[1])

    return c.stage(outs[0], element, "instance_norm")


instance_norm = define(
    "instance_norm",
    ("x", "gamma", "beta"),
    attrs=EpsAttrs,
    infer=_instance_infer,
    **written(plain.instance_norm, lambda a, *x: {"eps": a.eps}),
    grad=_instance_grad,
    compute=_instance_compute,
    samples=(
        Sample((Arg((2, 3, 4, 5)), _C, _C), EpsAttrs()),
        Sample((Arg((2, 3, 7)), _C, _C), EpsAttrs(1e-2)),
    ),
    doc="Normalised per sample and channel over space.",
)


def _group_infer(attrs: GroupNormAttrs, x: Type, gamma: Type, beta: Type) -> Type:
    """x [N, C, ...], gamma and beta [C]; the groups divide C."""
    check_channels(x, gamma=gamma, beta=beta)
    channels = x.shape[1]
    if attrs.groups < 1 or not isinstance(channels, int) or channels % attrs.groups:
        raise GraphError(f"groups must divide the channels, got {attrs.groups} groups and {channels} channels")
    return x


def _split(attrs: GroupNormAttrs, shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """[N, C, ...] --> [N, G, C / G, ...]."""
    return (shape[0], attrs.groups, normal(shape[1] // attrs.groups), *shape[2:])


def _group_grad(g: Any) -> Gradients:
    """y = n gamma + beta with n normalised over the channels of a group and space."""
    x, gamma, _ = g.inputs
    b, eps = g.b, g.attrs.eps
    split = _split(g.attrs, x.type.shape)
    axes = tuple(range(2, len(split)))
    grouped = b.reshape(x, shape=split)
    dx = None
    if g.needs(0):
        dn = b.reshape(b.mul(g.dy, per_channel(b, gamma, x.type.rank)), shape=split)
        dx = b.reshape(normalised_grad(b, grouped, dn, axes, eps), shape=x.type.shape)
    n = b.reshape(normalised_value(b, grouped, axes, eps)[0], shape=x.type.shape)
    return dx, *_affine_grad(g, n)


def _group_compute(c: Lowering, attrs: GroupNormAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    x, gamma, beta = xs
    split = _split(attrs, x.type.shape)
    per = split[2]
    grouped = Operand(Type(x.type.dtype, split), lambda n, g, ch, *i: x(n, g * per + ch, *i))
    mean, var = moments(c, grouped, tuple(range(2, len(split))))
    zeros = (c.dim(0),) * (len(split) - 2)

    def element(*index: Any) -> Any:
        at = (index[0], index[1] // per, *zeros)
        scale = gamma(index[1]) * inverse_root(c.math, var(*at), attrs.eps)
        return (x(*index) - mean(*at)) * scale + beta(index[1])

    return c.stage(outs[0], element, "group_norm")


group_norm = define(
    "group_norm",
    ("x", "gamma", "beta"),
    attrs=GroupNormAttrs,
    infer=_group_infer,
    **written(plain.group_norm, lambda a, *x: {"groups": a.groups, "eps": a.eps}),
    grad=_group_grad,
    compute=_group_compute,
    samples=(
        Sample((Arg((2, 6, 3, 4)), Arg((6,)), Arg((6,))), GroupNormAttrs(groups=2)),
        Sample((Arg((2, 6, 5)), Arg((6,)), Arg((6,))), GroupNormAttrs(1e-3, 6)),
        Sample((Arg((2, 4)), Arg((4,)), Arg((4,))), GroupNormAttrs(groups=2)),
    ),
    doc="Normalised per sample and group of channels.",
)

# -- lrn -------------------------------------------------------------------------------------------------------------


def _lrn_infer(attrs: LrnAttrs, x: Type) -> Type:
    """x [N, C, ...]."""
    check_float(x=x)
    check_rank("x", x, 3)
    if attrs.size < 1:
        raise GraphError(f"size must be positive, got {attrs.size}")
    return x


def _reach(size: int) -> tuple[int, int]:
    """How many channels before and after a channel its window has."""
    return (size - 1) // 2, size // 2


def _window_mean(b: Any, v: Value, before: int, after: int) -> Value:
    """The sum over neighbouring channels divided by the window's size, as pooling over [N, 1, C, space]."""
    n, channels, *space = v.type.shape
    flat = b.reshape(v, shape=(n, 1, channels, product(space)))
    kernel = (before + after + 1, 1)
    mean = b.average_pool(flat, kernel=kernel, pads=(before, 0, after, 0), count_include_pad=True)
    result: Value = b.reshape(mean, shape=v.type.shape)
    return result


def _lrn_grad(g: Any) -> Gradients:
    """y = x d^-beta, d = bias + alpha mean(x^2); dx = dy d^-beta - 2 alpha beta x mean'(dy x d^(-beta - 1)).

    mean' is over the mirrored window: the channels whose windows hold this one.
    """
    (x,) = g.inputs
    a, b = g.attrs, g.b
    before, after = _reach(a.size)
    d = b.add(b.mul(_window_mean(b, b.mul(x, x), before, after), a.alpha), a.bias)
    direct = b.mul(g.dy, b.pow(d, -a.beta))
    spread = _window_mean(b, b.div(b.mul(direct, x), d), after, before)
    return (b.sub(direct, b.mul(b.mul(x, spread), 2.0 * a.alpha * a.beta)),)


def _lrn_compute(c: Lowering, attrs: LrnAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import te, tirx

    (x,) = xs
    before, _ = _reach(attrs.size)
    dtype = x.type.dtype
    k = c.axis(attrs.size, "k")

    def total(n: Any, ch: Any, *i: Any) -> Any:
        at = ch + k - before
        square = c.math.let(x(n, at, *i), lambda v: v * v)
        return te.sum(c.guard(tirx.all(at >= 0, at < c.dim(x.type.shape[1])), square, c.const(0, dtype)), axis=k)

    sums = c.stage(x.type.plain, total, "square_sum")
    scale, bias, power = (c.const(v, dtype) for v in (attrs.alpha / attrs.size, attrs.bias, -attrs.beta))
    return c.stage(outs[0], lambda *i: x(*i) * c.math.power(sums(*i) * scale + bias, power), "lrn")


lrn = define(
    "lrn",
    ("x",),
    attrs=LrnAttrs,
    infer=_lrn_infer,
    **written(plain.lrn, lambda a, x: {"size": a.size, "alpha": a.alpha, "beta": a.beta, "bias": a.bias}),
    grad=_lrn_grad,
    compute=_lrn_compute,
    samples=(
        Sample((Arg((2, 7, 3, 4)),), LrnAttrs(alpha=0.5)),
        Sample((Arg((1, 5, 6)),), LrnAttrs(4, 0.3, 0.5, 2.0)),
    ),
    doc="Local response normalisation across channels (Krizhevsky et al. 2012): x (bias + alpha mean(x^2))^-beta.",
)
