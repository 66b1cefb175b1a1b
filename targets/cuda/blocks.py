"""What a schedule must know of the stages of a function: what they reduce, read and write."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from cnncc.targets.cuda.machine import FLOAT4, WARP

if TYPE_CHECKING:
    from tvm.s_tir import Schedule


_FEW_ROWS = 1 << 15  # threads that a device wants at least


@dataclass(frozen=True, eq=False)
class Stage:
    """A block of a schedule, before its loops are touched: loop i drives axis i.

    reduced: extents of the reduction axes (the last loops). buffers: names of what it writes.
    """

    block: Any
    node: Any
    reduced: tuple[Any, ...]
    opaque: bool

    @property
    def injective(self) -> bool:
        """No reduction: each result is computed once."""
        return not self.opaque and not self.reduced

    @property
    def writes(self) -> int:
        """Number of buffers written (two for a reduction of pairs, such as arg max)."""
        return len(self.node.writes)

    @property
    def buffers(self) -> tuple[str, ...]:
        """Names of the buffers written."""
        return tuple(region.source.name for region in self.node.writes)

    @property
    def depth(self) -> int | None:
        """Elements reduced to one, None where that is symbolic."""
        from cnncc.targets.cuda.expr import as_int

        total = 1
        for extent in self.reduced:
            number = as_int(extent)
            if number is None:
                return None
            total *= number
        return total

    @property
    def rows(self) -> int:
        """Results of a reduction, symbolic extents counted once."""
        from cnncc.targets.cuda.expr import as_int

        count = len(self.node.iter_vars) - len(self.reduced)
        return prod(as_int(axis.dom.extent) or 1 for axis in self.node.iter_vars[:count])

    @property
    def run(self) -> int:
        """Elements reduced that lie side by side in memory, in the operand where most do; 0 if none do."""
        from cnncc.targets.cuda.expr import as_int

        axes = self.node.iter_vars[len(self.node.iter_vars) - len(self.reduced) :]
        longest = 0
        for _, indices in _accesses(self.node.body):
            length = 1
            for index in reversed(indices):
                axis = next((axis for axis in axes if _mentions(index, [axis.var])), None)
                if axis is None:
                    break
                length *= as_int(axis.dom.extent) or WARP
                longest = max(longest, length)
                if not index.same_as(axis.var):
                    break
        return longest

    @property
    def shares_rows(self) -> bool:
        """Better a block a row than a thread a row: the row is contiguous, or the rows alone would not fill a device
        and neighbours in a row are neighbours in memory."""
        if self.depth == 1:
            return False
        if any(not str(region.source.dtype).endswith(("32", "64")) for region in self.node.writes):
            return False  # combined without shuffles, TVM's code relies on warps that run in lockstep
        return self.run >= WARP or (self.run > 0 and self.rows < _FEW_ROWS)

    @property
    def vectorizable(self) -> bool:
        """Four consecutive results read and write four consecutive elements of 32 bits (or one for all four)."""
        from tvm import tirx

        from cnncc.targets.cuda.expr import as_int

        if not self.node.iter_vars or not isinstance(self.node.body, tirx.BufferStore):
            return False
        last = self.node.iter_vars[-1]
        extent = as_int(last.dom.extent)
        if extent is None or extent % FLOAT4 or _branches(self.node.body):
            return False
        if not _suits_lanes(self.node.body, last.var):
            return False
        for buffer, indices in _accesses(self.node.body):
            width = as_int(buffer.shape[-1]) if len(buffer.shape) else None
            if str(buffer.dtype) not in ("float32", "int32"):
                return False
            if not any(_mentions(index, [last.var]) for index in indices):
                continue
            if any(_mentions(index, [last.var]) for index in indices[:-1]):
                return False
            if not indices[-1].same_as(last.var) or width is None or width % FLOAT4:
                return False
        return True

    def axes_indexing(self, buffers: Collection[str]) -> set[int] | None:
        """Which axes index the named buffers where this stage reads them, None unless every read is at plain axes
        (or zero) and all reads use the same ones."""
        from tvm import tirx

        axes = [axis.var for axis in self.node.iter_vars]
        found: set[int] | None = None
        for buffer, indices in _accesses(self.node.body):
            if buffer.name not in buffers:
                continue
            used = set()
            for index in indices:
                place = next((i for i, axis in enumerate(axes) if index.same_as(axis)), None)
                if place is not None:
                    used.add(place)
                elif not (isinstance(index, tirx.IntImm) and int(index) == 0):
                    return None
            if found is not None and used != found:
                return None
            found = used
        return found


def inline_injective(sch: Schedule) -> list[Stage]:
    """Inline every stage without reduction that is no result, first to last; returns the stages that are left."""
    from tvm.s_tir.schedule import ScheduleError as TvmScheduleError

    root = sch.get_sblock("root")
    results = {sch.get(block).name_hint for block in sch.get_output_blocks(root)}
    for block in sch.get_child_blocks(root):
        stage = describe(sch, block)
        if not stage.injective or stage.node.name_hint in results:
            continue
        try:
            sch.compute_inline(block)
        except TvmScheduleError:
            continue  # read by an opaque stage, say: it stays a stage of its own
    return [describe(sch, block) for block in sch.get_child_blocks(sch.get_sblock("root"))]


def describe(sch: Schedule, block: Any) -> Stage:
    """A block as a Stage."""
    from tvm import tirx

    node = sch.get(block)
    reduced = tuple(axis.dom.extent for axis in node.iter_vars if axis.iter_type == tirx.IterVar.CommReduce)
    known = (tirx.IterVar.DataPar, tirx.IterVar.CommReduce)
    loops = len(sch.get_loops(block))  # a scalar has an axis and no loop
    plain = loops in (len(node.iter_vars), 0) and all(axis.iter_type in known for axis in node.iter_vars)
    return Stage(block, node, reduced, opaque=not plain)


def _accesses(stmt: Any) -> list[tuple[Any, Any]]:
    """Buffer and indices of every load and store in a statement."""
    import tvm_ffi
    from tvm import ir, tirx

    found: list[tuple[Any, Any]] = []
    tvm_ffi.structural_walk(
        stmt,
        [
            (ir.TensorLoad, lambda node: found.append((node.source, node.indices))),
            (tirx.BufferStore, lambda node: found.append((node.buffer, node.indices))),
        ],
    )
    return found


def _branches(stmt: Any) -> bool:
    """Whether a statement evaluates parts on a condition, which vector code cannot."""
    import tvm_ffi
    from tvm import ir

    branch = ir.Op.get("prim.if_then_else")
    found: list[Any] = []
    tvm_ffi.structural_walk(stmt, (ir.Call, lambda node: found.append(node) if node.op.same_as(branch) else None))
    return bool(found)


def _suits_lanes(stmt: Any, lane: Any) -> bool:
    """Whether TVM prints right vector code: every comparison differs between lanes (it confuses the types of bools that
    are the same in all), and all numbers have 32 bits."""
    import tvm_ffi
    from tvm import tirx

    varying: list[Any] = [lane]
    comparisons: list[Any] = []
    casts: list[str] = []
    kinds = (tirx.EQ, tirx.NE, tirx.LT, tirx.LE, tirx.GT, tirx.GE)

    def bind(node: Any) -> None:
        if _mentions(node.value, varying):
            varying.append(node.var)

    callbacks = [
        (tirx.Let, bind),
        (kinds, comparisons.append),
        (tirx.Cast, lambda node: casts.append(str(node.ty.dtype))),
    ]
    tvm_ffi.structural_walk(stmt, callbacks, order="pre")
    return all(_mentions(node, varying) for node in comparisons) and set(casts) <= {"float32", "int32"}


def _mentions(expr: Any, variables: list[Any]) -> bool:
    import tvm_ffi
    from tvm import tirx

    found: list[Any] = []
    tvm_ffi.structural_walk(expr, (tirx.Var, lambda node: found.append(node)))
    return any(node.same_as(variable) for node in found for variable in variables)
