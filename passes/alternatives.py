"""What can run a kernel: every algorithm that applies, with the layouts it wants and the time it should take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.kernel import anchor, feeding
from cnncc.ir.layout import PLAIN, Layout, channels
from cnncc.ir.types import Type
from cnncc.ops.registry import lookup
from cnncc.passes.channels_last import layouts_beside_transposes
from cnncc.passes.manager import Context
from cnncc.targets.algorithm import Algorithm
from cnncc.targets.describe import describe, family, hinted
from cnncc.targets.problem import WinogradWeightsProblem
from cnncc.targets.table import FALLBACK, GENERIC, algorithms
from cnncc.targets.target import Target

DEFAULT_BOUND = 3e-5  # of the largest result: what accuracy="default" lets an algorithm err, on the worst operands
LAUNCH = 1e-6  # seconds a kernel costs besides its work
# Of the FMA peak, for products that no algorithm takes; on a GPU never preferred to an algorithm, however small.
FALLBACK_EFFICIENCY = {"cpu": 0.04, "cuda": 1e-6}
FALLBACK_SLOWDOWN = 8  # against reading and writing once, for other anchors scheduled from their definition
REDUCTIONS = ("reduce_", "softmax", "log_softmax", "arg", "layer_norm", "instance_norm", "group_norm")
OVER_CHANNELS = ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min")
CHANNELWISE = (
    *("pad", "resize", "reduce_", "adaptive", "average_pool", "max_pool", "slice", "concat", "interleave"),
    *("split_phases", "join_phases"),
)

# Padding of blocks stays finite in these, whatever finite value it had (products with it are with zero weights).
KEEPS_FINITE = (
    *("add", "sub", "mul", "neg", "abs", "max", "min", "clip", "relu", "leaky_relu", "sigmoid"),
    *("hard_sigmoid", "silu", "hard_swish", "tanh", "gelu", "reduce_mean", "reduce_sum", "reduce_max", "reduce_min"),
)


@dataclass(frozen=True)
class Alternative:
    """One way to run a kernel."""

    algorithm: str
    operands: tuple[Layout, ...]
    results: tuple[Layout, ...]
    seconds: float


def alternatives(node: Node, target: Target, context: Context) -> list[Alternative]:
    """The ways to run a kernel, never none. Of those with the same layouts only the fastest is kept."""
    assert node.body is not None
    found = [*by_algorithm(node, node.body, target, context), *_generic(node.body, target)]
    if context.tuning is not None:
        found = [replace(a, seconds=context.tuning.seconds(node.body, a.algorithm, a.seconds)) for a in found]
    best: dict[tuple[tuple[Layout, ...], tuple[Layout, ...]], Alternative] = {}
    for alternative in found:
        key = (alternative.operands, alternative.results)
        if key not in best or alternative.seconds < best[key].seconds:
            best[key] = alternative
    return list(best.values())


def transform_seconds(type_: Type, target: Target) -> float:
    """Time to change the layout of a value: it is read and written once."""
    return 2 * size(type_) / (target.gbytes_per_second * 1e9) + LAUNCH


def size(type_: Type) -> int:
    """Bytes of a value at the hinted batch."""
    return hinted(type_.nbytes)


def by_algorithm(node: Node, body: Graph, target: Target, context: Context) -> Iterable[Alternative]:
    """The algorithms that apply to a kernel and that the accuracy policy allows, at their modelled times."""
    problem, root = describe(body), anchor(body)
    if problem is None or root is None:
        return
    x = next(root.operands())
    first = body.inputs.index(x) if x in body.inputs else -1
    for algorithm in algorithms(target, family(root)):
        reason = algorithm.applies(problem, target)
        if reason is None and first < 0 and not algorithm.prologue:
            reason = "it takes no prologue"
        if reason is None and not algorithm.exact and context.accuracy == "strict":
            reason = "accuracy='strict' asks for the sums of the definition"
        if (
            reason is None
            and context.accuracy == "default"
            and (bound := algorithm.error_bound(problem, target)) > DEFAULT_BOUND
        ):
            reason = f"its error bound {bound:.1e} is above {DEFAULT_BOUND:.0e}; accuracy='fast' allows it"
        if reason is None and algorithm.constant_weights and not _weights_known(node, body, root):
            reason = "the weights are not known at compile time, and would be packed in every run"
        prepares = reason is None and bool(algorithm.weight_op) and not _weights_known(node, body, root)
        if prepares and (body.outputs[0].type.dtype != "f32" or not algorithms(target, algorithm.weight_op or "")):
            reason = "the weights are not known at compile time, and nothing prepares them at run time"
        if reason is not None:
            context.decline(f"choose {algorithm.name}", node.where, reason)
            continue
        wanted = algorithm.layouts(problem, target)
        before = feeding(x) if first < 0 else set()
        operands = []
        for value in body.inputs:
            if value is x:
                operands.append(wanted.x)
            elif value in before:
                operands.append(beside(value.type, x.type, wanted.x))
            elif len(root.inputs) > 1 and value is root.inputs[1]:
                assert wanted.w is not None
                operands.append(wanted.w)
            else:
                operands.append(beside(value.type, body.outputs[0].type, wanted.out))
        cost = algorithm.cost(problem, target, algorithm.tiles_for(problem, target))
        extra = sum(size(v.type) for v in body.inputs if v not in root.inputs) / (target.gbytes_per_second * 1e9)
        if prepares:
            extra += _preparing_seconds(algorithm, problem, root, target)
        yield Alternative(
            algorithm.name, tuple(operands), (wanted.out,) * len(body.outputs), cost.seconds + extra + LAUNCH
        )


def _preparing_seconds(algorithm: Algorithm, problem: Any, root: Node, target: Target) -> float:
    """Time of the kernel that prepares weights at run time."""
    assert algorithm.weight_op is not None
    assert algorithm.attrs_for is not None
    assert root.inputs[1] is not None
    (preparer,) = algorithms(target, algorithm.weight_op)
    attrs = algorithm.attrs_for(problem, algorithm.tiles_for(problem, target))
    made = WinogradWeightsProblem(problem.oc, problem.ic, problem.kernel, attrs.m)
    return preparer.cost(made, target, preparer.tiles_for(made, target)).seconds + LAUNCH


def _weights_known(node: Node, body: Graph, root: Node) -> bool:
    """Whether the anchor's second operand is a constant of the graph."""
    weights = root.inputs[1]
    if weights not in body.inputs:
        return False
    operand = node.inputs[body.inputs.index(weights)]
    return operand is not None and operand.is_constant


