"""fold-pad: explicit padding goes into the window that reads it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cnncc.builder import Builder
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ops.window import geometry
from cnncc.passes.manager import Context
from cnncc.passes.rules import Decline, Rule, apply_rules, rule


def _added(window: Node, p: Node, kernel: Any, value: float) -> tuple[int, ...] | Decline:
    """The window's pads with the padding's added."""
    rank = p.output.type.rank
    pads = p.attrs.pads
    begin, end = pads[:rank], pads[rank:]
    if p.attrs.mode != "constant" or p.attrs.value != value:
        return Decline(f"the padding is not constant {value}, but {p.attrs.mode} {p.attrs.value}")
    if any((*begin[:2], *end[:2])) or any(v < 0 for v in pads):
        return Decline("the padding is on batch or channels, or negative")
    g = geometry(window.attrs, kernel)
    return (
        *(a + b for a, b in zip(g.begin, begin[2:], strict=True)),
        *(a + b for a, b in zip(g.end, end[2:], strict=True)),
    )


def _with_pads(b: Builder, node: Node, pads: tuple[int, ...], *operands: Value, **changes: Any) -> Value:
    attributes = {**asdict(node.attrs), "pads": pads, **changes}
    return b.op(node.op, *operands, source=node.source, **attributes)


@rule("conv(p := pad(x), w)", shared=True)
def pad_into_conv(b: Builder, root: Node, p: Node, x: Value, w: Value) -> Value | Decline:
    """conv(pad(x, p), w, q) --> conv(x, w, p + q) for padding with zeros."""
    pads = _added(root, p, w.type.shape[2:], 0.0)
    return pads if isinstance(pads, Decline) else _with_pads(b, root, pads, x, w)


@rule("max_pool(p := pad(x))", shared=True)
def pad_into_max_pool(b: Builder, root: Node, p: Node, x: Value) -> Value | Decline:
    """max_pool(pad(x, p), q) --> max_pool(x, p + q) for padding with -inf, or with 0 behind a relu."""
    relu = x.node is not None and x.node.op == "relu"
    value = 0.0 if relu and p.attrs.value == 0 else float("-inf")
    if root.attrs.ceil:
        return Decline("with ceil=True the number of windows would change")
    pads = _added(root, p, root.attrs.kernel, value)
    if not isinstance(pads, Decline) and value == 0.0:
        g = geometry(root.attrs, root.attrs.kernel)
        if any(q >= k for q, k in zip(pads, g.extent * 2, strict=True)):
            return Decline("a window would lie wholly in the padding")
    return pads if isinstance(pads, Decline) else _with_pads(b, root, pads, x)


@rule("average_pool(p := pad(x))", shared=True)
def pad_into_average_pool(b: Builder, root: Node, p: Node, x: Value) -> Value | Decline:
    """average_pool(pad(x, p)) --> average_pool(x, p, count_include_pad=True) for padding with zeros."""
    g = geometry(root.attrs, root.attrs.kernel)
    if any((*g.begin, *g.end)) or root.attrs.ceil:
        return Decline("the pool has padding of its own, or ceil=True")
    pads = _added(root, p, root.attrs.kernel, 0.0)
    return pads if isinstance(pads, Decline) else _with_pads(b, root, pads, x, count_include_pad=True)


RULES: tuple[Rule, ...] = (pad_into_conv, pad_into_max_pool, pad_into_average_pool)


def fold_pad(graph: Graph, context: Context) -> None:
    """Apply RULES."""
    apply_rules(graph, RULES, context)
