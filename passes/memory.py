"""plan-memory: where every value lies, before anything runs.

Results of kernels share one arena: buffers whose lifetimes do not overlap take the same bytes, largest first, each at
the lowest offset that is free. Reshapes are views, and so are changes between layouts of one order. A concat whose
members are contiguous in its result (batch 1) is not run at all: its members are written in place; where several
concats begin with the same members (DenseNet), the shorter are views of the longest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from cnncc.ir.dims import Dim, affine, product
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.types import Type

ALIGN = 64


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


@dataclass(frozen=True)
class View:
    """A value that lies inside another one's memory, `offset` bytes from its start."""

    root: Value
    offset: int = 0


@dataclass
class Plan:
    """The result: views, offsets of the others in the arena, kernels that need not run, and the arena's size.

    workspaces: per kernel, offsets of its extra buffers. Values that are graph inputs, constants or outputs of the
    graph have memory of their own and no offset.
    """

    views: dict[Value, View] = field(default_factory=dict)
    offsets: dict[Value, Size] = field(default_factory=dict)
    workspaces: dict[Node, dict[int, Size]] = field(default_factory=dict)
    skipped: set[Node] = field(default_factory=set)
    arena: Size = field(default_factory=lambda: Size(0))

    def root(self, value: Value) -> Value:
        """The value whose memory a value uses."""
        while value in self.views:
            value = self.views[value].root
        return value


@dataclass
class _Block:
    """A piece of the arena to place: live from kernel `begin` to kernel `end`, both included."""

    size: int
    begin: int
    end: int
    offset: int = -1


def plan_memory(graph: Graph, workspaces: Mapping[Node, Sequence[Type]] | None = None, in_place: bool = True) -> Plan:
    """Place every value. `workspaces`: types of the extra buffers of kernels. `in_place`: members of a concat are
    written there. Raises GraphError for sizes that are not linear in the symbols."""
    plan = Plan()
    _find_views(graph, plan, in_place)
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


def _find_views(graph: Graph, plan: Plan, in_place: bool) -> None:
    pinned = _pinned(graph)
    for node in reversed(graph.nodes):
        if in_place and node.body is not None and [n.op for n in node.body.nodes] == ["concat"]:
            _write_in_place(node, pinned, plan)
    outputs = set(graph.outputs)
    for node in graph.nodes:
        if node.body is None:  # the only operations that stay outside kernels
            assert node.op in ("reshape", "to_layout"), node.where
            (source,) = node.operands()
            result, root = node.output, plan.root(source)
            plan.skipped.add(node)
            if result in outputs and root.node is not None:  # outputs have memory of their own: write it there at once
                plan.views[root] = View(result)
            else:
                plan.views[result] = View(source)


def _pinned(graph: Graph) -> set[Value]:
    """Outputs, and the values that they are reshapes of: what lies in an output's memory lies in no other's."""
    pinned = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.body is None and node.output in pinned:
            pinned.update(node.operands())
    return pinned


def _write_in_place(node: Node, pinned: set[Value], plan: Plan) -> None:
    """concat(a, b, ...) --> a, b, ... are views of the result, where each is contiguous in it and free to move."""
    result = node.output
    assert node.body is not None
    axis = node.body.nodes[0].attrs.axis
    inner = dict(zip(node.body.inputs, node.operands(), strict=True))
    members = [inner[v] for v in node.body.nodes[0].operands()]
    if any(m.type.layout != result.type.layout for m in members) or len(set(members)) != len(members):
        return
    if not result.type.static or prod(d for d in result.type.physical[:axis] if isinstance(d, int)) != 1:
        return
    offsets, at = [], 0
    for member in members:
        offsets.append(at)
        at += int(product((*member.type.physical, member.type.numpy.itemsize)))
    if any(o % ALIGN for o in offsets) or at != result.type.nbytes:
        return
    placed = [plan.views.get(m) for m in members]
    if result not in pinned and result not in plan.views and all(v is not None for v in placed):
        root, base = placed[0].root, placed[0].offset  # type: ignore[union-attr]
        if all(v is not None and v.root is root and v.offset == base + o for v, o in zip(placed, offsets, strict=True)):
            plan.views[result] = View(root, base)
            plan.skipped.add(node)
            return
    free = all(
        m.node is not None and m not in pinned and m.node.body is not None and plan.views.get(m) is None
        for m in members
    )
    if free:
        for member, offset in zip(members, offsets, strict=True):
            plan.views[member] = View(result, offset)
        plan.skipped.add(node)


def _up(size: int) -> int:
    return -(-size // ALIGN) * ALIGN
