"""Fourier transforms of the lines of a tile, as loops: R * S points in two steps of R and of S.

    n = n1 S + n2,  k = k1 + R k2
    X[k1 + R k2] = sum_n2 W_S^(n2 k2) W_RS^(n2 k1) sum_n1 W_R^(n1 k1) x[n1 S + n2]

Every number is a vector of channels, so that there is nothing to shuffle, and a step's points are in registers. Loops
over steps keep the code small; the factors W_RS between the steps are a table on the stack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from cnncc.targets.cpu.common import i64
from cnncc.targets.cpu.fourier import Complex, Let, times, transform
from cnncc.targets.cpu.loops import Loops

Write = Callable[[int, Any, Complex, Any], None]


def load(buffer: Any, *index: Any) -> Any:
    """buffer[index]."""
    return tirx.BufferLoad(buffer, [i64(i) for i in index])


def pair(buffer: Any, *index: Any) -> Complex:
    """The complex number whose parts lie along the last axis but one: index is that of both, and the lane."""
    *at, lane = index
    return load(buffer, *at, 0, lane), load(buffer, *at, 1, lane)


def constant(value: float) -> Any:
    """A float32."""
    return tirx.const(value, "float32")


class Line:
    """Transforms of R * S points through scratch `middle` [k1][n2], forward in `split` and `each`, back in `unsplit`
    and `join`. What stands between `each` and `unsplit` may stay in registers."""

    def __init__(self, code: Loops, lanes: int, radices: Sequence[int], name: str) -> None:
        self.code, self.lanes = code, lanes
        self.r, self.s = radices
        self.middle = code.local(f"middle_{name}", self.r, self.s, 2, lanes)
        self.table = code.local(f"factors_{name}", self.s, self.r, 2)
        for j in range(self.s):
            for k in range(self.r):
                angle = -2 * math.pi * j * k / (self.r * self.s)
                code.store(self.table, constant(math.cos(angle)), j, k, 0)
                code.store(self.table, constant(math.sin(angle)), j, k, 1)

    def split(self, read: Callable[[int, Any, Any], Complex]) -> None:
        """The first step: x[n1 S + n2] = read(n1, n2, lane) --> middle."""
        with self.code.loop(self.s, "n2") as j:

            def write(let: Let, lane: Any) -> None:
                made = transform([read(a, j, lane) for a in range(self.r)], -1, let)
                for k, value in enumerate(made):
                    self._keep(k, j, times(value, *self._factor(j, k)) if k else value, lane)

            self.code.vector(self.lanes, write)

    def each(self, use: Callable[[Any, list[Complex], Let, Any], None]) -> None:
        """The second step: middle --> use(k1, [X[k1 + R k2] for every k2], let, lane)."""
        with self.code.loop(self.r, "k1") as k:

            def write(let: Let, lane: Any) -> None:
                values = [pair(self.middle, k, j, lane) for j in range(self.s)]
                use(k, transform(values, -1, let), let, lane)

            self.code.vector(self.lanes, write)

    def unsplit(self, k: Any, values: Sequence[Complex], let: Let, lane: Any) -> None:
        """The second step undone: [X[k1 + R k2] for every k2] --> middle."""
        for j, value in enumerate(transform(values, +1, let)):
            self._keep(k, j, times(value, *self._factor(j, k), -1) if j else value, lane)

    def join(self, write: Write) -> None:
        """The first step undone: middle --> write(n1, n2, x[n1 S + n2], lane)."""
        with self.code.loop(self.s, "n2") as j:

            def vector(let: Let, lane: Any) -> None:
                values = [pair(self.middle, k, j, lane) for k in range(self.r)]
                for a, value in enumerate(transform(values, +1, let)):
                    write(a, j, value, lane)

            self.code.vector(self.lanes, vector)

    def _factor(self, j: Any, k: Any) -> tuple[Any, Any]:
        return load(self.table, j, k, 0), load(self.table, j, k, 1)

    def _keep(self, k: Any, j: Any, value: Complex, lane: Any) -> None:
        for part, number in enumerate(value):
            self.code.store(self.middle, constant(0) if number is None else number, k, j, part, lane)
