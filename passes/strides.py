"""split-strides: large filters with strides become dense ones, over the phases of the image as channels."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np

from cnncc.builder import Builder
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ops.window import geometry
from cnncc.passes.manager import Context
from cnncc.passes.rules import Decline, Rule, apply_rules, rule

TAPS = 5  # of a phase, along both axes, from which Fourier transforms gain more than copying the image costs
MANY = 16  # channels on both sides: a block


@rule("conv(x, w)")
def strided_window(b: Builder, root: Node, x: Value, w: Value) -> Value | Decline:
    """conv(x, w, stride s) --> conv(concat of x[r::s] over r, phases of w), so that Fourier transforms apply.

    With taps q s + r, result i reads x at i s + q s + r - p: tap q of phase r, at i + q - p / s.
    """
    g, size = geometry(root.attrs, w.type.shape[2:]), x.type.shape
    if all(s == 1 for s in g.strides) or g.rank != 2:
        return Decline("the strides are 1, or there are not two axes")
    taps = tuple(-(-k // s) for k, s in zip(g.kernel, g.strides, strict=True))
    if min(taps) < TAPS or root.attrs.groups != 1 or any(d != 1 for d in g.dilations):
        return Decline(f"it is for phases of at least {TAPS} taps in one group without dilation, got {taps}")
    if not w.is_constant or w.data is None or x.type.dtype != "f32":
        return Decline("weights must be known, of f32")
    if not all(isinstance(d, int) for d in size[1:]) or min(int(d) for d in w.type.shape[:2]) < MANY:
        return Decline(f"sizes must be known, and channels at least {MANY}")
    begin, end, before, after, length = [], [], [], [], []
    for n, o, s, q, p in zip(size[2:], root.output.type.shape[2:], g.strides, taps, g.begin, strict=True):
        begin.append(p // s)
        before.append(p % s)
        length.append(min(-(-(int(n) + p % s) // s), int(o) + q - 1 - p // s))
        after.append(length[-1] * s - int(n) - p % s)
        end.append(int(o) + q - 1 - p // s - length[-1])
    if min(length) < 1:
        return Decline("nothing but padding is read")
    if any((*before, *after)):
        x = b.pad(x, pads=(0, 0, *before, 0, 0, *after))
    ends = tuple(n * s for n, s in zip(length, g.strides, strict=True))
    phases = [
        b.slice(x, starts=at, ends=ends, steps=g.strides, axes=(2, 3)) for at in product(*(range(s) for s in g.strides))
    ]
    return b.conv(b.concat(*phases, axis=1), _phases(b, w, taps, g.strides), pads=(*begin, *end))


def _phases(b: Builder, w: Value, taps: tuple[int, ...], strides: tuple[int, ...]) -> Value:
    """w [O, C, q s..] --> [O, s.. C, q..], zeros where a tap is beyond the kernel."""
    assert w.data is not None
    out, inner, *kernel = w.data.shape
    missing = [(0, q * s - k) for q, s, k in zip(taps, strides, kernel, strict=True)]
    (high, down), (wide, across) = zip(taps, strides, strict=True)
    whole = np.pad(w.data, [(0, 0), (0, 0), *missing]).reshape(out, inner, high, down, wide, across)
    turned = whole.transpose(0, 3, 5, 1, 2, 4).reshape(out, prod(strides) * inner, *taps)
    return b.constant(np.ascontiguousarray(turned), w.name)


RULES: tuple[Rule, ...] = (strided_window,)


def split_strides(graph: Graph, context: Context) -> None:
    """Apply RULES, where Fourier transforms are allowed and the target has them."""
    if context.accuracy != "strict" and context.target is not None and context.target.kind == "cpu":
        apply_rules(graph, RULES, context)
