"""fold-batchnorm: statistics known at compile time become a scale and a shift, and those go into the weights before."""

from __future__ import annotations

import numpy as np

from cnncc.builder import Builder
from cnncc.ir.graph import Graph, Node, Value
from cnncc.passes.fusion import switched_off
from cnncc.passes.manager import Context
from cnncc.passes.rules import Decline, Rule, apply_rules, rule

NOT_CONSTANT = "the {} not known at compile time"


@rule("batch_norm(x, gamma, beta, mean, var)")
def batchnorm_to_scale(
    b: Builder, root: Node, x: Value, gamma: Value, beta: Value, mean: Value, var: Value
) -> Value | Decline:
    """batch_norm(x, gamma, beta, mean, var) --> x s + t,  s = gamma / sqrt(var + eps),  t = beta - mean s.

    s and t are computed in float64 and rounded once.
    """
    data = [v.data for v in (gamma, beta, mean, var)]
    if any(d is None for d in data):
        return Decline(NOT_CONSTANT.format("parameters or statistics are"))
    g, bt, m, v = (np.asarray(d, dtype=np.float64) for d in data)
    scale = g / np.sqrt(v + root.attrs.eps)
    shift = bt - m * scale
    shape = (1, -1) + (1,) * (x.type.rank - 2)
    dtype = x.type.numpy
    name = root.source or root.output.name
    s = b.constant(scale.reshape(shape).astype(dtype), name + ".scale")
    t = b.constant(shift.reshape(shape).astype(dtype), name + ".shift")
    return b.add(b.mul(x, s), t)


def per_channel(c: Value, rank: int) -> np.ndarray | None:
    """A constant that is one number per channel (axis 1 of `rank` axes), or one number, as a vector; otherwise None."""
    if c.data is None or c.data.ndim not in (0, rank):
        return None
    if c.data.ndim and any(d != 1 for a, d in enumerate(c.data.shape) if a != 1):
        return None
    return c.data.reshape(-1)


@rule("mul(c := conv(x, w), s)")
def scale_into_conv(b: Builder, c: Node, x: Value, w: Value, s: Value) -> Value | Decline:
    """conv(x, w) s --> conv(x, w s) for a constant s per output channel."""
    scale = per_channel(s, x.type.rank)
    if w.data is None or scale is None:
        return Decline(NOT_CONSTANT.format("weights or the scale per channel are"))
    scaled = w.data * scale.reshape((-1,) + (1,) * (w.data.ndim - 1))
    return _again(b, c, x, b.constant(scaled.astype(w.data.dtype), w.name + ".scaled"))


@rule("mul(c := conv_transpose(x, w), s)")
def scale_into_conv_transpose(b: Builder, c: Node, x: Value, w: Value, s: Value) -> Value | Decline:
    """conv_transpose(x, w) s --> conv_transpose(x, w s) for a constant s per output channel."""
    scale = per_channel(s, x.type.rank)
    if w.data is None or scale is None:
        return Decline(NOT_CONSTANT.format("weights or the scale per channel are"))
    groups, per_group = c.attrs.groups, w.data.shape[1]
    spatial = (1,) * (w.data.ndim - 2)
    rows = np.broadcast_to(scale, (groups * per_group,)).reshape(groups, 1, per_group, *spatial)
    grouped = w.data.reshape(groups, -1, *w.data.shape[1:])
    scaled = (grouped * rows).reshape(w.data.shape)
    return _again(b, c, x, b.constant(scaled.astype(w.data.dtype), w.name + ".scaled"))


@rule("mul(c := matmul(x, w), s)")
def scale_into_matmul(b: Builder, c: Node, x: Value, w: Value, s: Value) -> Value | Decline:
    """matmul(x, w) s --> matmul(x, w s) for a constant s per output column."""
    if w.data is None or w.data.ndim != 2 or s.data is None or s.data.size not in (1, c.output.type.shape[-1]):
        return Decline(NOT_CONSTANT.format("weights or the scale per column are"))
    if s.data.size > 1 and s.data.shape[-1] != s.data.size:
        return Decline("the scale does not run along the columns")
    scale = s.data.reshape(-1)
    scaled = w.data * (scale.reshape(-1, 1) if c.attrs.transpose_w else scale)
    return _again(b, c, x, b.constant(scaled.astype(w.data.dtype), w.name + ".scaled"))


@rule("mul(add(y, t), s)")
def scale_through_shift(b: Builder, y: Value, t: Value, s: Value) -> Value | Decline:
    """(y + t) s --> y s + t s for constants s, t, where y is a convolution or a product that can take the scale."""
    if t.data is None or s.data is None:
        return Decline(NOT_CONSTANT.format("shift or scale are"))
    if y.node is None or y.node.op not in ("conv", "conv_transpose", "matmul", "mul"):
        return Decline("nothing before the shift can take the scale")
    return b.add(b.mul(y, s), (t.data * s.data).astype(t.data.dtype))


@rule("add(add(y, t), u)")
def merge_shifts(b: Builder, y: Value, t: Value, u: Value) -> Value | Decline:
    """(y + t) + u --> y + (t + u) for constants t, u."""
    if t.data is None or u.data is None:
        return Decline("not both shifts are constants")
    return b.add(y, (t.data + u.data).astype(t.data.dtype))


@rule("mul(mul(y, s), u)")
def merge_scales(b: Builder, y: Value, s: Value, u: Value) -> Value | Decline:
    """(y s) u --> y (s u) for constants s, u."""
    if s.data is None or u.data is None:
        return Decline("not both scales are constants")
    return b.mul(y, (s.data * u.data).astype(s.data.dtype))


RULES: tuple[Rule, ...] = (
    batchnorm_to_scale,
    scale_into_conv,
    scale_into_conv_transpose,
    scale_into_matmul,
    scale_through_shift,
    merge_shifts,
    merge_scales,
)


def fold_batchnorm(graph: Graph, context: Context) -> None:
    """Apply RULES (inference only: weights change)."""
    if reason := switched_off("batch-norm", context.without):
        context.decline("fold-batchnorm", graph.name, reason)
        return
    apply_rules(graph, RULES, context)


def _again(b: Builder, node: Node, x: Value, w: Value) -> Value:
    from dataclasses import asdict

    return b.op(node.op, x, w, source=node.source, **asdict(node.attrs))