def beside(operand: Type, result: Type, layout: Layout) -> Layout:
    """The layout of an operand that broadcasts to a result in a given layout: the same where it has those axes."""
    if operand.rank != result.rank:
        return PLAIN
    same = all(operand.shape[axis] == result.shape[axis] for axis, _ in layout.blocks)
    return layout if same else PLAIN


def _generic(body: Graph, target: Target) -> Iterable[Alternative]:
    root = anchor(body)
    plain_in, plain_out = (PLAIN,) * len(body.inputs), (PLAIN,) * len(body.outputs)
    moved = sum(size(v.type) for v in (*body.inputs, *body.outputs))
    seconds = moved / (target.gbytes_per_second * 1e9) + LAUNCH
    if root is not None and (problem := describe(body)) is not None and hasattr(problem, "macs"):
        peak = target.gflops_per_core * 1e9 * target.threads * FALLBACK_EFFICIENCY[target.kind]
        yield Alternative(FALLBACK, plain_in, plain_out, seconds + 2 * problem.macs / peak)
        return
    name = GENERIC if root is None or root.op.startswith(REDUCTIONS) else FALLBACK
    seconds *= FALLBACK_SLOWDOWN if name == FALLBACK else 1
    yield Alternative(name, plain_in, plain_out, seconds)
    if target.kind != "cpu":
        return
    if root is None and (turned := layouts_beside_transposes(body, target.block)) is not None:
        yield Alternative(name, *turned, seconds)
    blocked = channels(target.block)
    if (count := _ragged(body, target.block)) > 0:
        operands = tuple(blocked if v.type.rank > 2 and v.type.shape[1] == count else PLAIN for v in body.inputs)
        for out in (blocked, *((PLAIN,) if root is not None else ())):
            values = zip((*body.inputs, *body.outputs), (*operands, *(out,) * len(body.outputs)), strict=True)
            moved = sum(size(v.type.with_(layout=layout)) for v, layout in values)
            seconds = moved / (target.gbytes_per_second * 1e9) + LAUNCH
            yield Alternative(name, operands, (out,) * len(body.outputs), seconds)
        return
    if root is not None and _reduces_to_channels(body, root, target.block):
        full = next(iter(root.operands())).type
        operands = tuple(blocked if v.type.shape == full.shape or _lies_along(v, full) else PLAIN for v in body.inputs)
        yield Alternative(name, operands, plain_out, seconds)
        return
    if all(_blockable(v, target.block) for v in body.outputs) and _channelwise(body, target.block):
        operands = tuple(
            blocked if _blockable(v, target.block) or _per_channel(v, body.outputs[0]) else PLAIN for v in body.inputs
        )
        if any(operands):
            yield Alternative(name, operands, (blocked,) * len(body.outputs), seconds)
            if root is not None and not all(v.type.plain.lies_as(blocked) for v in body.outputs):
                yield Alternative(name, operands, plain_out, seconds)


