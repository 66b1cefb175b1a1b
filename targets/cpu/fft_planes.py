"""Fourier transforms of real planes in a kernel: from a tile of the input to the columns of its spectrum, and back.

Two rows are one complex line, z = a + i b, and come apart by symmetry:
    A[k] = (Z[k] + conj Z[-k]) / 2,  B[k] = (Z[k] - conj Z[-k]) / 2i
Half of the columns are kept. Rows come and go here, columns are the caller's: `spectrum` [column][row][part][lane].
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from tvm import tirx

from cnncc.ops.fft_tiles import Axis
from cnncc.targets.cpu.common import i64
from cnncc.targets.cpu.fft_lines import Line, constant, load, pair
from cnncc.targets.cpu.fourier import Complex, Let
from cnncc.targets.cpu.loops import Loops


class Planes:
    """Rows of a tile at tile numbers (th, tw), for `Axis` records of both axes."""

    def __init__(self, code: Loops, row: Line, axes: tuple[Axis, Axis], tile: tuple[Any, Any]) -> None:
        self.code, self.row, self.lanes = code, row, row.lanes
        self.high, self.wide = axes
        self.th, self.tw = tile
        self.line = code.local("line", self.wide.length + 1, 2, self.lanes)
        self.pairs = -(-self.high.filled // 2)

    @property
    def half(self) -> int:
        """Columns that are kept."""
        return self.wide.length // 2 + 1

    def forward(self, spectrum: Any, read: Callable[[Any, Any, Any], Any]) -> None:
        """Rows of the input, read(y, x, lane), --> twice their transforms, in `spectrum`."""
        code, r, s = self.code, self.row.r, self.row.s
        y0, (above, below) = self._span(self.high, self.th)
        x0, (left, right) = self._span(self.wide, self.tw)
        even = self.high.single and self.high.size % 2 == 0
        with code.loop(self.pairs, "rows") as rows:

            def number(k: int, at: Any, guards: list[Any], lane: Any) -> Any:
                value = read(y0 + rows * 2 + k, x0 + at, lane)
                return tirx.if_then_else(tirx.all(*guards), value, constant(0)) if guards else value

            direct = even and self.wide.single
            if not direct:  # conditions at every point of a step would be much code
                valid = [[] if even else [rows * 2 + k >= above, rows * 2 + k < below] for k in (0, 1)]
                covered = min(-(-self.wide.filled // s) * s, self.wide.length)
                with code.loop(covered, "x") as at:
                    guards = [at >= left, at < right]
                    code.vector(
                        self.lanes,
                        lambda let, lane: self._put(
                            at, tuple(number(k, at, [*valid[k], *guards], lane) for k in (0, 1)), lane
                        ),
                    )

            def point(a: int, j: Any, lane: Any) -> Complex:
                if a * s >= self.wide.filled:
                    return None, None
                at = j + a * s
                if not direct:
                    return pair(self.line, at, lane)
                guards = [at < right] if a * s + s > self.wide.size else []
                return number(0, at, guards, lane), number(1, at, guards, lane)

            self.row.split(point)

            def keep(k1: Any, values: list[Complex], let: Let, lane: Any) -> None:
                for k2, value in enumerate(values):
                    self._put(k1 + k2 * r, value, lane)

            self.row.each(keep)

            def apart(k: Any, other: Any) -> None:
                def write(let: Let, lane: Any) -> None:
                    (a, b), (c, d) = (tuple(map(let, pair(self.line, at, lane))) for at in (k, other))
                    for y, part, value in ((0, 0, a + c), (0, 1, b - d), (1, 0, b + d), (1, 1, c - a)):
                        code.store(spectrum, value, k, rows * 2 + y, part, lane)

                code.vector(self.lanes, write)

            apart(i64(0), i64(0))
            with code.loop(self.half - 1, "k", 1) as k:
                apart(k, self.wide.length - k)

    def backward(self, spectrum: Any, write: Callable[[Any, Any, Any, Any], None]) -> None:
        """Columns of a spectrum, transformed back, --> rows of results: write(y, x, value, lane)."""
        code, r, s = self.code, self.row.r, self.row.s
        rows_left, columns_left = (
            i64(a.out) if a.single else code.named(tirx.min(i64(a.step), a.out - t * a.step), "left")
            for a, t in ((self.high, self.th), (self.wide, self.tw))
        )
        with code.loop((rows_left + 1) // 2, "rows") as rows:

            def together(k: Any, other: Any) -> None:
                def vector(let: Let, lane: Any) -> None:
                    (a, b), (c, d) = (tuple(map(let, pair(spectrum, k, rows * 2 + y, lane))) for y in (0, 1))
                    self._put(k, (a - d, b + c), lane)
                    if other is not None:
                        self._put(other, (a + d, c - b), lane)

                code.vector(self.lanes, vector)

            length = self.wide.length
            together(i64(0), None)
            with code.loop((length - 1) // 2, "k", 1) as k:
                together(k, length - k)
            if length % 2 == 0:
                together(i64(length // 2), None)
            with code.loop(r, "k1") as k1:
                code.vector(
                    self.lanes,
                    lambda let, lane: self.row.unsplit(
                        k1, [pair(self.line, k1 + k2 * r, lane) for k2 in range(s)], let, lane
                    ),
                )

            direct = self.wide.single and self.high.single and self.high.out % 2 == 0

            def put(k: int, at: Any, value: Any, lane: Any) -> None:
                write(self.th * self.high.step + rows * 2 + k, self.tw * self.wide.step + at, value, lane)

            def result(a: int, j: Any, value: Complex, lane: Any) -> None:
                at = j + a * s
                if a * s >= self.wide.step:
                    return
                if not direct:
                    self._put(at, value, lane)
                    return
                with ExitStack() as guards:
                    if a * s + s > self.wide.out:
                        guards.enter_context(code.when(at < columns_left))
                    for k, number in enumerate(value):
                        put(k, at, number, lane)

            self.row.join(result)

            def copy(k: int, at: Any, let: Let, lane: Any) -> None:
                put(k, at, load(self.line, at, k, lane), lane)

            for k in (0, 1) if not direct else ():
                with code.when(rows * 2 + k < rows_left), code.loop(columns_left, "x") as at:
                    code.vector(self.lanes, partial(copy, k, at))

    def _put(self, at: Any, value: Complex, lane: Any) -> None:
        for part, number in enumerate(value):
            self.code.store(self.line, constant(0) if number is None else number, at, part, lane)

    def _span(self, axis: Axis, tile: Any) -> tuple[Any, tuple[Any, Any]]:
        """Where a tile begins in the input, and from which of its points to which there is input."""
        if axis.single:
            return i64(0), (i64(0), i64(axis.size))
        begin = self.code.named(tile * axis.step - axis.lead, "begin")
        low = self.code.named(tirx.max(i64(0), -begin), "low")
        high = self.code.named(tirx.min(i64(axis.size) - begin, i64(axis.filled)), "high")
        return begin, (low, high)


def column(code: Loops, line: Line, axis: Axis, spectrum: Any, k: Any, pairs: int) -> None:
    """The first step of a column's transform; rows behind the `pairs` that were written count as zero."""
    end = min(-(-axis.filled // line.s) * line.s, axis.length)
    if end > pairs * 2:
        with code.loop(end - pairs * 2, "y", pairs * 2) as y:

            def clear(let: Let, lane: Any) -> None:
                for part in (0, 1):
                    code.store(spectrum, constant(0), k, y, part, lane)

            code.vector(line.lanes, clear)

    def point(a: int, j: Any, lane: Any) -> Complex:
        return (None, None) if a * line.s >= axis.filled else pair(spectrum, k, j + a * line.s, lane)

    line.split(point)


def restored(code: Loops, line: Line, axis: Axis, spectrum: Any, k: Any) -> None:
    """The last step of a column's way back, as far as there are results, and a row more where their number is odd."""
    if axis.step == axis.length and axis.length % 2:

        def clear(let: Let, lane: Any) -> None:
            for part in (0, 1):
                code.store(spectrum, constant(0), k, axis.length, part, lane)

        code.vector(line.lanes, clear)

    def write(a: int, j: Any, value: Complex, lane: Any) -> None:
        if a * line.s < axis.step + axis.step % 2:  # rows come in pairs
            for part, number in enumerate(value):
                code.store(spectrum, number, k, j + a * line.s, part, lane)

    line.join(write)
