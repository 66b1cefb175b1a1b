"""find-views: values that lie inside of others, before anything is placed.

Reshapes are views, and so are changes between layouts of one order. A concat is not run where its members can be
written in place: each lies in one piece in every image of the result. Above one image those pieces lie apart, and the
kernels that write and read them are told the distance (`KernelAttrs.pitches`). Where several concats begin with the
same members (DenseNet), the shorter are views of the longest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod

from cnncc.ir.dims import product
from cnncc.ir.graph import Graph, Node, Value

ALIGN = 64
Decline = Callable[[Node, str], None]


@dataclass(frozen=True)
class View:
    """A value that lies inside another one's memory, `offset` bytes from its start."""

    root: Value
    offset: int = 0


@dataclass
class Views:
    """What lies where: views, kernels that need not run, and the values whose images lie apart, with the distance of
    one image from the next in elements."""

    views: dict[Value, View] = field(default_factory=dict)
    skipped: set[Node] = field(default_factory=set)
    pitches: dict[Value, int] = field(default_factory=dict)

    def root(self, value: Value) -> Value:
        """The value whose memory a value uses."""
        while value in self.views:
            value = self.views[value].root
        return value


def find_views(
    graph: Graph, pitched: bool = False, decline: Decline = lambda node, reason: None, in_place: bool = True
) -> Views:
    """The views of a laid-out graph. `pitched`: kernels can be told that images lie apart (their attributes are then
    set here); `decline(concat, reason)` hears of each concat that stays; `in_place`: members of concats are written
    there."""
    found = Views()
    pinned = _pinned(graph)
    for node in reversed(graph.nodes):
        if in_place and node.body is not None and [n.op for n in node.body.nodes] == ["concat"]:
            reason = _write_in_place(node, pinned, found, pitched)
            if reason:
                decline(node, reason)
    for value in found.pitches:
        found.pitches[value] = int(product(found.root(value).type.physical[1:]))
    for node in graph.nodes:
        if node.body is None:
            _view_of_operand(graph, node, found)
        elif any(v in found.pitches for v in (*node.operands(), *node.outputs)):
            distances = tuple(found.pitches.get(v, 0) for v in (*node.operands(), *node.outputs))
            node.attrs = replace(node.attrs, pitches=distances)
    return found


def _view_of_operand(graph: Graph, node: Node, found: Views) -> None:
    assert node.op in ("reshape", "to_layout"), node.where  # the only operations that stay outside kernels
    (source,) = node.operands()
    result, root = node.output, found.root(source)
    found.skipped.add(node)
    if result in graph.outputs and root.node is not None:  # outputs have memory of their own: write it there at once
        found.views[root] = View(result)
    else:
        found.views[result] = View(source)


def _pinned(graph: Graph) -> set[Value]:
    """Outputs, and the values that they are reshapes of: what lies in an output's memory lies in no other's."""
    pinned = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.body is None and node.output in pinned:
            pinned.update(node.operands())
    return pinned


def _write_in_place(node: Node, pinned: set[Value], found: Views, pitched: bool) -> str:
    """concat(a, b, ...) --> a, b, ... are views of the result; gives the reason why not."""
    result = node.output
    assert node.body is not None
    concat = node.body.nodes[0]
    inner = dict(zip(node.body.inputs, node.operands(), strict=True))
    members = [inner[v] for v in concat.operands()]
    if any(m.type.layout != result.type.layout for m in members):
        return "its operands have other layouts than its result"
    if len(set(members)) != len(members):
        return "a value occurs in it twice"
    apart = _lie_apart(result, concat.attrs.axis)
    if isinstance(apart, str):
        return apart
    offsets, at = _offsets(members, apart)
    whole = int(product((*result.type.physical[1 if apart else 0 :], result.type.numpy.itemsize)))
    if any(o % ALIGN for o in offsets) or at != whole:
        return f"its operands must begin at multiples of {ALIGN} bytes, got {', '.join(map(str, offsets))}"
    if apart and not pitched:
        return "kernels of this target read and write whole values"
    outside = [n.where for v in (*members, result) for n in (v.node, *v.users) if n is not None and n.body is None]
    if apart and outside:
        return f"{outside[0]} is a view of memory in one piece"
    if not _inside_another(result, members, offsets, pinned, found):
        taken = [m for m in members if not _free(m, pinned, found)]
        if taken:
            return f"%{taken[0].name} is an input, an output or part of another concat"
        found.views.update((m, View(result, o)) for m, o in zip(members, offsets, strict=True))
    found.skipped.add(node)
    if apart:
        found.pitches.update((v, 0) for v in (*members, result) if v in found.views)
    return ""


def _lie_apart(result: Value, axis: int) -> bool | str:
    """Whether the members are pieces of each of several images; the reason where they are not even that."""
    shape = result.type.physical
    if result.type.static and prod(int(d) for d in shape[:axis]) == 1:
        return False
    if axis != 1 or not all(isinstance(d, int) for d in shape[1:]):
        return f"its operands lie in several pieces of every image, along axis {axis}"
    return True


def _offsets(members: list[Value], apart: bool) -> tuple[list[int], int]:
    """Bytes before each member in the result (in an image of it), and behind the last."""
    offsets, at = [], 0
    for member in members:
        offsets.append(at)
        at += int(product((*member.type.physical[1 if apart else 0 :], member.type.numpy.itemsize)))
    return offsets, at


def _inside_another(result: Value, members: list[Value], offsets: list[int], pinned: set[Value], found: Views) -> bool:
    """Make a concat a view of a longer one, in which its members lie already, one behind the other."""
    placed = [found.views.get(m) for m in members]
    first = placed[0]
    if first is None or result in pinned or result in found.views:
        return False
    for view, offset in zip(placed, offsets, strict=True):
        if view is None or view.root is not first.root or view.offset != first.offset + offset:
            return False
    found.views[result] = View(first.root, first.offset)
    return True


def _free(member: Value, pinned: set[Value], found: Views) -> bool:
    node = member.node
    return node is not None and node.body is not None and member not in pinned and member not in found.views
