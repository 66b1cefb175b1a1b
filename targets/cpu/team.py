"""Kernels for a team of threads: all of them run the kernel, each does its share of every parallel loop.

TVM starts its threads for a parallel loop and joins them behind it, which costs several microseconds each time: much,
where a network has a hundred kernels of twenty. So the run loop starts the threads once, and a kernel gets three more
arguments: the number of the thread, how many there are, and where they wait for each other.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import tvm_ffi
from tvm import ir, tirx

BARRIER = "TVMBackendParallelBarrier"
_log = logging.getLogger("cnncc")


class _OneThreadError(Exception):
    """The kernel cannot be shared out."""


def share_out(func: Any) -> Any:
    """for i in parallel(n): s --> for i in this thread's part of n: s, in a PrimFunc without blocks.

    What is not in a parallel loop is done by thread 0; threads wait where one reads what another wrote, and at the
    end. A function without parallel loops, or one whose scratch reaches from one loop into another, is left to one
    thread: it has no more arguments then.
    """
    if not _parallel(func.body):
        return func
    task, tasks = tirx.Var("task", "int32"), tirx.Var("tasks", "int32")
    team = tirx.Var("team", "int64")
    try:
        body = _Sharing(task, tasks, team).whole(func.body)
    except _OneThreadError as reason:
        _log.debug("a kernel stays on one thread: %s", reason)
        return func.with_body(_serial(func.body))
    return tirx.PrimFunc([*func.params, task, tasks, team], body, func.ret_type, func.attrs)


def outermost(func: Any) -> Any:
    """Parallel loops inside of others run one iteration after the other: for threads that TVM starts for every loop."""

    def on_loop(loop: Any, mutator: Any) -> Any:
        if loop.kind != tirx.ForKind.PARALLEL:
            return mutator.default_mutate(loop)
        body = _serial(loop.body)
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, None, loop.annotations)

    return func.with_body(tvm_ffi.structural_mutate(func.body, ((tirx.For, on_loop),)))


class _Sharing:
    def __init__(self, task: Any, tasks: Any, team: Any):
        self.task, self.tasks = task, tasks
        wait = tirx.call_extern("int32", BARRIER, task, tirx.reinterpret("handle", team))
        self.barrier = tirx.Evaluate(wait)

    def whole(self, body: Any) -> Any:
        """A function's body, with a barrier at the end."""
        return tirx.SeqStmt([self.shared(body), self.barrier])

    def shared(self, stmt: Any) -> Any:
        """A statement that all threads run."""
        if not _parallel(stmt):
            return tirx.IfThenElse(self.task.equal(0), stmt, None)
        if isinstance(stmt, tirx.For):
            if stmt.kind == tirx.ForKind.PARALLEL:
                return self.part(stmt)
            body = tirx.SeqStmt([self.shared(stmt.body), self.barrier])
            return tirx.For(stmt.loop_var, stmt.min, stmt.extent, stmt.kind, body, None, stmt.annotations)
        if isinstance(stmt, tirx.SeqStmt):
            return self.sequence(list(stmt.seq))
        if isinstance(stmt, tirx.IfThenElse) and not _reads(stmt.condition):
            other = None if stmt.else_case is None else self.shared(stmt.else_case)
            return tirx.IfThenElse(stmt.condition, self.shared(stmt.then_case), other)
        if isinstance(stmt, tirx.AttrStmt):
            return tirx.AttrStmt(stmt.node, stmt.attr_key, stmt.value, self.shared(stmt.body))
        raise _OneThreadError(f"there is a parallel loop in a {type(stmt).__name__}")

    def sequence(self, stmts: list[Any]) -> Any:
        """Statements one after the other; those without parallel loops in a row need no barrier between them."""
        made: list[Any] = []
        own = [s.buffer for s in stmts if isinstance(s, tirx.AllocBuffer)]  # every thread has its own
        before = None  # whether the work before was shared
        for stmt in stmts:
            if isinstance(stmt, tirx.AllocBuffer):
                made.append(stmt)
                continue
            if isinstance(stmt, tirx.DeclBuffer) or (isinstance(stmt, tirx.Bind) and not _reads(stmt.value)):
                made.append(stmt)
                continue
            if isinstance(stmt, tirx.Bind):
                raise _OneThreadError(f"{stmt.var.name} is read outside of the parallel loops")
            now = _parallel(stmt)
            if now:
                _needs_none(stmt, own)
            if before is not None and (before or now):
                made.append(self.barrier)
            made.append(self.shared(stmt))
            before = now
        return tirx.SeqStmt(made)

    def part(self, loop: Any) -> Any:
        """The iterations of this thread: equal parts, one after the other."""
        pieces = _pieces(loop)
        if pieces is not None:
            return self.part_of_pieces(loop, pieces)
        begin, end = self.range(loop.extent, loop.loop_var.ty.dtype)
        return _serial_loop(loop, begin, end - begin, _serial(loop.body))

    def range(self, extent: Any, dtype: Any) -> tuple[Any, Any]:
        """Where this thread's part of so many iterations begins and ends."""
        task, tasks = (tirx.Cast(dtype, v) if str(dtype) != "int32" else v for v in (self.task, self.tasks))
        step = tirx.truncdiv(extent + tasks - 1, tasks)
        begin = tirx.min(task * step, extent)
        return begin, tirx.min(begin + step, extent)

    def part_of_pieces(self, loop: Any, pieces: _Pieces) -> Any:
        """for i in parallel(n): (a; for j in parallel(m): s; for k in parallel(l): t): n (m + l) pieces in equal parts.

        A thread whose part begins or ends within an iteration does a, and its share of the others: a must write what
        every thread has its own of.
        """
        dtype = loop.loop_var.ty.dtype
        zero = tirx.const(0, dtype)
        many = sum((inner.extent for inner in pieces.loops), zero)
        begin, end = self.range(loop.extent * many, dtype)
        first = tirx.truncdiv(begin, many)
        done = (loop.loop_var - loop.min) * many  # pieces of the iterations before, and of the loops before
        body = [*pieces.before]
        for inner in pieces.loops:
            low, high = tirx.max(begin - done, zero), tirx.min(end - done, inner.extent)
            body.append(_serial_loop(inner, low, tirx.max(high - low, zero), _serial(inner.body)))
            done = done + inner.extent
        return _serial_loop(loop, first, tirx.truncdiv(end + many - 1, many) - first, _sequence(body))


