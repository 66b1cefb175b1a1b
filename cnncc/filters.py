"""Convolution as signal processing has it: true (flipped) convolution, its matrix, receptive fields, filter kernels.

The op `conv` is cross-correlation, as in every deep-learning framework; docs/lectures.md has the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnncc.builder import Builder
from cnncc.errors import GraphError
from cnncc.ir.attributes import make_attributes
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.types import Type
from cnncc.ops.registry import lookup
from cnncc.ops.window import Geometry, geometry

KERNELS: Mapping[str, np.ndarray] = {
    "identity": np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.float32),
    "blur": np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / 16,  # binomial: a Gaussian of variance 1/2
    "sharpen": np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], np.float32),  # the image minus its Laplacian
    "laplace": np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32),  # second differences, summed
    "sobel_x": np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32),  # left to right, as cross-correlation
    "sobel_y": np.array([[-1, -2, -1], [0, 0, 0], [1, 2, 1]], np.float32),  # top to bottom
}


def true_convolution(b: Builder, x: Value, w: Value | np.ndarray, **window: Any) -> Value:
    """y[o] = sum_k x[o - k] w[k]: cross-correlation with the flipped kernel. x [N, C, *size], w [M, C, *kernel].

    window: strides, pads ("full" gives every sum that is not empty), dilations, groups, as for `conv`.
    """
    kernel = w if isinstance(w, Value) else b.constant(w)
    flipped = b.flip(kernel, axes=tuple(range(2, kernel.type.rank)))
    result: Value = b.conv(x, flipped, **window)
    return result


def toeplitz(w: np.ndarray, size: Sequence[int], flip: bool = False, **window: Any) -> np.ndarray:
    """The matrix T of a convolution: y.reshape(-1) = T @ x.reshape(-1) for one image x [C, *size], y [M, *out].

    With flip, of the true convolution. In one dimension with one channel and stride 1 it is a Toeplitz matrix; in two,
    a Toeplitz matrix of such blocks. Its transpose is the matrix of `conv_transpose`.
    """
    if w.ndim != len(size) + 2:
        raise GraphError(f"toeplitz: w must be [M, C, *kernel] with {len(size)} spatial axes, got shape {w.shape}")
    kernel = np.flip(w, tuple(range(2, w.ndim))) if flip else w
    channels = w.shape[1] * window.get("groups", 1)
    count = channels * int(np.prod(size))
    images = np.eye(count, dtype=w.dtype).reshape(count, channels, *size)  # column j is the response to the j-th pixel
    op = lookup("conv")
    attrs = make_attributes(op, window, [Type.of(images), Type.of(kernel)])
    (responses,) = op.run(attrs, [images, np.ascontiguousarray(kernel)])
    return np.ascontiguousarray(responses.reshape(count, -1).T)


@dataclass(frozen=True)
class ReceptiveField:
    """What part of the input one element of the output depends on, per spatial axis.

    size: pixels. stride: how far the field moves from one output element to the next. start: first pixel that output
    element 0 reads; negative where that lies in the padding. A dense layer reads everything, with stride 0.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    start: tuple[int, ...]


Axis = tuple[int, int, int]  # output element 0 reads pixels first to last (both included); the next moves on by step


def receptive_field(graph: Graph, output: str | None = None, input: str | None = None) -> ReceptiveField:
    """The receptive field of an output in an input [N, C, *size] (default: the first of each).

    Windows (conv, pooling), padding, elementwise operations and concatenation of channels are followed exactly; any
    other operation counts as reading everything. Raises GraphError where the output does not depend on the input, or
    branches of different strides meet.
    """
    source = _named(graph.inputs, [v.name for v in graph.inputs], input, "input")
    target = _named(graph.outputs, graph.output_names, output, "output")
    whole = [(0, int(d) - 1, 0) if isinstance(d, int) else None for d in source.type.shape[2:]]
    fields: dict[Value, list[Axis]] = {source: [(0, 0, 1) for _ in source.type.shape[2:]]}
    for node in graph.nodes:
        read = [fields[v] for v in node.operands() if v in fields]
        if not read:
            continue
        for value in node.outputs:
            if None in whole and not _is_local(node, source):
                raise GraphError(f"{node.where}: reads everything, so the sizes of '{source.name}' must be known")
            fields[value] = _through(node, read) if _is_local(node, source) else [a for a in whole if a is not None]
    if target not in fields:
        raise GraphError(f"receptive_field: the output does not depend on input '{source.name}'")
    axes = fields[target]
    return ReceptiveField(
        tuple(last - first + 1 for first, last, _ in axes),
        tuple(step for _, _, step in axes),
        tuple(first for first, _, _ in axes),
    )


def _named(values: Sequence[Value], names: Sequence[str], name: str | None, what: str) -> Value:
    if name is None and values:
        return values[0]
    if name not in names:
        raise GraphError(f"receptive_field: there is no {what} '{name}'; there are {', '.join(names)}")
    return values[names.index(name)]


_WINDOWS = ("conv", "max_pool", "average_pool", "locally_connected")


def _is_local(node: Node, source: Value) -> bool:
    """Whether places of the result depend on places around them alone."""
    if any(v.type.rank != source.type.rank for v in node.outputs):
        return False
    if node.op == "concat":
        return bool(node.attrs.axis == 1)
    if node.op == "pad":
        return bool(node.attrs.mode == "constant")
    return node.op in _WINDOWS or node.op in ("batch_norm", "to_layout") or lookup(node.op).elementwise


def _through(node: Node, read: Sequence[list[Axis]]) -> list[Axis]:
    """The field of a node's result from those of its operands."""
    axes = []
    for axis, reads in enumerate(zip(*read, strict=True)):
        first, last, step = _union(node, reads)
        if node.op in _WINDOWS:
            g = _geometry(node)
            begin, extent, stride = g.begin[axis], g.extent[axis], g.strides[axis]
            first, last, step = first - begin * step, last + (extent - 1 - begin) * step, step * stride
        elif node.op == "pad":
            begin = node.attrs.pads[axis + 2]
            first, last = first - begin * step, last - begin * step
        axes.append((first, last, step))
    return axes


def _union(node: Node, reads: Sequence[Axis]) -> Axis:
    everything = [r for r in reads if r[2] == 0]
    steps = {step for _, _, step in reads}
    if not everything and len(steps) > 1:
        raise GraphError(f"{node.where}: branches of strides {' and '.join(map(str, sorted(steps)))} meet")
    return everything[0] if everything else (min(r[0] for r in reads), max(r[1] for r in reads), steps.pop())


def _geometry(node: Node) -> Geometry:
    if node.op in ("max_pool", "average_pool"):
        return geometry(node.attrs, node.attrs.kernel)
    w = node.inputs[1]
    assert w is not None
    rank = node.outputs[0].type.rank - 2
    return geometry(node.attrs, w.type.shape[-rank:])
