"""Means and variances over some axes, and what the normalisations share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cnncc.errors import GraphError
from cnncc.ir.dims import same_or_unknown, shape_text
from cnncc.ir.graph import Value
from cnncc.ir.types import Type
from cnncc.ops.common import check_float, check_rank
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.reduce import mean_stage


@dataclass(frozen=True)
class EpsAttrs:
    """eps: added to the variance."""

    eps: float = 1e-5


def check_channels(x: Type, **vectors: Type) -> None:
    check_float(x=x, **vectors)
    check_rank("x", x, 2)
    for name, v in vectors.items():
        if v.rank != 1 or not same_or_unknown(v.shape[0], x.shape[1]):
            raise GraphError(f"{name} must have shape {x.shape[1]}, one number per channel, got {shape_text(v.shape)}")


def inverse_root(m: Any, variance: Any, eps: float) -> Any:
    """1 / sqrt(variance + eps)."""
    return m.like(1, variance) / m.sqrt(variance + m.like(eps, variance))


def inverse_deviation(b: Any, variance: Value, eps: float) -> Value:
    result: Value = b.reciprocal(b.sqrt(b.add(variance, eps)))
    return result


def channel_sum(b: Any, v: Value) -> Value:
    """[N, C, ...] --> [C]."""
    result: Value = b.reduce_sum(v, axes=(0, *range(2, v.type.rank)), keepdims=False)
    return result


def moments(c: Lowering, x: Operand, axes: tuple[int, ...]) -> tuple[Operand, Operand]:
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


def normalised_grad(b: Any, x: Value, dn: Value, axes: tuple[int, ...], eps: float) -> Value:
    """n = (x - mean) s; dx = s (dn - mean(dn) - n mean(dn n)), means over the axes."""
    n, s = normalised_value(b, x, axes, eps)
    inner = b.sub(b.sub(dn, b.reduce_mean(dn, axes=axes)), b.mul(n, b.reduce_mean(b.mul(dn, n), axes=axes)))
    result: Value = b.mul(inner, s)
    return result


def normalised_value(b: Any, x: Value, axes: tuple[int, ...], eps: float) -> tuple[Value, Value]:
    """n = (x - mean) s and s = 1 / sqrt(var + eps), the axes of s kept as 1."""
    d = b.sub(x, b.reduce_mean(x, axes=axes))
    s = inverse_deviation(b, b.reduce_mean(b.mul(d, d), axes=axes), eps)
    return b.mul(d, s), s
