"""What the generic recipes ask about the blocks of a scheduled function: kinds, accesses, strides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import DataType, ir, s_tir, sym, tirx

HINT = 8  # what a symbolic extent counts for in estimates
_DATA_PARALLEL, _REDUCE = 0, 2
# Without the argument checks of TVM's Python layer, which take longer than the scheduling itself.
get = s_tir.Schedule.get.__wrapped__
get_loops = s_tir.Schedule.get_loops.__wrapped__
_realize = tvm_ffi.get_global_func("s_tir.schedule.GetSBlockRealize")


@dataclass(frozen=True)
class Access:
    """An element read or written: its offset in elements, over the loops around the block."""

    buffer: Any
    offset: Any
    write: bool


def root_blocks(sch: Any) -> list[Any]:
    """The blocks at the top of the function, in order."""
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def name_of(sch: Any, block: Any) -> str:
    """The name of a block."""
    return str(get(sch, block).name_hint)


def is_plain(sch: Any, block: Any) -> bool:
    """A block as te.compute makes it: loops and one body; not opaque, not nested."""
    node = get(sch, block)
    kinds = {int(v.iter_type) for v in node.iter_vars}
    stores = _count(node.body, tirx.BufferStore)
    return (
        kinds <= {_DATA_PARALLEL, _REDUCE}
        and not sch.get_child_blocks(block)
        and stores >= 1
        and _count(node.body, (tirx.For, tirx.While)) == 0
        and len(node.writes) == stores
    )


def is_reduction(sch: Any, block: Any) -> bool:
    """Whether a block has reduction axes."""
    return any(int(v.iter_type) == _REDUCE for v in get(sch, block).iter_vars)


def written(sch: Any, block: Any) -> list[Any]:
    """The buffers a block writes."""
    return [w.source for w in get(sch, block).writes]


def outputs(sch: Any) -> list[Any]:
    """The parameters' buffers."""
    return list(sch.mod["main"].params)


def is_output(sch: Any, block: Any) -> bool:
    """Whether a block writes a parameter of the function."""
    return any(b.same_as(p) for b in written(sch, block) for p in outputs(sch))


def _count(stmt: Any, kinds: Any) -> int:
    found: list[Any] = []
    tvm_ffi.structural_walk(stmt, (kinds, found.append))
    return len(found)


def extent(sch: Any, loop: Any) -> Any:
    """The extent of a loop: an int, or an expression where it is symbolic."""
    value = get(sch, loop).extent
    return int(value) if isinstance(value, tirx.IntImm) else value


def loop_var(sch: Any, loop: Any) -> Any:
    """The variable of a loop."""
    return get(sch, loop).loop_var


def reduces(sch: Any, block: Any, loop: Any) -> bool:
    """Whether a loop drives a reduction axis of the block."""
    var = loop_var(sch, loop)
    found: list[Any] = []
    for axis, value in zip(get(sch, block).iter_vars, _realize(sch, block).iter_values, strict=True):
        if int(axis.iter_type) == _REDUCE:
            tvm_ffi.structural_walk(value, (ir.Var, found.append))
    return any(var.same_as(f) for f in found)


def is_contraction(sch: Any, block: Any) -> bool:
    """Whether a reduction uses its operands' elements several times: products of matrices, convolutions, windows."""
    accesses = Accesses(sch, block)
    own = written(sch, block)
    reads = [a.buffer for a in accesses.accesses if not a.write and not any(a.buffer.same_as(b) for b in own)]
    largest = max((math.prod(as_number(d) for d in b.shape) for b in reads), default=0)
    return math.prod(as_number(e) for e in accesses.extents) > 1.5 * largest


def as_number(value: Any) -> int:
    """An extent as a number; what is symbolic counts as HINT."""
    return int(value) if isinstance(value, int | tirx.IntImm) else HINT


