"""fuse-producers: what a 1x1 convolution reads is computed inside of its kernel, where that takes less time.

    depthwise convolution, with its epilogue      } --> 1x1 convolution     one kernel (targets/cpu/fused.py)
    elementwise kernel: x * gate, relu(x s + t)   }

It runs behind `choose`: algorithms and layouts are known, so the modelled time of one kernel stands against that of
two. Fused, the tensor between both is neither written nor read, and a kernel less is started; but tasks make all
output channels, and their pixels must fit the scratch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.kernel import anchor, kernel_node, take_place
from cnncc.ops.registry import lookup
from cnncc.passes.alternatives import LAUNCH, size
from cnncc.passes.fusion import per_channel, switched_off
from cnncc.passes.manager import Context
from cnncc.targets.cpu.tiling import memory_seconds
from cnncc.targets.describe import describe
from cnncc.targets.problem import FUSED, ConvProblem, FusedProblem
from cnncc.targets.table import GENERIC, find_algorithm
from cnncc.targets.target import Target

READERS = ("pointwise", "direct")
RULE = "fuse-producers"
GAIN = 1.02  # by how much one kernel must be faster than two
# Of the time to read what is between them again, if it exceeds the threads' second-level caches so many times.
REREAD, CACHES = 0.35, 1.5


@dataclass(frozen=True)
class _Pair:
    """A 1x1 convolution's kernel, its operand that only it reads, and the kernel that makes that."""

    producer: Node
    reader: Node
    between: Value
    problem: FusedProblem
    kind: str


def fuse_producers(graph: Graph, context: Context) -> None:
    """producer kernel, 1x1 convolution's kernel --> one kernel."""
    target = context.target
    if target is None or target.kind != "cpu":
        return
    for node in list(graph.nodes):
        pair = _pair(graph, node)
        if pair is None:
            continue
        reason = switched_off(pair.kind, context.without) or _refuses(pair, target, context)
        if reason:
            context.decline(RULE, node.where, reason)
        else:
            _join(graph, pair)
    graph.tidy()


def _pair(graph: Graph, reader: Node) -> _Pair | None:
    """What might be fused with a kernel: the layouts on both sides agree, and nobody else reads what is between."""
    if reader.body is None or reader.attrs.algorithm not in READERS or not reader.attrs.layouts:
        return None
    root, problem = anchor(reader.body), describe(reader.body)
    assert root is not None
    inner = root.inputs[0]
    if not isinstance(problem, ConvProblem) or problem.behind is not None or inner not in reader.body.inputs:
        return None
    place = reader.body.inputs.index(inner)
    between = reader.inputs[place]
    if between is None or between.node is None or between.node.body is None or graph.uses(between) != 1:
        return None
    producer = between.node
    if len(producer.outputs) != 1 or not producer.attrs.layouts or inner.users.get(root) != sum(inner.users.values()):
        return None
    tag = reader.attrs.layouts[place]
    if prod(problem.kernel) != 1 or not tag or producer.attrs.layouts[-1] != tag:
        return None
    assert producer.body is not None
    before = anchor(producer.body)
    if before is None:
        whole = [v for v in producer.operands() if v.type.shape == between.type.shape]
        elementwise = all(lookup(n.op).elementwise for n in producer.body.nodes)
        if producer.attrs.algorithm != GENERIC or not elementwise or len(whole) != 1:
            return None
        kind = "gate" if any(per_channel(v) for v in producer.operands()) else "pre-activation"
        return _Pair(producer, reader, between, FusedProblem(problem), kind)
    depthwise = describe(producer.body)
    if producer.attrs.algorithm != "depthwise" or not isinstance(depthwise, ConvProblem):
        return None
    return _Pair(producer, reader, between, FusedProblem(problem, depthwise), "depthwise")


def _refuses(pair: _Pair, target: Target, context: Context) -> str:
    """Why two kernels stay apart, in words; empty where one is faster."""
    fused = find_algorithm(target, FUSED)
    assert fused is not None
    for node in (pair.producer, pair.reader):
        algorithm = find_algorithm(target, node.attrs.algorithm)
        assert node.body is not None
        if context.tuning is None or algorithm is None:
            continue
        if context.tuning.tile(node.body, algorithm, describe(node.body), target) is not None:
            return f"{node.where} runs a measured record"
    reason = fused.applies(pair.problem, target)
    if reason is not None:
        return reason
    reader = find_algorithm(target, pair.reader.attrs.algorithm)
    assert reader is not None
    conv = pair.problem.conv
    again = size(pair.between.type)
    apart = _producer_seconds(pair, target) + reader.cost(conv, target, reader.tiles_for(conv, target)).seconds + LAUNCH
    if again > CACHES * target.threads * target.l2:
        apart += REREAD * memory_seconds(target, again)
    one = fused.cost(pair.problem, target, fused.tiles_for(pair.problem, target)).seconds
    if one * GAIN > apart:
        return f"one kernel would take {one * 1e6:.1f} us, {pair.kind} and 1x1 convolution apart {apart * 1e6:.1f} us"
    return ""


def _producer_seconds(pair: _Pair, target: Target) -> float:
    before = pair.problem.before
    if before is None:
        return memory_seconds(target, sum(size(v.type) for v in (*pair.producer.operands(), pair.between)))
    algorithm = find_algorithm(target, pair.producer.attrs.algorithm)
    assert algorithm is not None
    return algorithm.cost(before, target, algorithm.tiles_for(before, target)).seconds


def _join(graph: Graph, pair: _Pair) -> None:
    """Put both bodies into one kernel, in the place of the reader."""
    body = Graph("body")
    inner: dict[Value, Value] = {}
    operands: list[Value] = []
    tags: list[str] = []
    assert pair.producer.body is not None
    result = pair.producer.body.outputs[0]
    for kernel in (pair.producer, pair.reader):
        assert kernel.body is not None
        for value, own, tag in zip(kernel.operands(), kernel.body.inputs, kernel.attrs.layouts, strict=False):
            if value is pair.between:
                inner[own] = inner[result]
                continue
            operands.append(value)
            tags.append(tag)
            inner[own] = body.add_input(body.fresh_name(own.name), own.type)
        for node in kernel.body.nodes:
            body.add_copy(node, inner)
    assert pair.reader.body is not None
    for value in pair.reader.body.outputs:
        body.add_output(inner[value])
    results = pair.reader.attrs.layouts[len(pair.reader.inputs) :]
    attrs = replace(pair.reader.attrs, algorithm=FUSED, layouts=(*tags, *results))
    fused = kernel_node(graph, body, operands, attrs, pair.reader.source)
    take_place(graph, fused, pair.reader.outputs, (pair.reader, pair.producer))
