"""repeat-chains: a value that is a few operations away from one that lies in memory anyway is computed by every reader.

In training x - mean and the normalised value are read forward and backward; each reader has x and a few numbers per
channel at hand, and reading x costs what reading the value would. Writing it is saved, and its memory.
"""

from __future__ import annotations

from cnncc.ir.dims import Dim
from cnncc.ir.dtype import is_float
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ops.registry import lookup
from cnncc.passes.manager import Context

CHEAP = frozenset({"add", "sub", "mul"})
LONGEST = 4  # operations of a chain


def repeat_chains(graph: Graph, context: Context) -> None:
    """v = f(x, numbers per channel); g(v); h(v) --> g(f(x, ...)); h(f(x, ...)), where x is read by others as well."""
    for node in reversed(list(graph.nodes)):
        if len(node.outputs) != 1 or node.output in graph.outputs or len(node.output.users) < 2:
            continue
        chain = _chain(node)
        if not chain:
            continue
        reason = _refuses(node, chain)
        if reason:
            context.decline("repeat-chains", node.where, reason)
            continue
        for user in list(node.output.users)[1:]:
            again = graph.add_copy(node, {v: v for v in node.operands()})
            user.replace_input(node.output, again.output)
    graph.tidy()


def _chain(node: Node) -> list[Node]:
    """A node and those before it that have one operand of its shape, others of a number per channel, as far as that
    goes; none where the node is not of that kind itself."""
    chain: list[Node] = []
    at: Node | None = node
    while at is not None and len(chain) < LONGEST and _large(at) is not None:
        chain.append(at)
        large = _large(at)
        at = large.node if large is not None else None
    return chain


def _large(node: Node) -> Value | None:
    """The one operand of a cheap operation that has the result's shape, where all others have a number per channel."""
    if node.op not in CHEAP or not is_float(node.output.type.dtype):
        return None
    result = node.output.type
    whole = [v for v in node.operands() if v.type.shape == result.shape]
    small = [v for v in node.operands() if v.type.shape != result.shape and _per_channel(v.type.shape, result.rank)]
    return whole[0] if len(whole) == 1 and len(small) == len(node.inputs) - 1 else None


def _per_channel(shape: tuple[Dim, ...], rank: int) -> bool:
    """Whether the shape of an operand that broadcasts to a result has no axis but the channels."""
    return all(d == 1 for a, d in enumerate(shape, start=rank - len(shape)) if a != 1)


def _refuses(node: Node, chain: list[Node]) -> str:
    origin = _large(chain[-1])
    assert origin is not None
    if origin.node is not None and len(origin.users) == 1:
        return f"%{origin.name} is read by nothing else, and need not be in memory"
    shape = node.output.type.shape
    for user in node.output.users:
        fuses = lookup(user.op).elementwise and user.outputs[0].type.shape == shape
        if not fuses and not user.op.startswith("reduce_"):
            return f"{user.where} needs it in memory"
    return ""
