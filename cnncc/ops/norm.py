"""Normalisations: batch (inference and training), layer, instance, group, and local response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, broadcast, normal, product, same_or_unknown, shape_text
from cnncc.ir.graph import Value
from cnncc.ir.types import Type
from cnncc.ops.common import Gradients, check_float, check_rank, inverse_count, per_channel, resolve_axis
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.reduce import mean_stage
from cnncc.ops.registry import Arg, Sample, define


@dataclass(frozen=True)
class EpsAttrs:
    """eps: added to the variance."""

    eps: float = 1e-5


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


def _check_channels(x: Type, **vectors: Type) -> None:
    check_float(x=x, **vectors)
    check_rank("x", x, 2)
    for name, v in vectors.items():
        if v.rank != 1 or not same_or_unknown(v.shape[0], x.shape[1]):
            raise GraphError(f"{name} must have shape {x.shape[1]}, one number per channel, got {shape_text(v.shape)}")


def _spread(v: np.ndarray, rank: int) -> np.ndarray:
    """[C] --> [C, 1, ..., 1]."""
    return v.reshape(-1, *(1,) * (rank - 2))


def _inverse_root(m: Any, variance: Any, eps: float) -> Any:
    """1 / sqrt(variance + eps)."""
    return m.like(1, variance) / m.sqrt(variance + m.like(eps, variance))


def _inverse_deviation(b: Any, variance: Value, eps: float) -> Value:
    result: Value = b.reciprocal(b.sqrt(b.add(variance, eps)))
    return result


def _channel_sum(b: Any, v: Value) -> Value:
    """[N, C, ...] --> [C]."""
    result: Value = b.reduce_sum(v, axes=(0, *range(2, v.type.rank)), keepdims=False)
    return result


# -- batch_norm: with known statistics -------------------------------------------------------------------------------


def _batch_infer(attrs: EpsAttrs, x: Type, gamma: Type, beta: Type, mean: Type, var: Type) -> Type:
    """x [N, C, ...] and four vectors [C] --> the type of x."""
    _check_channels(x, gamma=gamma, beta=beta, mean=mean, var=var)
    return x


def _batch_reference(
    attrs: EpsAttrs, x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, var: np.ndarray
) -> np.ndarray:
    scale = gamma / np.sqrt(var + np.asarray(attrs.eps, x.dtype))
    return (x - _spread(mean, x.ndim)) * _spread(scale, x.ndim) + _spread(beta, x.ndim)


def _batch_grad(g: Any) -> Gradients:
    """y = (x - mean) s gamma + beta with s = 1 / sqrt(var + eps); dvar = -1/2 gamma s^3 sum(dy (x - mean))."""
    x, gamma, _, mean, var = g.inputs
    b, rank = g.b, x.type.rank
    s = _inverse_deviation(b, var, g.attrs.eps)
    scale = b.mul(gamma, s)
    dx = b.mul(g.dy, per_channel(b, scale, rank)) if g.needs(0) else None
    dgamma = dbeta = dmean = dvar = None
    if g.needs(2) or g.needs(3):
        dbeta = _channel_sum(b, g.dy)
    if g.needs(3):
        dmean = b.neg(b.mul(dbeta, scale))
    if g.needs(1) or g.needs(4):
        centred = _channel_sum(b, b.mul(g.dy, b.sub(x, per_channel(b, mean, rank))))
        dgamma = b.mul(centred, s)
        dvar = b.mul(b.mul(b.mul(dgamma, scale), s), -0.5) if g.needs(4) else None
    return dx, dgamma, dbeta, dmean, dvar


def _batch_element(c: Lowering, attrs: EpsAttrs, out: Type, xs: Sequence[Operand], index: tuple[Any, ...]) -> Any:
    x, gamma, beta, mean, var = xs
    ch = index[1]
    scale = gamma(ch) * _inverse_root(c.math, var(ch), attrs.eps)
    return (x(*index) - mean(ch)) * scale + beta(ch)


_C = Arg((3,))
_VAR = Arg((3,), low=0.5, high=2.0)

batch_norm = define(
    "batch_norm",
    ("x", "gamma", "beta", "mean", "var"),
    attrs=EpsAttrs,
    infer=_batch_infer,
    reference=_batch_reference,
    grad=_batch_grad,
    element=_batch_element,
    samples=(
        Sample((Arg((2, 3, 4, 5)), _C, _C, _C, _VAR), EpsAttrs()),
        Sample((Arg((4, 3)), _C, _C, _C, _VAR), EpsAttrs(1e-3)),
        Sample((Arg((1, 3, 2, 2, 3)), _C, _C, _C, _VAR), EpsAttrs()),
    ),
    doc="(x - mean) gamma / sqrt(var + eps) + beta, per channel (axis 1).",
)

# -- the others compute their statistics over some axes --------------------------------------------------------------


def _normalised(x: np.ndarray, axes: tuple[int, ...], eps: float) -> np.ndarray:
    mean = x.mean(axes, keepdims=True)
    return np.asarray((x - mean) / np.sqrt(x.var(axes, keepdims=True) + np.asarray(eps, x.dtype)))


def _moments(c: Lowering, x: Operand, axes: tuple[int, ...]) -> tuple[Operand, Operand]:
    """Mean and biased variance over axes, as stages with those axes kept as 1."""
    shape = tuple(1 if a in axes else d for a, d in enumerate(x.type.shape))
    out = Type(x.type.dtype, shape)
    mean = mean_stage(c, x, axes, True, out, "mean")

    def deviation(*index: Any) -> Any:
        return x(*index) - mean.broadcast(index)

    variance = mean_stage(c, Operand(x.type, deviation), axes, True, out, "var", lambda d: c.math.let(d, _square))
    return mean, variance


def _square(v: Any) -> Any:
    return v * v


def _normalised_grad(b: Any, x: Value, dn: Value, axes: tuple[int, ...], eps: float) -> Value:
    """n = (x - mean) s; dx = s (dn - mean(dn) - n mean(dn n)), means over the axes."""
    n, s = _normalised_value(b, x, axes, eps)
    inner = b.sub(b.sub(dn, b.reduce_mean(dn, axes=axes)), b.mul(n, b.reduce_mean(b.mul(dn, n), axes=axes)))
    result: Value = b.mul(inner, s)
    return result


def _normalised_value(b: Any, x: Value, axes: tuple[int, ...], eps: float) -> tuple[Value, Value]:
    """n = (x - mean) s and s = 1 / sqrt(var + eps), the axes of s kept as 1."""
    d = b.sub(x, b.reduce_mean(x, axes=axes))
    s = _inverse_deviation(b, b.reduce_mean(b.mul(d, d), axes=axes), eps)
    return b.mul(d, s), s


# -- batch_norm_train ------------------------------------------------------------------------------------------------


def _others(rank: int) -> tuple[int, ...]:
    """The axes that batch norm reduces: all but the channels."""
    return (0, *range(2, rank))


def _train_infer(attrs: EpsAttrs, x: Type, gamma: Type, beta: Type) -> tuple[Type, Type, Type]:
    """x [N, C, ...] and two vectors [C] --> y like x, mean [C], biased variance [C]."""
    _check_channels(x, gamma=gamma, beta=beta)
    vector = x.with_(shape=(x.shape[1],))
    return x, vector, vector


def _train_reference(
    attrs: EpsAttrs, x: np.ndarray, gamma: np.ndarray, beta: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    axes = _others(x.ndim)
    y = _normalised(x, axes, attrs.eps) * _spread(gamma, x.ndim) + _spread(beta, x.ndim)
    return y, x.mean(axes), x.var(axes)


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
        s = _inverse_deviation(b, g.outputs[2], g.attrs.eps)
        dbeta = _channel_sum(b, dy)
        dgamma = b.mul(_channel_sum(b, b.mul(dy, b.sub(x, mean))), s)
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
    mean, var = _moments(c, x, _others(x.type.rank))
    ones = (zero,) * (x.type.rank - 2)

    def element(*index: Any) -> Any:
        ch = index[1]
        at = (zero, ch, *ones)
        return (x(*index) - mean(*at)) * (gamma(ch) * _inverse_root(c.math, var(*at), attrs.eps)) + beta(ch)

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
    reference=_train_reference,
    grad=_train_grad,
    compute=_train_compute,
    samples=(
        Sample((Arg((2, 3, 4, 5)), _C, _C), EpsAttrs()),
        Sample((Arg((6, 3)), _C, _C), EpsAttrs(1e-3)),
        Sample((Arg((3, 3, 4)), _C, _C), EpsAttrs()),
    ),
    doc="Batch norm with the statistics of this batch; also gives them (the variance biased).",
)

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


def _layer_reference(attrs: LayerNormAttrs, x: np.ndarray, gamma: np.ndarray, beta: np.ndarray | None) -> np.ndarray:
    y = _normalised(x, _layer_axes(attrs, x.ndim), attrs.eps) * gamma
    return y if beta is None else y + beta


def _layer_grad(g: Any) -> Gradients:
    """y = n gamma + beta; dn = dy gamma, dgamma = dy n, dbeta = dy (both summed over the outer axes)."""
    x, gamma, beta = g.inputs
    b, axes, eps = g.b, _layer_axes(g.attrs, g.inputs[0].type.rank), g.attrs.eps
    dx = _normalised_grad(b, x, b.mul(g.dy, gamma), axes, eps) if g.needs(0) else None
    dgamma = b.mul(g.dy, _normalised_value(b, x, axes, eps)[0]) if g.needs(1) else None
    return dx, dgamma, None if beta is None else g.dy


def _layer_compute(c: Lowering, attrs: LayerNormAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    x, gamma, *rest = xs
    mean, var = _moments(c, x, _layer_axes(attrs, x.type.rank))

    def element(*index: Any) -> Any:
        scale = _inverse_root(c.math, var.broadcast(index), attrs.eps)
        y = (x(*index) - mean.broadcast(index)) * scale * gamma.broadcast(index)
        return y + rest[0].broadcast(index) if rest and rest[0] is not None else y

    return c.stage(outs[0], element, "layer_norm")


layer_norm = define(
    "layer_norm",
    ("x", "gamma", "beta?"),
    attrs=LayerNormAttrs,
    infer=_layer_infer,
    reference=_layer_reference,
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
    _check_channels(x, gamma=gamma, beta=beta)
    check_rank("x", x, 3)
    return x


def _instance_reference(attrs: EpsAttrs, x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    axes = tuple(range(2, x.ndim))
    return _normalised(x, axes, attrs.eps) * _spread(gamma, x.ndim) + _spread(beta, x.ndim)


def _affine_grad(g: Any, n: Value) -> tuple[Value, Value]:
    """dgamma = sum(dy n), dbeta = sum(dy)."""
    return _channel_sum(g.b, g.b.mul(g.dy, n)), _channel_sum(g.b, g.dy)


def _instance_grad(g: Any) -> Gradients:
    """y = n gamma + beta with n normalised over space."""
    x, gamma, _ = g.inputs
    axes = tuple(range(2, x.type.rank))
    dn = g.b.mul(g.dy, per_channel(g.b, gamma, x.type.rank))
    dx = _normalised_grad(g.b, x, dn, axes, g.attrs.eps) if g.needs(0) else None
    return dx, *_affine_grad(g, _normalised_value(g.b, x, axes, g.attrs.eps)[0])


def _instance_compute(c: Lowering, attrs: EpsAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    x, gamma, beta = xs
    mean, var = _moments(c, x, tuple(range(2, x.type.rank)))

    def element(*index: Any) -> Any:
        scale = gamma(index[1]) * _inverse_root(c.math, var.broadcast(index), attrs.eps)
        return (x(*index) - mean.broadcast(index)) * scale + beta(index[1])

    return c.stage(outs[0], element, "instance_norm")


instance_norm = define(
    "instance_norm",
    ("x", "gamma", "beta"),
    attrs=EpsAttrs,
    infer=_instance_infer,
    reference=_instance_reference,
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
    _check_channels(x, gamma=gamma, beta=beta)
    channels = x.shape[1]
    if attrs.groups < 1 or not isinstance(channels, int) or channels % attrs.groups:
        raise GraphError(f"groups must divide the channels, got {attrs.groups} groups and {channels} channels")
    return x


def _split(attrs: GroupNormAttrs, shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """[N, C, ...] --> [N, G, C / G, ...]."""
    return (shape[0], attrs.groups, normal(shape[1] // attrs.groups), *shape[2:])


def _group_reference(attrs: GroupNormAttrs, x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    grouped = x.reshape([int(d) for d in _split(attrs, x.shape)])  # type: ignore[call-overload]
    n = _normalised(grouped, tuple(range(2, grouped.ndim)), attrs.eps).reshape(x.shape)
    return n * _spread(gamma, x.ndim) + _spread(beta, x.ndim)


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
        dx = b.reshape(_normalised_grad(b, grouped, dn, axes, eps), shape=x.type.shape)
    n = b.reshape(_normalised_value(b, grouped, axes, eps)[0], shape=x.type.shape)
    return dx, *_affine_grad(g, n)


def _group_compute(c: Lowering, attrs: GroupNormAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    x, gamma, beta = xs
    split = _split(attrs, x.type.shape)
    per = split[2]
    grouped = Operand(Type(x.type.dtype, split), lambda n, g, ch, *i: x(n, g * per + ch, *i))
    mean, var = _moments(c, grouped, tuple(range(2, len(split))))
    zeros = (c.dim(0),) * (len(split) - 2)

    def element(*index: Any) -> Any:
        at = (index[0], index[1] // per, *zeros)
        scale = gamma(index[1]) * _inverse_root(c.math, var(*at), attrs.eps)
        return (x(*index) - mean(*at)) * scale + beta(index[1])

    return c.stage(outs[0], element, "group_norm")


group_norm = define(
    "group_norm",
    ("x", "gamma", "beta"),
    attrs=GroupNormAttrs,
    infer=_group_infer,
    reference=_group_reference,
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


def _lrn_reference(attrs: LrnAttrs, x: np.ndarray) -> np.ndarray:
    before, after = _reach(attrs.size)
    square = np.pad(x * x, [(0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)])
    total = sum(square[:, k : k + x.shape[1]] for k in range(attrs.size))
    return np.asarray(x * (attrs.bias + attrs.alpha / attrs.size * total) ** -attrs.beta, dtype=x.dtype)


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
        square = c.math.let(x(n, at, *i), _square)
        return te.sum(c.guard(tirx.all(at >= 0, at < c.dim(x.type.shape[1])), square, c.const(0, dtype)), axis=k)

    sums = c.stage(x.type.plain, total, "square_sum")
    scale, bias, power = (c.const(v, dtype) for v in (attrs.alpha / attrs.size, attrs.bias, -attrs.beta))
    return c.stage(outs[0], lambda *i: x(*i) * c.math.power(sums(*i) * scale + bias, power), "lrn")


lrn = define(
    "lrn",
    ("x",),
    attrs=LrnAttrs,
    infer=_lrn_infer,
    reference=_lrn_reference,
    grad=_lrn_grad,
    compute=_lrn_compute,
    samples=(
        Sample((Arg((2, 7, 3, 4)),), LrnAttrs(alpha=0.5)),
        Sample((Arg((1, 5, 6)),), LrnAttrs(4, 0.3, 0.5, 2.0)),
    ),
    doc="Local response normalisation across channels (Krizhevsky et al. 2012): x (bias + alpha mean(x^2))^-beta.",
)
