"""order-pools: an average pool and the 1x1 convolution beside it change places where that is less work.

Both are linear, one over space and one over channels, so they commute; results differ by rounding alone. A pool that
makes the image smaller goes first (DenseNet's transitions: a quarter of the products); one that does not goes where
there are fewer channels (the pool branches of Inception blocks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import prod

from cnncc.builder import Builder
from cnncc.ir.dims import Dim, substitute
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ops.window import geometry
from cnncc.passes.fusion import switched_off
from cnncc.passes.manager import Context
from cnncc.passes.rules import Decline, Rule, apply_rules, rule

GAIN = 1.05  # by how much the other order must be less work
MACS_PER_BYTE = 2.0  # what a machine multiplies and adds while it moves a byte of activations


def work(conv: Node, pool: Node, ic: int, oc: int, wide: int, narrow: int, pool_first: bool) -> float:
    """The convolution and the pool in some order, in multiply-adds: each kernel's work, or its traffic where longer.

    `wide`, `narrow`: pixels before and after the pool.
    """
    taps, pixels, planes = prod(pool.attrs.kernel), narrow if pool_first else wide, ic if pool_first else oc
    products = ic // conv.attrs.groups * oc * pixels
    convolution = max(float(products), MACS_PER_BYTE * 4 * (ic + oc) * pixels)
    pooling = max(float(planes * narrow * taps), MACS_PER_BYTE * 4 * planes * (wide + narrow))
    return convolution + pooling


def _pays(conv: Node, pool: Node, pool_first: bool) -> Decline | None:
    """The reason why the order asked for is not taken, None where it is."""
    (x, w), (pooled,) = conv.operands(), pool.operands()
    g = geometry(conv.attrs, w.type.shape[2:])
    if prod(g.kernel) != 1 or prod(g.strides) != 1 or any((*g.begin, *g.end)):
        return Decline("the convolution must be 1x1, of stride 1, without padding")
    before, after = pooled.type.shape[2:], pool.output.type.shape[2:]
    channels = (x.type.shape[1], conv.output.type.shape[1])
    ic, oc, wide, narrow = *(_number([d]) for d in channels), _number(before), _number(after)
    now, then = (work(conv, pool, ic, oc, wide, narrow, first) for first in (not pool_first, pool_first))
    if now < GAIN * then:
        return Decline(
            f"the order of convolution and pool stays: {now / 1e6:.3g} M multiply-adds against {then / 1e6:.3g} M"
        )
    return None


def _number(shape: Sequence[Dim]) -> int:
    """Elements, at a size that decisions assume where it is symbolic."""
    return prod(
        d if isinstance(d, int) else int(substitute(d, dict.fromkeys(map(str, d.free_symbols), 64))) for d in shape
    )


def _copy(b: Builder, node: Node, *operands: Value) -> Value:
    return b.op(node.op, *operands, source=node.source, **asdict(node.attrs))


@rule("average_pool(c := conv(x, w))")
def pool_before_conv(b: Builder, root: Node, c: Node, x: Value, w: Value) -> Value | Decline:
    """average_pool(conv(x, w)) --> conv(average_pool(x), w) for a 1x1 convolution."""
    return _pays(c, root, True) or _copy(b, c, _copy(b, root, x), w)


@rule("average_pool(add(c := conv(x, w), t))")
def pool_before_bias(b: Builder, root: Node, c: Node, x: Value, w: Value, t: Value) -> Value | Decline:
    """average_pool(conv(x, w) + t) --> conv(average_pool(x), w) + t for a 1x1 convolution and one t per channel."""
    rank = x.type.rank
    if t.type.rank != rank or any(d != 1 for a, d in enumerate(t.type.shape) if a != 1):
        return Decline("the shift must be one number per channel")
    if root.attrs.count_include_pad and any(root.attrs.pads):
        return Decline("the pool counts its padding, which has no shift")
    return _pays(c, root, True) or b.add(_copy(b, c, _copy(b, root, x), w), t)


@rule("conv(p := average_pool(x), w)")
def conv_before_pool(b: Builder, root: Node, p: Node, x: Value, w: Value) -> Value | Decline:
    """conv(average_pool(x), w) --> average_pool(conv(x, w)) for a 1x1 convolution."""
    return _pays(root, p, False) or _copy(b, p, _copy(b, root, x, w))


RULES: tuple[Rule, ...] = (pool_before_conv, pool_before_bias, conv_before_pool)


def order_pools(graph: Graph, context: Context) -> None:
    """Apply RULES."""
    if not switched_off("pool-order", context.without):
        apply_rules(graph, RULES, context)
