"""Kernels written as loops, for algorithms whose stages share memory in ways that te cannot say.

code = Loops()
with code.loop(n) as i:
    code.vector(16, lambda let, v: code.store(y, let(x[i, v] * x[i, v]), i, v))
statement = code.finish()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx

from cnncc.targets.cpu.common import i64, shape


class Loops:
    """Statements in the order in which they are stated."""

    def __init__(self) -> None:
        self._open: list[list[Any]] = [[]]

    def finish(self) -> Any:
        """All statements as one."""
        (statements,) = self._open
        return tirx.SeqStmt(statements) if len(statements) > 1 else statements[0]

    @contextmanager
    def loop(self, extent: Any, name: str = "i", begin: Any = 0, parallel: bool = False) -> Iterator[Any]:
        """for i in [begin, begin + extent): the statements of the with block."""
        index = tirx.Var(name, "int64")
        self._open.append([])
        yield index
        body = self._closed()
        kind = tirx.ForKind.PARALLEL if parallel else tirx.ForKind.SERIAL
        self._open[-1].append(tirx.For(index, i64(begin), i64(extent), kind, body))

    @contextmanager
    def when(self, condition: Any) -> Iterator[None]:
        """if condition: the statements of the with block."""
        self._open.append([])
        yield
        body = self._closed()
        self._open[-1].append(tirx.IfThenElse(condition, body, None))

    def vector(self, lanes: int, write: Callable[[Callable[[Any], Any], Any], None]) -> None:
        """`write(let, v)` states stores at the lane v; `let` keeps an intermediate value in a register."""
        count = self._lets(lanes, write, None)
        if count:
            self._lets(lanes, write, self.local("t", count, lanes))

    def store(self, buffer: Any, value: Any, *index: Any) -> None:
        """buffer[index] = value."""
        self._open[-1].append(tirx.BufferStore(buffer, value, [i64(i) for i in index]))

    def local(self, name: str, *extents: int) -> Any:
        """Scratch on the stack, for what follows in this loop."""
        buffer = tirx.decl_buffer(shape(*extents), "float32", name, scope="local")
        self._open[-1].append(tirx.AllocBuffer(buffer))
        return buffer

    def named(self, value: Any, name: str) -> Any:
        """An integer that is computed once."""
        variable = tirx.Var(name, "int64")
        self._open[-1].append(tirx.Bind(variable, i64(value)))
        return variable

    def _lets(self, lanes: int, write: Callable[[Callable[[Any], Any], Any], None], registers: Any) -> int:
        """Writes a vectorised loop; without registers nothing but their number is found out."""
        lane = tirx.Var("v", "int64")
        buffer = tirx.decl_buffer(shape(1, lanes), "float32", "t") if registers is None else registers
        self._open.append([])
        used = 0

        def let(value: Any) -> Any:
            nonlocal used
            at = [i64(used), lane]
            self._open[-1].append(tirx.BufferStore(buffer, value, at))
            used += 1
            return tirx.BufferLoad(buffer, at)

        write(let, lane)
        body = self._closed()
        if registers is not None or used == 0:
            self._open[-1].append(tirx.For(lane, i64(0), i64(lanes), tirx.ForKind.VECTORIZED, body))
        return used

    def _closed(self) -> Any:
        statements = self._open.pop()
        return tirx.SeqStmt(statements) if len(statements) > 1 else statements[0]