@dataclass(frozen=True)
class _Pieces:
    """The body of a parallel loop that ends in others: what comes before those, and the loops."""

    before: list[Any]
    loops: list[Any]


def _pieces(outer: Any) -> _Pieces | None:
    """The body of a loop that ends in parallel loops of the same index type; None where it does not."""
    stmts = list(outer.body.seq) if isinstance(outer.body, tirx.SeqStmt) else [outer.body]
    before = list(takewhile(lambda s: not _parallel(s), stmts))
    loops = stmts[len(before) :]
    dtype = outer.loop_var.ty.dtype
    pieces = all(_is_parallel(s) and s.loop_var.ty.dtype == dtype for s in loops)
    return _Pieces(before, loops) if loops and pieces else None


def _is_parallel(stmt: Any) -> bool:
    return isinstance(stmt, tirx.For) and bool(stmt.kind == tirx.ForKind.PARALLEL)


def nested(func: Any) -> bool:
    """Whether there is a parallel loop in another."""
    found: list[Any] = []
    tvm_ffi.structural_walk(func.body, (tirx.For, found.append))
    return any(_is_parallel(loop) and _parallel(loop.body) for loop in found)


def _sequence(stmts: list[Any]) -> Any:
    return stmts[0] if len(stmts) == 1 else tirx.SeqStmt(stmts)


def _serial_loop(loop: Any, begin: Any, count: Any, body: Any) -> Any:
    """Some iterations of a loop, one after the other."""
    return tirx.For(loop.loop_var, loop.min + begin, count, tirx.ForKind.SERIAL, body, None, loop.annotations)


def _needs_none(stmt: Any, own: list[Any]) -> None:
    """Raise _OneThreadError where a statement that is shared out uses what every thread has its own of."""

    used: list[Any] = []
    if own:
        tvm_ffi.structural_walk(stmt, (tirx.Buffer, used.append))
    for buffer in used:
        if any(buffer.same_as(b) for b in own):
            raise _OneThreadError(f"{buffer.name} is allocated outside of the parallel loops that use it")


def _parallel(stmt: Any) -> bool:
    """Whether a statement contains a parallel loop."""
    found = []
    tvm_ffi.structural_walk(
        stmt, (tirx.For, lambda loop: found.append(loop) if loop.kind == tirx.ForKind.PARALLEL else None)
    )
    return bool(found)


def _serial(stmt: Any) -> Any:
    """The statement with parallel loops run one iteration after the other."""

    def serial(loop: Any) -> Any:
        if loop.kind != tirx.ForKind.PARALLEL:
            return loop
        return _serial_loop(loop, tirx.const(0, loop.loop_var.ty.dtype), loop.extent, loop.body)

    return tvm_ffi.structural_map(stmt, (tirx.For, serial))


def _reads(expr: Any) -> bool:
    """Whether an expression loads from a buffer."""
    found: list[Any] = []
    tvm_ffi.structural_walk(expr, (ir.TensorLoad, found.append))
    return bool(found)
