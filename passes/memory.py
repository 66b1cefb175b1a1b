"""plan-memory: where every value lies, before anything runs.

Results of kernels share one arena: buffers whose lifetimes do not overlap take the same bytes, largest first, each at
the lowest offset that is free. What is a view of another value (`passes/views.py`) lies where that lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cnncc.ir.dims import Dim, affine
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.types import Type
from cnncc.passes.views import ALIGN, Views, find_views


@dataclass(frozen=True)
class Size:
    """Bytes: `constant` + sum of coefficient * symbol."""

    constant: int
    terms: tuple[tuple[str, int], ...] = ()

    @staticmethod
    def of(dim: Dim) -> Size:
        """The size for a number of bytes, each part rounded up to ALIGN."""
        constant, terms = affine(dim)
        return Size(_up(constant), tuple((s, _up(c)) for s, c in sorted(terms.items())))

    def __add__(self, other: Size) -> Size:
        terms = dict(self.terms)
        for s, c in other.terms:
            terms[s] = terms.get(s, 0) + c
        return Size(self.constant + other.constant, tuple(sorted(terms.items())))


@dataclass
class Plan(Views):
    """The result: views, offsets of the others in the arena, kernels that need not run, and the arena's size.

    workspaces: per kernel, offsets of its extra buffers. Values that are graph inputs, constants or outputs of the
    graph have memory of their own and no offset.
    """

    offsets: dict[Value, Size] = field(default_factory=dict)
    workspaces: dict[Node, dict[int, Size]] = field(default_factory=dict)
    arena: Size = field(default_factory=lambda: Size(0))


@dataclass
class _Block:
    """A piece of the arena to place: live from kernel `begin` to kernel `end`, both included."""

    size: int
    begin: int
    end: int
    offset: int = -1


def plan_memory(
    graph: Graph, workspaces: Mapping[Node, Sequence[Type]] | None = None, views: Views | None = None
) -> Plan:
    """Place every value. `workspaces`: types of the extra buffers of kernels; `views`: what `find_views` found. Raises
    GraphError for sizes that are not linear in the symbols."""
    found = find_views(graph) if views is None else views
    plan = Plan(found.views, found.skipped, found.pitches)
    step = {node: k for k, node in enumerate(graph.nodes)}
    own = {*graph.inputs, *graph.outputs}
    first: dict[Value, int] = {}
    last: dict[Value, int] = {}
    for node in graph.nodes:
        for value in node.outputs:
            root = plan.root(value)
            users = [step[u] for u in value.users]
            first[root] = min(first.get(root, step[node]), step[node])
            last[root] = max([last.get(root, 0), step[node], *users])
    placed: dict[tuple[str, ...], list[tuple[Value | tuple[Node, int], _Block]]] = {}
    for root, begin in first.items():
        if root in own or root.is_constant or root.node is None:
            continue
        size = Size.of(root.type.nbytes)
        kind, amount = _kind(size)
        placed.setdefault(kind, []).append((root, _Block(amount, begin, last[root])))
    for node, types in (workspaces or {}).items():
        for k, type_ in enumerate(types):
            kind, amount = _kind(Size.of(type_.nbytes))
            placed.setdefault(kind, []).append(((node, k), _Block(amount, step[node], step[node])))
    start = Size(0)
    for kind in sorted(placed):
        total = _place([block for _, block in placed[kind]])
        for key, block in placed[kind]:
            offset = start + _sized(kind, block.offset)
            if isinstance(key, Value):
                plan.offsets[key] = offset
            else:
                plan.workspaces.setdefault(key[0], {})[key[1]] = offset
        start = start + _sized(kind, total)
    plan.arena = start
    return plan


def _kind(size: Size) -> tuple[tuple[str, ...], int]:
    """Sizes that scale alike share memory: constants; multiples of one symbol (constant + c N <= (constant + c) N)."""
    if not size.terms:
        return (), size.constant
    if len(size.terms) == 1:
        return (size.terms[0][0],), size.terms[0][1] + size.constant
    return tuple(s for s, _ in size.terms), sum(c for _, c in size.terms) + size.constant


def _sized(kind: tuple[str, ...], amount: int) -> Size:
    return Size(amount) if not kind else Size(0, tuple((s, amount) for s in kind))


def _place(blocks: Sequence[_Block]) -> int:
    """Give every block the lowest offset where no block alive at the same time lies; returns the end of the last."""
    done: list[_Block] = []
    for block in sorted(blocks, key=lambda b: (-b.size, b.begin)):
        near = sorted((b for b in done if b.begin <= block.end and block.begin <= b.end), key=lambda b: b.offset)
        offset = 0
        for other in near:
            if offset + block.size <= other.offset:
                break
            offset = max(offset, other.offset + other.size)
        block.offset = offset
        done.append(block)
    return max((b.offset + b.size for b in blocks), default=0)


def _up(size: int) -> int:
    return -(-size // ALIGN) * ALIGN
