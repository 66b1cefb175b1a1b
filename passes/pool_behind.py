"""fuse-pools: a max pool behind a convolution is made in the convolution's kernel, where that saves traffic.

The algorithms are chosen already: this asks that of the convolution whether it can (`Algorithm.pooled`), and compares
its modelled time with that of both kernels.
"""

from __future__ import annotations

from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.kernel import KernelAttrs, anchor, kernel_node
from cnncc.passes.alternatives import LAUNCH
from cnncc.passes.fusion import switched_off
from cnncc.passes.manager import Context
from cnncc.targets.describe import describe
from cnncc.targets.problem import ConvProblem, PoolBehind, PoolProblem
from cnncc.targets.table import find_algorithm

GAIN = 0.3  # of the pool's time that one kernel must save
RISING = ("add", "relu", "clip")  # of a value and numbers per channel: the largest stays the largest


def fuse_pools(graph: Graph, context: Context) -> None:
    """kernel(max_pool(kernel(f(conv(x, w))))) --> kernel(f(max_pool(conv(x, w)))) for f that keeps the order."""
    for node in list(graph.nodes):
        root = None if node.body is None else anchor(node.body)
        if root is None or root.op != "max_pool":
            continue
        reason = _fuse(graph, node, root, context)
        if reason:
            context.decline("fuse-pools", node.where, reason)


def _fuse(graph: Graph, node: Node, root: Node, context: Context) -> str:
    """Replace both kernels by one; gives the reason why not."""
    assert node.body is not None
    assert context.target is not None
    if reason := switched_off("pool", context.without):
        return reason
    (pooled,) = root.operands()
    if pooled not in node.body.inputs:
        return "the pool computes what stands before it"
    value = node.inputs[node.body.inputs.index(pooled)]
    assert value is not None
    first = value.node
    conv = None if first is None or first.body is None else anchor(first.body)
    if first is None or first.body is None or conv is None or conv.op != "conv":
        return "no convolution stands before the pool"
    if graph.uses(value) != 1 or len(first.outputs) != 1:
        return "the convolution's result is read elsewhere, too"
    if context.frozen or (context.tuning is not None and context.tuning.known(first.body)):
        return "the convolution alone was measured, and runs as measured"
    if reason := _rises(first.body, conv):
        return reason
    body = _joined(first, conv, node, root, pooled)
    if reason := _pays(first, node, body, context):
        return reason
    operands, layouts = _operands(first, node, value)
    if layouts is None:
        return "the layout changes between them"
    attrs = KernelAttrs(first.attrs.algorithm, layouts)
    both = kernel_node(graph, body, operands, attrs, first.source)
    graph.add_node(both)
    both.output.name, node.output.name = node.output.name, both.output.name
    graph.replace(node.output, both.output)
    for old in (node, first):
        old.drop()
        graph.nodes.remove(old)
    graph.tidy()
    return ""


def _rises(body: Graph, conv: Node) -> str:
    """The reason why what follows a convolution may not follow the pool as well."""
    for node in body.nodes:
        if node is conv:
            continue
        if node.op not in RISING:
            return f"{node.op} may change which result is the largest"
        inside = [v for v in node.operands() if v.node is not None]
        others = [v for v in node.operands() if v.node is None]
        channel = conv.output.type.rank - 1  # counted from the last axis
        if len(inside) != 1 or any(
            d != 1 for v in others for a, d in enumerate(v.type.shape) if v.type.rank - a != channel
        ):
            return f"{node.op} takes more than one number per channel"
    return ""


def _joined(one: Node, conv: Node, other: Node, pool: Node, pooled: Value) -> Graph:
    """The body of both: the convolution, the pool, what followed the one, what follows the other."""
    first, second = one.body, other.body
    assert first is not None
    assert second is not None
    body = Graph("body")
    inner: dict[Value, Value] = {}
    inputs: dict[Value, Value] = {}  # by the kernels' operands, which both may read
    pairs = [*zip(one.operands(), first.inputs, strict=True), *zip(other.operands(), second.inputs, strict=True)]
    for operand, value in pairs:
        if value is not pooled:
            if operand not in inputs:
                inputs[operand] = body.add_input(body.fresh_name(value.name), value.type)
            inner[value] = inputs[operand]

    def copy(node: Node, spatial: bool) -> None:
        shape = pool.output.type.shape
        body.add_copy(node, inner, [v.type.with_(shape=shape) if spatial else v.type for v in node.outputs])

    copy(conv, False)
    inner[pooled] = inner[conv.output]
    copy(pool, False)
    inner[conv.output] = inner[pool.output]
    for node in first.nodes:
        if node is not conv:
            copy(node, True)
    inner[pool.output] = inner[first.outputs[0]]
    for node in second.nodes:
        if node is not pool:
            copy(node, False)
    for value in second.outputs:
        body.add_output(inner[value])
    return body


def _pays(first: Node, second: Node, body: Graph, context: Context) -> str:
    """The reason why the kernel of both is not taken, by the algorithm and the model."""
    target = context.target
    assert target is not None
    assert first.body is not None
    assert second.body is not None
    algorithm = find_algorithm(target, first.attrs.algorithm)
    other = find_algorithm(target, second.attrs.algorithm)
    alone, pool, together = describe(first.body), describe(second.body), describe(body)
    if algorithm is None or other is None or alone is None or pool is None:
        return "there is no model of both kernels"
    assert isinstance(together, ConvProblem)
    assert isinstance(pool, PoolProblem)
    if any(d != 1 for d in pool.dilations) or together.behind is None:
        return "the pool's window has gaps"
    if reason := _empty(together.out, together.behind) or algorithm.pooled(together, target):
        return f"{algorithm.name}: {reason}"
    pools = other.cost(pool, target, other.tiles_for(pool, target)).seconds + LAUNCH
    apart = algorithm.cost(alone, target, algorithm.tiles_for(alone, target)).seconds + pools
    joined = algorithm.cost(together, target, algorithm.tiles_for(together, target)).seconds
    if apart - joined < GAIN * pools:
        return f"two kernels take {1e6 * apart:.0f} us by the model, one {1e6 * joined:.0f}"
    return ""


def _empty(size: tuple[int, ...], pool: PoolBehind) -> str:
    """The reason where a window may hold nothing of the image."""
    last = [(o - 1) * s - p for o, s, p in zip(pool.out, pool.strides, pool.begin, strict=True)]
    if any(p >= k for p, k in zip(pool.begin, pool.kernel, strict=True)) or any(
        at >= d for at, d in zip(last, size, strict=True)
    ):
        return f"a window of the pool lies in the padding alone, got {pool}"
    return ""


def _operands(first: Node, second: Node, between: Value) -> tuple[list[Value], tuple[str, ...] | None]:
    """The operands of both kernels, each once, and the wanted layouts of those and the result; None in place of the
    layouts where one changes between the kernels."""
    wanted: dict[Value, set[str]] = {}
    for node in (first, second):
        tags = node.attrs.layouts or ("",) * (len(node.inputs) + len(node.outputs))
        for value, tag in zip((*node.operands(), *node.outputs), tags, strict=True):
            wanted.setdefault(value, set()).add(tag)
    result = second.output
    operands = [v for v in wanted if v not in (between, result)]
    if any(len(tags) > 1 for tags in wanted.values()) or wanted[between] != wanted[result]:
        return operands, None
    tags = tuple(next(iter(wanted[v])) for v in (*operands, result))
    return operands, tags if any(tags) else ()
