"""Weight gradients of convolutions: dw[m, c, k] = sum_{n, o} dy[n, m, o] * x[n, c, o*s + k*d - p].

A task owns some blocks of output and input channels. It walks over the batch and the image in the same order whatever
the number of threads; for each part of the image a register tile takes its sums from scratch, adds the products of
all pixels, and puts them back. At the end the sums are written in the plain layout of weights, so that an optimizer's
update is part of the kernel. Borders are padded into scratch. See `weight_tiles` for the three kinds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from cnncc.ir.layout import PLAIN, channels
from cnncc.targets.algorithm import Algorithm, Layouts
from cnncc.targets.cpu import common, weight_tiles
from cnncc.targets.cpu.tiling import ceil_div
from cnncc.targets.cpu.weight_tiles import DwTile, Kind, copies, patch, planes, terms
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target


def _layouts(kind: Kind, p: ConvProblem, target: Target) -> Layouts:
    """x [NCHW{b}c, or NCHW], dy NCHW{b}c, plain weights."""
    blocked = channels(target.block)
    return Layouts(PLAIN if kind == "plain" else blocked, blocked, PLAIN)


def _define(kind: Kind, p: ConvProblem, tile: DwTile, x: Any, w: Any, finish: common.Finish) -> Any:
    """One stage, "out"; `w` is dy."""
    from tvm import te, tirx

    def declared(tensor: Any) -> Any:
        return tirx.decl_buffer(tensor.shape, tensor.dtype, tensor.op.name)

    extents = common.shape(p.oc, p.ic // p.groups, *p.kernel)

    def body(read: Any, written: Any) -> Any:
        return _Kernel(kind, p, tile, common.batch_of(p, x), read[0], read[1], written[0]).statement(finish)

    return te.extern(
        [extents], [x, w], body, "out", "float32", [declared(x), declared(w)],
        [tirx.decl_buffer(extents, "float32", "out")],
    )  # fmt: skip


class _Kernel:
    """Writes the loops of one kernel."""

    def __init__(self, kind: Kind, p: ConvProblem, tile: DwTile, n: Any, x: Any, dy: Any, out: Any):
        from cnncc.targets.cpu.loops import Loops

        self.kind, self.given, self.tile, self.n = kind, p, tile, n
        self.x, self.dy, self.out = x, dy, out
        self.p = planes(p)
        self.code = Loops()
        self.outer, self.inner = terms(self.p, kind, tile.block)

    def statement(self, finish: common.Finish) -> Any:
        """The whole kernel."""
        code, p, t = self.code, self.p, self.tile
        per_out = ceil_div(p.oc // p.groups if self.kind == "blocked" else p.oc, t.block)
        per_in = ceil_div(p.ic // p.groups, t.block) if self.kind == "blocked" else 1
        groups = p.groups if self.kind == "blocked" else 1
        rows, columns = per_out // t.outs, per_in // t.ins
        with code.loop(groups * rows * columns, "task", parallel=t.parallel) as task:
            group = code.named(task // (rows * columns), "group")
            first = code.named(task // columns % rows * t.outs, "m0")  # blocks within the group
            other = code.named(task % columns * t.ins, "c0")
            sums = code.local("sums", t.outs, t.ins, self.outer, self.inner, t.block)
            self._clear(sums)
            self._walk(sums, group * per_out + first, group * per_in + other)
            self._write(sums, group * per_out + first, other, finish)
        return code.finish()

    def _each(self, block: Callable[[Any, Any], None]) -> None:
        """block(first lane, lanes) for the vectors of a block."""
        for v in range(self.tile.block // self.tile.lanes):
            block(v * self.tile.lanes, self.tile.lanes)

    def _clear(self, sums: Any) -> None:
        from tvm import tirx

        code, t = self.code, self.tile
        zero = tirx.const(0.0, "float32")
        with (
            code.loop(t.outs, "m") as m,
            code.loop(t.ins, "c") as c,
            code.loop(self.outer, "k") as k,
            code.loop(self.inner, "i") as i,
        ):
            self._each(
                lambda first, lanes: code.vector(lanes, lambda let, v: code.store(sums, zero, m, c, k, i, first + v))
            )

    def _walk(self, sums: Any, first: Any, other: Any) -> None:
        """Add the products of all pixels to the sums."""
        from tvm import tirx

        code, p, t = self.code, self.p, self.tile
        i64 = common.i64
        lead = p.rank - 2
        parts = tirx.floordiv(self.n + i64(t.images - 1), i64(t.images)) if t.images > 1 else self.n
        with code.loop(parts, "part") as part:
            n0 = code.named(part * i64(t.images), "n0")
            count = code.named(tirx.min(i64(t.images), self.n - n0), "count") if t.images > 1 else 1
            with code.loop(math.prod(p.out[:-2]) * (p.out[-2] // t.lines), "chunk") as chunk:
                *planes_at, line = common.places(chunk, (*p.out[:-2], p.out[-2] // t.lines))
                line = code.named(line * i64(t.lines), "line")
                with code.loop(math.prod(p.kernel[:lead]), "depth") as depth:
                    taps = common.places(depth, p.kernel[:lead])
                    at = [
                        code.named(o * i64(s) + k * i64(d) - i64(b), "plane")
                        for o, k, s, d, b in zip(planes_at, taps, p.strides, p.dilations, p.pads, strict=False)
                    ]
                    inside = [c for a, size in zip(at, p.size, strict=False) for c in (a >= 0, a < i64(size))]
                    if lead and any(p.pads[:lead] + p.pads[p.rank : p.rank + lead]):
                        with code.when(tirx.all(*inside)):
                            self._plane(sums, first, other, n0, count, planes_at, at, line, depth)
                    else:
                        self._plane(sums, first, other, n0, count, planes_at, at, line, depth)

    def _plane(
        self,
        sums: Any,
        first: Any,
        other: Any,
        n0: Any,
        count: Any,
        to: list[Any],
        at: list[Any],
        line: Any,
        depth: Any,
    ) -> None:
        """Products of lines of dy at planes `to` with planes `at` of x; `depth` numbers the taps of leading axes."""
        code, t = self.code, self.tile
        with code.loop(t.ins, "c") as c:
            if self.kind == "depthwise":
                with code.loop(t.outs, "m") as m:
                    source = self._source(first + m, n0, count, at, line)
                    self._tiles(sums, source, m, c, first + m, n0, count, to, line, depth)
            else:
                source = self._source(other + c, n0, count, at, line)
                with code.loop(t.outs, "m") as m:
                    self._tiles(sums, source, m, c, first + m, n0, count, to, line, depth)

    def _source(self, c: Any, n0: Any, count: Any, at: list[Any], line: Any) -> Callable[..., Any]:
        """Reads the input at (image of the part, line and column of the padded patch, channel)."""
        p, t = self.p, self.tile
        i64 = common.i64
        top = line * i64(p.strides[-2])

        def given(i: Any, y: Any, column: Any, channel: Any) -> Any:
            place = [*at, top + y, column][p.rank - self.given.rank :]
            if self.kind == "plain":
                return self.x[(n0 + i, channel, *place)]
            return self.x[(n0 + i, c, *place, channel)]

        if not copies(p):
            return given
        return self._copied(given, count, top, patch(p, t.lines))

    def _copied(self, given: Callable[..., Any], count: Any, top: Any, size: tuple[int, int]) -> Callable[..., Any]:
        """Scratch with a padded copy of the patch."""
        from tvm import tirx

        code, p, t = self.code, self.p, self.tile
        high, wide = size
        i64 = common.i64
        above, left = p.pads[p.rank - 2], p.pads[p.rank - 1]
        inner = max(0, min(p.size[-1], wide - left))
        plain = self.kind == "plain"
        zero = tirx.const(0.0, "float32")
        scratch = code.local("padded", t.images, *((p.ic, high, wide) if plain else (high, wide, t.block)))

        def put(i: Any, y: Any, column: Any, channel: Any, value: Callable[[Any], Any]) -> None:
            if plain:
                code.store(scratch, value(channel), i, channel, y, column)
                return
            self._each(
                lambda first, lanes: code.vector(
                    lanes, lambda let, v: code.store(scratch, value(first + v), i, y, column, first + v)
                )
            )

        def lines(i: Any, channel: Any) -> None:
            with code.loop(high, "y") as y:
                inside = tirx.all(top + y >= i64(above), top + y < i64(above + p.size[-2]))
                for begin, end in ((0, left), (left + inner, wide)):
                    if end > begin:
                        with code.loop(end - begin, "border", begin) as column:
                            put(i, y, column, channel, lambda lane: zero)
                if not inner:
                    return
                with code.when(inside), code.loop(inner, "column") as column:
                    put(i, y, column + left, channel, lambda lane: given(i, y - i64(above), column, lane))
                with code.when(tirx.Not(inside)), code.loop(inner, "column") as column:
                    put(i, y, column + left, channel, lambda lane: zero)

        with code.loop(count, "i") as i:
            if plain:
                with code.loop(p.ic, "channel") as channel:
                    lines(i, channel)
            else:
                lines(i, None)
        return lambda i, y, column, channel: (
            scratch[(i, channel, y, column)] if plain else scratch[(i, y, column, channel)]
        )

    def _tiles(
        self,
        sums: Any,
        source: Any,
        m: Any,
        c: Any,
        block: Any,
        n0: Any,
        count: Any,
        to: list[Any],
        line: Any,
        depth: Any,
    ) -> None:
        """The register tiles of a block of output channels and one of input channels."""
        code, p, t = self.code, self.p, self.tile
        i64 = common.i64
        high, wide = p.kernel[-2:]
        within = {"blocked": high * wide, "plain": high, "depthwise": 1}[self.kind]
        with code.loop(within, "tap") as tap:
            k = code.named(depth * i64(within) + tap, "k")
            for start in range(0, self.inner, t.rows):
                numbers = range(start, min(start + t.rows, self.inner))
                for lane0 in range(0, t.block, t.lanes * t.vectors):
                    self._tile(sums, source, m, c, k, tap, numbers, lane0, block, n0, count, to, line)

    def _value(self, source: Any, tap: Any, number: int, i: Any, y: Any, column: Any, lane: Any) -> Any:
        """The element of the input that a sum needs at a pixel."""
        p = self.p
        i64 = common.i64
        wide = p.kernel[-1]
        if self.kind == "blocked":
            ky, kx, channel = tap // i64(wide), tap % i64(wide), i64(number)
        elif self.kind == "plain":
            ky, kx, channel = tap, i64(number % wide), i64(number // wide)
        else:
            ky, kx, channel = i64(number // wide), i64(number % wide), lane
        (sy, sx), (dy, dx) = p.strides[-2:], p.dilations[-2:]
        return source(i, y * i64(sy) + ky * i64(dy), column * i64(sx) + kx * i64(dx), channel)

    def _tile(
        self, sums: Any, source: Any, m: Any, c: Any, k: Any, tap: Any, numbers: range, lane0: int, block: Any, n0: Any,
        count: Any, to: list[Any], line: Any,
    ) -> None:  # fmt: skip
        """One register tile: sums `numbers` of lanes from lane0."""
        code, p, t = self.code, self.p, self.tile
        rows = len(numbers)
        tile = code.local("tile", t.vectors * rows, t.lanes)

        def move(store: Callable[[int, int, Any], None]) -> None:
            for v in range(t.vectors):
                for r in range(rows):

                    def vector(let: Any, lane: Any, v: int = v, r: int = r) -> None:
                        store(v, r, lane)

                    code.vector(t.lanes, vector)

        def kept(v: int, r: int, lane: Any) -> tuple[Any, ...]:
            return m, c, k, common.i64(numbers[r]), common.i64(lane0 + v * t.lanes) + lane

        move(lambda v, r, lane: code.store(tile, sums[kept(v, r, lane)], v * rows + r, lane))
        with code.loop(count, "i") as i, code.loop(t.lines, "y") as y, code.loop(p.out[-1], "column") as column:
            place = [*to, line + y, column][p.rank - self.given.rank :]
            for v in range(t.vectors):

                def products(let: Any, lane: Any, v: int = v) -> None:
                    at = common.i64(lane0 + v * t.lanes) + lane
                    gradient = let(self.dy[(n0 + i, block, *place, at)])
                    for r, number in enumerate(numbers):
                        value = self._value(source, tap, number, i, y, column, at)
                        code.store(tile, tile[v * rows + r, lane] + value * gradient, v * rows + r, lane)

                code.vector(t.lanes, products)
        move(lambda v, r, lane: code.store(sums, tile[v * rows + r, lane], *kept(v, r, lane)))

    def _write(self, sums: Any, first: Any, other: Any, finish: common.Finish) -> None:
        """The sums as weights, with what is computed from them."""
        from tvm import tirx

        code, p, t = self.code, self.p, self.tile
        i64 = common.i64
        taps = math.prod(p.kernel)
        per_in = p.ic // p.groups
        length = self.outer * self.inner
        whole = self.kind != "blocked" or per_in % t.block == 0
        rows = code.local("rows", t.block, length)

        def write(c: Any, lane: Any, made: Any) -> None:
            begin = code.named((other + c) * i64(t.block), "begin") if self.kind == "blocked" else i64(0)

            def put(j: Any) -> None:
                index = (made, begin + j // i64(taps), *common.places(j % i64(taps), self.given.kernel))
                code.store(self.out, finish(rows[lane, j], index), *index)

            if whole and length % t.lanes == 0:
                with code.loop(length // t.lanes, "j") as j:
                    code.vector(t.lanes, lambda let, v: put(j * i64(t.lanes) + v))
            else:
                count = length if whole else tirx.min(i64(t.block), i64(per_in) - begin) * i64(taps)
                with code.loop(count, "j") as j:
                    put(j)

        with code.loop(t.outs, "m") as m, code.loop(t.ins, "c") as c:
            # All rows are turned before one is read: a vector waits long for elements that were only just stored.
            with code.loop(self.outer, "k") as k, code.loop(self.inner, "i") as i, code.loop(t.block, "lane") as lane:
                code.store(rows, sums[m, c, k, i, lane], lane, self._position(k, i, taps))
            with code.loop(t.block, "lane") as lane:
                made = code.named((first + m) * i64(t.block) + lane, "made")
                if p.oc % t.block:
                    with code.when(made < i64(p.oc)):
                        write(c, lane, made)
                else:
                    write(c, lane, made)

    def _position(self, k: Any, i: Any, taps: int) -> Any:
        """Where a sum (outer, inner) stands in a row of weights [channel, *taps]."""
        i64, wide = common.i64, self.p.kernel[-1]
        if self.kind == "blocked":
            return i * i64(taps) + k
        if self.kind == "plain":
            return i // i64(wide) * i64(taps) + k * i64(wide) + i % i64(wide)
        return k * i64(self.inner) + i


def _algorithm(name: str, kind: Kind) -> Algorithm:
    return Algorithm(
        name=name,
        op="conv_dw",
        applies=functools.partial(weight_tiles.applies, kind),
        layouts=functools.partial(_layouts, kind),
        tiles_for=functools.partial(weight_tiles.tiles_for, kind),
        cost=functools.partial(weight_tiles.cost, kind),
        define=functools.partial(_define, kind),
        scratch=functools.partial(weight_tiles.scratch, kind),
    )


ALGORITHMS = (
    _algorithm("depthwise_weight_gradient", "depthwise"),
    _algorithm("first_weight_gradient", "plain"),
    _algorithm("weight_gradient", "blocked"),
)
