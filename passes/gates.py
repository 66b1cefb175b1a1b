"""gate-weights: a gate before a 1x1 convolution multiplies the weights, where those are fewer than the pixels.

Squeeze-and-excitation multiplies each channel of an image with a number. For one image that is the same as multiplying
the input channels of the weights behind it: results differ by rounding alone.
"""

from __future__ import annotations

from dataclasses import asdict
from math import prod

from cnncc.builder import Builder
from cnncc.ir.graph import Graph, Node, Value
from cnncc.passes.fusion import per_channel, switched_off
from cnncc.passes.manager import Context
from cnncc.passes.rules import Decline, Rule, apply_rules, rule

GAIN = 16  # by how much there must be fewer weights than elements: they are also packed each time


@rule("conv(mul(x, g), w)")
def gate_into_weights(b: Builder, root: Node, x: Value, g: Value, w: Value) -> Value | Decline:
    """conv(x g, w) --> conv(x, w g) for a 1x1 convolution of one image and one computed number g per input channel."""
    if not per_channel(g) or g.type.rank != x.type.rank or g.type.shape[1] != x.type.shape[1]:
        return Decline("the factor must be one computed number per channel")
    if x.type.shape[0] != 1 or root.attrs.groups != 1 or not x.type.static:
        return Decline(f"one image and one group have one set of weights, got {x.type.shape[0]} images")
    if any(d != 1 for d in w.type.shape[2:]) or w.data is None:
        return Decline("the weights must be 1x1 and known")
    pixels, outputs = prod(int(d) for d in x.type.shape[2:]), int(w.type.shape[0])
    if GAIN * outputs > pixels:
        return Decline(f"{pixels} pixels are too few against {outputs} weights of each channel")
    return b.op("conv", x, b.mul(w, g), source=root.source, **asdict(root.attrs))


RULES: tuple[Rule, ...] = (gate_into_weights,)


def gate_weights(graph: Graph, context: Context) -> None:
    """Apply RULES (inference only)."""
    if reason := switched_off("gate", context.without):
        context.decline("gate-weights", graph.name, reason)
        return
    apply_rules(graph, RULES, context)
