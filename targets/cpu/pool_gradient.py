"""Data gradients of max and average pools: windows are gone through in order, and give to what they read.

A task is one plane of a block of channels. It keeps the few rows of dx that the windows of an output row reach in
scratch, a ring: when no later window reaches a row it is finished and written, so that overlapping windows cost
nothing extra and every element of dx is written once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from cnncc.ir.layout import channels
from cnncc.targets.algorithm import Algorithm, Cost, Layouts
from cnncc.targets.cpu import common
from cnncc.targets.cpu.pool import _count, _range
from cnncc.targets.problem import PoolDxProblem
from cnncc.targets.target import Target

RING = 256 << 10  # bytes of stack for the rows of dx
TAPS = 64  # of a window, which are written out
PER_TAP = 3.0  # vector operations, and as many again where the largest tap is looked for
PARALLEL_BYTES = 128 << 10  # below this, waking the other threads costs more than they save


@dataclass(frozen=True)
class PoolDxTile:
    """`lanes` channels of a `block` are a vector. `parallel`: planes run on the threads."""

    block: int
    lanes: int
    parallel: bool


def planes(p: PoolDxProblem) -> PoolDxProblem:
    """The problem with two spatial axes at least, the first of extent 1 where there is one."""
    if len(p.size) > 1:
        return p
    return replace(
        p, size=(1, *p.size), out=(1, *p.out), kernel=(1, *p.kernel), strides=(1, *p.strides),
        dilations=(1, *p.dilations), pads=(0, p.pads[0], 0, p.pads[1]),
    )  # fmt: skip


def ring(p: PoolDxProblem) -> tuple[int, int]:
    """Rows that are kept, and their columns, those of the padding with them."""
    (dy, dx), (ky, kx), (sy, sx) = p.dilations[-2:], p.kernel[-2:], p.strides[-2:]
    left = p.pads[len(p.size) - 1]
    return max(dy * (ky - 1) + 1, sy), max((p.out[-1] - 1) * sx + dx * (kx - 1) + 1, left + p.size[-1])


def applies(p: PoolDxProblem, target: Target) -> str | None:
    """Why not, or None: float32, planes that share no window, windows of a few taps, rows that fit the scratch."""
    if p.dtype != "f32":
        return f"gradients of pools are for f32, got {p.dtype}"
    p = planes(p)
    r = len(p.size)
    lead = range(r - 2)
    if any(p.kernel[a] != p.strides[a] or p.pads[a] or p.pads[r + a] or p.dilations[a] != 1 for a in lead):
        return "windows must not share planes of the first of three axes"
    if any(p.out[a] * p.kernel[a] > p.size[a] for a in lead):
        return "windows must end inside of the first of three axes"
    if math.prod(p.kernel) > TAPS:
        return f"a window may have {TAPS} taps, got {math.prod(p.kernel)}"
    if scratch(p, target, tiles_for(p, target)) > RING:
        return f"the rows of a window must fit {RING} bytes of scratch"
    return None


def layouts(p: PoolDxProblem, target: Target) -> Layouts:
    """NCHW{b}c throughout."""
    blocked = channels(target.block)
    return Layouts(blocked, blocked if p.op == "max" else None, blocked)


def tiles_for(p: PoolDxProblem, target: Target) -> PoolDxTile:
    """Whole vectors; in parallel where there is enough to do."""
    parallel = target.threads > 1 and _moved(p, target.block) >= PARALLEL_BYTES
    return PoolDxTile(target.block, min(target.block, target.lanes()), parallel)


def scratch(p: PoolDxProblem, target: Target, tile: PoolDxTile) -> int:
    """Bytes of the rows of dx."""
    p = planes(p)
    return 4 * math.prod((*p.kernel[:-2], *ring(p), tile.block))


def _moved(p: PoolDxProblem, block: int) -> float:
    batch = p.n if isinstance(p.n, int) else p.hint
    inputs = 2 if p.op == "max" else 1
    return 4.0 * batch * -(-p.c // block) * block * (inputs * math.prod(p.size) + math.prod(p.out))


def cost(p: PoolDxProblem, target: Target, tile: PoolDxTile) -> Cost:
    """Time of memory, or of the operations of all taps."""
    batch = p.n if isinstance(p.n, int) else p.hint
    windows = batch * -(-p.c // tile.block) * (tile.block // tile.lanes) * math.prod(p.out)
    operations = windows * math.prod(p.kernel) * PER_TAP * (2 if p.op == "max" else 1)
    operations += _moved(p, tile.block) / (4 * tile.lanes)
    threads = target.threads if tile.parallel else 1
    busy = operations * tile.lanes * 2 / (target.rate(tile.lanes) * 1e9 * threads)
    moved = _moved(p, tile.block)
    return Cost(max(busy, moved / (target.gbytes_per_second * 1e9)), 0.0, moved)


def define(p: PoolDxProblem, tile: PoolDxTile, x: Any, w: Any, finish: common.Finish) -> Any:
    """One stage, "out". Of a max pool `x` is x and `w` is dy, of an average pool `x` is dy."""
    from tvm import te, tirx

    given = [x] if w is None else [x, w]
    extents = common.shape(common.batch_of(p, x), -(-p.c // tile.block), *p.size, tile.block)

    def body(read: Any, written: Any) -> Any:
        return _Kernel(p, tile, read[0] if len(read) > 1 else None, read[-1], written[0]).statement(finish)

    buffers = [tirx.decl_buffer(tensor.shape, tensor.dtype, tensor.op.name) for tensor in given]
    return te.extern([extents], given, body, "out", "float32", buffers, [tirx.decl_buffer(extents, "float32", "out")])


class _Kernel:
    """Writes the loops of one kernel."""

    def __init__(self, p: PoolDxProblem, tile: PoolDxTile, x: Any, dy: Any, out: Any):
        from cnncc.targets.cpu.loops import Loops

        self.given, self.p, self.tile = p, planes(p), tile
        self.x, self.dy, self.out = x, dy, out
        self.n = out.shape[0]
        self.code = Loops()
        self.high, self.wide = ring(self.p)
        self.above, self.left = self.p.pads[len(p.kernel) - 2] if len(p.kernel) > 1 else 0, p.pads[len(p.kernel) - 1]
        self.depths = list(product(*(range(k) for k in self.p.kernel[:-2])))

    def statement(self, finish: common.Finish) -> Any:
        """The whole kernel."""
        code, p, t = self.code, self.p, self.tile
        i64 = common.i64
        blocks, lead = -(-p.c // t.block), p.out[:-2]
        (stride, _), rows = p.strides[-2:], p.out[-2]
        with code.loop(self.n * i64(blocks * math.prod(lead)), "task", parallel=t.parallel) as task:
            plane = [code.named(o, "plane") for o in common.places(task % i64(math.prod(lead)), lead)]
            block = code.named(task // i64(math.prod(lead)) % i64(blocks), "c")
            image = code.named(task // i64(math.prod(lead) * blocks), "n")
            kept = code.local("kept", len(self.depths), self.high, self.wide, t.block)
            with code.loop(len(self.depths), "k") as k, code.loop(self.high, "row") as row:
                self._clear(kept, k, row)
            for begin, end, edge in _thirds(_range(p, len(lead)), rows):
                with code.loop(end - begin, "y", begin) as y:
                    self._windows(kept, image, block, plane, y, edge)
                    with code.loop(stride, "done") as done:
                        self._finish(kept, image, block, plane, y * i64(stride) + done, finish)
            rest = self.above + p.size[-2] - rows * stride
            if rest > 0:
                with code.loop(rest, "rest", rows * stride) as at:
                    self._finish(kept, image, block, plane, at, finish)
            self._beyond(image, block, plane, finish)
        return code.finish()

    def _vectors(self) -> range:
        return range(0, self.tile.block, self.tile.lanes)

    def _lanes(self, write: Callable[[Any], None]) -> None:
        """What `write(lane)` states, at every lane of a block, a vector at a time."""
        for first in self._vectors():

            def vector(let: Any, v: Any, first: int = first) -> None:
                write(first + v)

            self.code.vector(self.tile.lanes, vector)

    def _clear(self, kept: Any, k: Any, row: Any) -> None:
        from tvm import tirx

        zero = tirx.const(0.0, "float32")
        with self.code.loop(self.wide, "column") as column:
            self._lanes(lambda lane: self.code.store(kept, zero, k, row, column, lane))

    def _windows(self, kept: Any, image: Any, block: Any, plane: list[Any], y: Any, edge: bool) -> None:
        """The windows of an output row."""
        code, p = self.code, self.p
        for begin, end, side in _thirds(_range(p, len(p.size) - 1), p.out[-1]):
            with code.loop(end - begin, "x", begin) as column:
                for first in self._vectors():

                    def window(let: Any, v: Any, side: bool = side, column: Any = column, first: int = first) -> None:
                        self._window(kept, image, block, plane, (y, column), (edge, side), let, first + v)

                    code.vector(self.tile.lanes, window)

    def _window(
        self, kept: Any, image: Any, block: Any, plane: list[Any], at: tuple[Any, Any], edge: tuple[bool, bool],
        let: Any, lane: Any,
    ) -> None:  # fmt: skip
        """One window: its taps are added to what is kept. `edge`: it may reach outside, per axis."""
        from tvm import tirx

        p = self.p
        i64 = common.i64
        zero = tirx.const(0.0, "float32")
        taps = []
        for number, (k, ky, kx) in enumerate(product(range(len(self.depths)), *map(range, p.kernel[-2:]))):
            row, column = (o * i64(s) + i64(t * d) for o, s, t, d in
                           zip(at, p.strides[-2:], (ky, kx), p.dilations[-2:], strict=True))  # fmt: skip
            tests = [t for check, i, pad, size in ((edge[0], row, self.above, p.size[-2]),
                                                    (edge[1], column, self.left, p.size[-1]))
                     if check for t in (i >= i64(pad), i < i64(pad + size))]  # fmt: skip
            taps.append((number, k, row, column, tests))
        gradient = self.dy[(image, block, *[*plane, *at][-len(self.given.size) :], lane)]
        if p.op == "average":
            share = let(gradient / tirx.Cast("float32", tirx.convert(_count(self.given, self._place(plane, at)))))
            for _, k, row, column, _ in taps:
                self._add(kept, k, row, column, lane, share)
            return
        gradient = let(gradient)
        best: Any = None
        found: Any = None
        infinity, none = tirx.const(float("inf"), "float32"), tirx.const(-1.0, "float32")
        for number, k, row, column, tests in taps:
            source = [o * i64(s) + i64(d) for o, s, d in zip(plane, p.strides, self.depths[k], strict=False)]
            source += [row - i64(self.above), column - i64(self.left)]
            value = self.x[(image, block, *source[-len(self.given.size) :], lane)]
            mark = tirx.const(float(number), "float32")
            if tests:
                value = tirx.if_then_else(tirx.all(*tests), value, -infinity)
                mark = tirx.if_then_else(tirx.all(*tests), mark, none)
            if best is None:
                best, found = let(value), let(mark)
                continue
            value, mark = let(value), let(mark) if tests else mark
            # The first largest, NaN being largest; no negations: TVM turns them into comparisons that hold for NaN
            better = tirx.Select(best <= infinity, tirx.Select(value <= best, found, mark), found)
            if any(edge):  # the first tap inside counts even where it is minus infinity
                better = tirx.Select(found < zero, mark, better)
            best, found = let(tirx.Select(best <= infinity, tirx.Select(value <= best, best, value), best)), let(better)
        for number, k, row, column, _ in taps:
            here = found.equal(tirx.const(float(number), "float32"))
            self._add(kept, k, row, column, lane, tirx.Select(here, gradient, zero))

    def _place(self, plane: list[Any], at: tuple[Any, Any]) -> tuple[Any, ...]:
        return tuple([*plane, *at][-len(self.given.size) :])

    def _add(self, kept: Any, k: int, row: Any, column: Any, lane: Any, value: Any) -> None:
        index = (common.i64(k), row % common.i64(self.high), column, lane)
        self.code.store(kept, kept[index] + value, *index)

    def _finish(self, kept: Any, image: Any, block: Any, plane: list[Any], at: Any, finish: common.Finish) -> None:
        """Write row `at`, counted with the padding, and clear it."""
        from tvm import tirx

        code, p = self.code, self.p
        i64 = common.i64
        y = code.named(at - i64(self.above), "y")
        row = code.named(at % i64(self.high), "row")
        with code.loop(len(self.depths), "k") as k:
            depth = common.places(k, p.kernel[:-2])
            source = [o * i64(s) + d for o, s, d in zip(plane, p.strides, depth, strict=False)]
            with code.when(tirx.all(y >= i64(0), y < i64(p.size[-2]))):
                self._row(
                    image, block, [*source, y], finish,
                    lambda column, lane: kept[k, row, column + i64(self.left), lane],
                )  # fmt: skip
            self._clear(kept, k, row)

    def _row(self, image: Any, block: Any, place: list[Any], finish: common.Finish, value: Any) -> None:
        from tvm import tirx

        code, p, t = self.code, self.p, self.tile

        def write(column: Any, lane: Any) -> None:
            where = [*place, column][-len(self.given.size) :]
            channel = block * common.i64(t.block) + lane
            result = finish(value(column, lane), (image, channel, *where))
            if p.c % t.block:  # the padding of the last block stays zero
                result = tirx.if_then_else(channel < common.i64(p.c), result, tirx.const(0.0, "float32"))
            code.store(self.out, result, image, block, *where, lane)

        with code.loop(p.size[-1], "column") as column:
            self._lanes(lambda lane: write(column, lane))

    def _beyond(self, image: Any, block: Any, plane: list[Any], finish: common.Finish) -> None:
        """Planes that no window reaches, behind the last."""
        from tvm import tirx

        code, p = self.code, self.p
        for axis, o in enumerate(plane):
            reached = p.out[axis] * p.strides[axis]
            if reached == p.size[axis]:
                continue
            with (
                code.when(o.equal(common.i64(p.out[axis] - 1))),
                code.loop(p.size[axis] - reached, "z", reached) as z,
                code.loop(p.size[-2], "y") as y,
            ):
                place = [z if a == axis else q for a, q in enumerate(plane)]
                self._row(image, block, [*place, y], finish, lambda column, lane: tirx.const(0.0, "float32"))


def _thirds(inside: tuple[int, int], count: int) -> Iterator[tuple[int, int, bool]]:
    """Outputs (begin, end, whether their windows may reach outside)."""
    low, high = inside
    for begin, end, edge in ((0, low, True), (low, high, False), (high, count, True)):
        if end > begin:
            yield begin, end, edge


ALGORITHM = Algorithm(
    name="pool_gradient",
    op="pool_dx",
    applies=applies,
    layouts=layouts,
    tiles_for=tiles_for,
    cost=cost,
    define=define,
    scratch=scratch,
)
