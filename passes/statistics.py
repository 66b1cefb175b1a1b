"""split-batchnorm: batch norm with the statistics of the batch as sums and elementwise operations, which fuse with
what is around them: the activation behind it reads the convolution's result, not a normalised copy."""

from __future__ import annotations

from cnncc.builder import Builder
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ops.common import per_channel
from cnncc.ops.half import HALF
from cnncc.ops.moments import inverse_deviation
from cnncc.passes.manager import Context


def split_batchnorm(graph: Graph, context: Context) -> None:
    """y, mean, var = batch_norm_train(x, gamma, beta) --> mean = mean(x), var = mean((x - mean)^2),
    y = (x - mean) (gamma / sqrt(var + eps)) + beta."""
    for node in list(graph.nodes):
        if node.op != "batch_norm_train":
            continue
        if node.outputs[0].type.dtype in HALF:
            context.decline("split-batchnorm", node.where, "statistics in half precision are kept inside of one kernel")
            continue
        start = len(graph.nodes)
        made = _split(Builder(graph), node)
        for new in graph.nodes[start:]:
            new.source = node.source
        for old, value in zip(node.outputs, made, strict=True):
            graph.replace(old, value)
    graph.tidy()


def _split(b: Builder, node: Node) -> tuple[Value, Value, Value]:
    x, gamma, beta = node.operands()
    rank = x.type.rank
    others = (0, *range(2, rank))
    mean = b.reduce_mean(x, axes=others, keepdims=False)
    centred = b.sub(x, per_channel(b, mean, rank))
    var = b.reduce_mean(b.mul(centred, centred), axes=others, keepdims=False)
    scale = b.mul(gamma, inverse_deviation(b, var, node.attrs.eps))
    y = b.add(b.mul(centred, per_channel(b, scale, rank)), per_channel(b, beta, rank))
    return y, mean, var