def _blockable(value: Value, block: int) -> bool:
    shape = value.type.shape
    return (
        len(shape) >= 3
        and isinstance(shape[1], int)
        and shape[1] % block == 0
        and value.type.dtype in ("f32", "f64", "i32")
    )


def _ragged(body: Graph, block: int) -> int:
    """Channels of all values of a kernel that may run on blocks although they are no whole blocks: the padding is
    computed too, and stays finite. 0 where that is not so, or would be most of the work."""
    count = body.outputs[0].type.shape[1] if body.outputs[0].type.rank > 2 else 0
    if not isinstance(count, int) or count < block or not count % block:
        return 0
    if any(
        n.op not in KEEPS_FINITE or (n.op.startswith("reduce_") and any(a < 2 for a in n.attrs.axes or (0,)))
        for n in body.nodes
    ):
        return 0
    rank = body.outputs[0].type.rank
    for value in body.values():
        type_ = value.type
        whole = type_.rank == rank and type_.shape[1] == count
        if type_.dtype != "f32" or not (whole or type_.rank == 0 or (type_.rank == rank and type_.shape[1] == 1)):
            return 0
    return count if all(v.type.shape[1] == count for v in body.outputs) else 0


def _reduces_to_channels(body: Graph, root: Node, block: int) -> bool:
    """Whether a kernel sums (or the like) over all axes but the channels: its lanes are then channels of a block. What
    stands before the anchor has its operand's shape or a number per channel, what stands behind it a number each."""
    operand = next(iter(root.operands()))
    if root.op not in OVER_CHANNELS or not _blockable(operand, block):
        return False
    full = operand.type
    if set(root.attrs.axes) != {a for a in range(full.rank) if a != 1} or root.attrs.keepdims:
        return False
    before = feeding(operand)
    return all(lookup(n.op).elementwise for n in body.nodes if n is not root) and all(
        (v.type.shape == full.shape or _is_number_each(v.type, full)) if v in before
        else v.type.shape in ((), (full.shape[1],))
        for v in body.values()
    )  # fmt: skip


def _is_number_each(type_: Type, full: Type) -> bool:
    """Whether what broadcasts to `full` has no axis but the channels."""
    return all(d == 1 for a, d in enumerate(type_.shape, start=full.rank - type_.rank) if a != 1)


def _lies_along(value: Value, full: Type) -> bool:
    """Whether a value has a number per channel, beside one of type `full`."""
    shape = value.type.shape
    return len(shape) == full.rank and shape[1] == full.shape[1]


def _per_channel(value: Value, result: Value) -> bool:
    a, b = value.type, result.type
    return a.rank == b.rank and a.rank >= 3 and a.shape[1] == b.shape[1]


def _channelwise(body: Graph, block: int) -> bool:
    """Whether every op treats blocks of channels alike, so that the kernel may run in the blocked layout."""
    for node in body.nodes:
        op = lookup(node.op)
        if op.elementwise:
            continue
        if not node.op.startswith(CHANNELWISE):
            return False
        values: Sequence[Value] = [*node.operands(), *node.outputs]
        if any(not _blockable(v, block) for v in values):
            return False
        if node.op == "concat" and node.attrs.axis != 1:
            return False
        if node.op == "slice" and values[0].type.shape[1] != values[-1].type.shape[1]:
            return False
        if node.op == "pad" and values[0].type.shape[1] != values[-1].type.shape[1]:
            return False
        if node.op.startswith("reduce_") and any(a < 2 for a in node.attrs.axes or (0,)):
            return False
    return True
