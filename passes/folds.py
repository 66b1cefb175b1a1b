"""split-folds: a fold with many overlapping windows becomes one fold per axis."""

from __future__ import annotations

from math import prod
from typing import Any

from cnncc.builder import Builder
from cnncc.ir.dims import Dim, product
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ops.unfold import reach
from cnncc.ops.window import geometry
from cnncc.passes.manager import Context

MANY = 16  # terms of one element from which two short sums (and a result in between) cost less than a long one


def split_folds(graph: Graph, context: Context) -> None:
    """fold(x [N, C, kh, kw, oh, ow]) --> fold along h(fold along w(x)); the steps between them are views.

    An element of a fold is a sum over all windows that reach it: of a 7x7 kernel 49 terms at once, or 7 and 7.
    """
    for node in list(graph.nodes):
        if node.op != "fold":
            continue
        overlaps = [len(r) for r in reach(geometry(node.attrs, node.attrs.kernel))]
        if prod(overlaps) <= MANY:
            context.decline("split-folds", node.where, f"{prod(overlaps)} terms, at most {MANY} are one sum")
        elif sum(n > 1 for n in overlaps) < 2:
            context.decline("split-folds", node.where, "the windows overlap along one axis only")
        else:
            graph.replace(node.output, _split(Builder(graph), node))
    graph.tidy()


def _split(b: Builder, node: Node) -> Value:
    (x,) = node.operands()
    g = geometry(node.attrs, node.attrs.kernel)
    n, channels = x.type.shape[:2]
    size: list[Dim] = list(x.type.shape[2 + g.rank :])

    def only(axis: int, values: tuple[int, ...], default: int) -> tuple[int, ...]:
        return tuple(v if a == axis else default for a, v in enumerate(values))

    for axis in reversed(range(g.rank)):  # the last first: its taps lie before the places of all axes
        kernel = only(axis, g.kernel, 1)
        x = b.reshape(x, shape=(n, product((channels, *g.kernel[:axis])), *kernel, *size))
        size[axis] = node.attrs.size[axis]
        window: dict[str, Any] = {"strides": only(axis, g.strides, 1), "dilations": only(axis, g.dilations, 1)}
        pads = (*only(axis, g.begin, 0), *only(axis, g.end, 0))
        x = b.op("fold", x, kernel=kernel, size=tuple(size), pads=pads, source=node.source, **window)
    return x