class Accesses:
    """The accesses of one block over the variables of its loops.

    `free`: loop variables that occur elsewhere than in linear offsets: in conditions, values, indirect indices.
    `guarding`: those among them that decide what is evaluated; TVM makes no vectors of such loops.
    """

    def __init__(self, sch: Any, block: Any):
        self.loops = list(get_loops(sch, block))
        self.vars = [loop_var(sch, l) for l in self.loops]
        self.extents = [extent(sch, l) for l in self.loops]
        self._analyzer = sym.Analyzer()
        for loop in self.loops:
            node = get(sch, loop)
            self._analyzer.bind(node.loop_var, ir.Range.from_min_extent(node.min, node.extent))
        node = get(sch, block)
        self._map = dict(zip([v.var for v in node.iter_vars], _realize(sch, block).iter_values, strict=True))
        self.accesses: list[Access] = []
        self.free: set[Any] = set()
        self.guarding: set[Any] = set()
        self.operations = 0
        self._collect(node.body)
        if node.init is not None:
            self._collect(node.init)

    def _collect(self, body: Any) -> None:
        def on_load(load: Any, visitor: Any) -> None:
            self._add(load.source, load.indices, False)
            for index in load.indices:
                nested = _count(index, ir.TensorLoad)
                if nested:
                    self.free |= self._behind(index)
                    visitor.visit(index)

        def on_store(store: Any, visitor: Any) -> None:
            self._add(store.buffer, store.indices, True)
            visitor.visit(store.value)

        def on_var(var: Any, visitor: Any) -> None:
            if var in self._map:
                self.free |= self._behind(var)

        def on_expr(expr: Any, visitor: Any) -> None:
            self.operations += 1
            if isinstance(expr, ir.Call) and isinstance(expr.op, ir.Op) and expr.op.name == "prim.if_then_else":
                self.guarding |= self._behind(expr.args[0])
            visitor.default_visit(expr)

        tvm_ffi.structural_visit(
            body,
            ((ir.TensorLoad, on_load), (tirx.BufferStore, on_store), (ir.Var, on_var), (ir.Expr, on_expr)),
        )

    def _behind(self, expr: Any) -> set[Any]:
        """The loop variables that an expression over the block's variables depends on."""
        found: list[Any] = []
        tvm_ffi.structural_walk(self._substitute(expr), (ir.Var, found.append))
        return {v for v in self.vars if any(v.same_as(f) for f in found)}

    def _substitute(self, expr: Any) -> Any:
        return tvm_ffi.structural_map(expr, (ir.Var, lambda v: self._map.get(v, v)))

    def _add(self, buffer: Any, indices: Sequence[Any], write: bool) -> None:
        offset: Any = tirx.const(0, "int64")
        if len(buffer.strides):
            for index, step in zip(indices, buffer.strides, strict=True):
                offset = offset + tirx.Cast("int64", index) * step
        else:
            for index, size in zip(indices, buffer.shape, strict=True):
                offset = offset * tirx.Cast("int64", size) + tirx.Cast("int64", index)
        self.accesses.append(Access(buffer, self._analyzer.simplify(self._substitute(offset)), write))

    def stride(self, access: Access, position: int) -> Any:
        """Elements between neighbours along a loop: int or expression; None where the offset is not linear in it."""
        found = sym.detect_linear_equation(access.offset, [self.vars[position]])
        if not found:
            return None
        value = self._analyzer.simplify(found[0])
        return int(value) if isinstance(value, tirx.IntImm) else value

    def mergeable(self, outer: int, inner: int) -> bool:
        """Whether two loops may be fused without divisions in any offset."""
        if self.vars[outer] in self.free or self.vars[inner] in self.free:
            return False
        size = self.extents[inner]
        for access in self.accesses:
            found = sym.detect_linear_equation(access.offset, [self.vars[outer], self.vars[inner]])
            if not found or not self._analyzer.can_prove_equal(found[0], found[1] * size):
                return False
        return True

    def itemsize(self) -> int:
        """Bytes of the widest element that the block reads or writes."""
        return max((itemsize_of(a.buffer) for a in self.accesses), default=4)

    def factors(self, position: int) -> list[int]:
        """The constants by which a loop's variable is divided (// or %) in offsets."""
        var = self.vars[position]
        found: set[int] = set()

        def look(e: Any) -> None:
            if isinstance(e.b, tirx.IntImm) and e.a.same_as(var):
                found.add(int(e.b))

        for access in self.accesses:
            tvm_ffi.structural_walk(access.offset, ((tirx.FloorDiv, tirx.FloorMod), look))
        return sorted(found)


def itemsize_of(buffer: Any) -> int:
    """Bytes of an element of a buffer."""
    return max(1, int(DataType(str(buffer.dtype)).itemsize))
