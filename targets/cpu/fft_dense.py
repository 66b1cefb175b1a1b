"""Dense convolution by Fourier transforms: for every frequency a product of matrices of complex numbers.

    forward     tile by tile and block by block of input channels: rows, columns
    product     frequency by frequency: [tiles x inputs] by [inputs x outputs], in register tiles
    back        tile by tile and block by block of output channels: columns, rows

The three share all tiles of all images, or as many at a time as the third-level cache holds: so the spectra of the
filters, which outweigh everything else, are read once. What passes between the steps is the memory plan's.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from cnncc.ir.layout import Layout, channels
from cnncc.targets.algorithm import Layouts
from cnncc.targets.cpu import common
from cnncc.targets.cpu.fft_dense_tiles import FftDenseTile, best_tile, candidates, cost, declines
from cnncc.targets.cpu.fft_tiles import attrs_for, fft_algorithm
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target


def layouts(p: ConvProblem, target: Target) -> Layouts:
    """NCHW{b}c, spectra [Tx / 2 + 1, Ty, 2, M, C] with both channels in blocks, NCHW{b}c."""
    b = target.block
    return Layouts(channels(b), Layout(((4, b), (3, b))), channels(b))


def define(p: ConvProblem, tile: FftDenseTile, x: Any, w: Any, finish: common.Finish) -> Any:
    """Stages "out" and, before it, the two arrays between the steps."""
    from tvm import te, tirx

    n, b = common.batch_of(p, x), tile.block
    extents = (*workspaces(p, tile), (n, -(-p.oc // b), *p.out, b))
    shapes = [common.shape(*e) for e in extents]

    def body(read: Any, written: Any) -> Any:
        return _Kernel(p, tile, n, read, written, finish).whole()

    *_, out = te.extern(
        shapes, [x, w], body, "out", ["float32"] * 3, [common.declared(x), common.declared(w)],
        [tirx.decl_buffer(s, "float32", name) for s, name in zip(shapes, ("inputs", "sums", "out"), strict=True)],
    )  # fmt: skip
    return out


def workspaces(p: ConvProblem, tile: FftDenseTile) -> tuple[tuple[int, ...], ...]:
    """The spectra of the input [frequency][tile][vector][part][lane], and of the result [vector][tile][frequency].."""
    ib, ob, parts = -(-p.ic // tile.block), -(-p.oc // tile.block), tile.block // tile.lanes
    points = attrs_for(p, tile).half * math.prod(tile.high)
    return (
        (points, tile.tiles, ib * parts, 2, tile.lanes),
        (ob * parts, tile.tiles, points, 2, tile.lanes),
    )


class _Kernel:
    def __init__(self, p: ConvProblem, tile: FftDenseTile, n: Any, read: Any, written: Any, finish: common.Finish):
        from cnncc.targets.cpu.loops import Loops

        self.p, self.tile, self.finish = p, tile, finish
        self.x, self.w = read
        self.inputs, self.sums, self.out = written
        self.high, self.wide = attrs_for(p, tile).axes
        self.lanes, self.parts = tile.lanes, tile.block // tile.lanes
        self.half = self.wide.length // 2 + 1
        self.total = n * (self.high.count * self.wide.count)
        self.code = Loops()

    def whole(self) -> Any:
        """All tiles, `tile.tiles` at a time."""
        from tvm import tirx

        code, tile = self.code, self.tile
        with code.loop((self.total + tile.tiles - 1) // tile.tiles, "chunk") as chunk:
            begin = code.named(chunk * tile.tiles, "begin")
            count = code.named(tirx.min(self.total - begin, common.i64(tile.tiles)), "count")
            self._forward(begin, count)
            self._product(count)
            self._back(begin, count)
        return code.finish()

    def _place(self, t: Any) -> tuple[Any, tuple[Any, Any]]:
        """The image of a tile, and its numbers along the axes."""
        rows, columns = self.high.count, self.wide.count
        named = self.code.named
        return named(t // (rows * columns), "n"), (named(t // columns % rows, "th"), named(t % columns, "tw"))

    def _planes(self, place: tuple[Any, Any]) -> tuple[Any, Any, Any]:
        from cnncc.targets.cpu.fft_lines import Line
        from cnncc.targets.cpu.fft_planes import Planes

        row = Line(self.code, self.lanes, self.tile.wide, "row")
        line = Line(self.code, self.lanes, self.tile.high, "column")
        planes = Planes(self.code, row, (self.high, self.wide), place)
        length = self.high.length
        return planes, line, self.code.local("spectrum", self.half, length + length % 2, 2, self.lanes)

    def _forward(self, begin: Any, count: Any) -> None:
        """x --> inputs [frequency][tile][vector of inputs][part]."""
        from cnncc.targets.cpu.fft_planes import column
        from cnncc.targets.cpu.fourier import Complex, Let

        code, vectors = self.code, -(-self.p.ic // self.tile.block) * self.parts
        with code.loop(count * vectors, "task", parallel=self.tile.parallel) as task:
            t, v = code.named(task // vectors, "t"), code.named(task % vectors, "v")
            image, place = self._place(begin + t)
            c, first = code.named(v // self.parts, "c"), code.named(v % self.parts * self.lanes, "first")
            planes, line, spectrum = self._planes(place)
            planes.forward(spectrum, lambda y, at, lane: self.x[image, c, y, at, first + lane])
            with code.loop(self.half, "column") as k:
                column(code, line, self.high, spectrum, k, planes.pairs)

                def keep(k1: Any, values: list[Complex], let: Let, lane: Any) -> None:
                    for k2, value in enumerate(values):
                        for part, number in enumerate(value):
                            at = k * self.high.length + k1 + k2 * line.r
                            code.store(self.inputs, number, at, t, v, part, lane)

                line.each(keep)

    def _product(self, count: Any) -> None:
        """inputs, w --> sums [vector of outputs][tile][frequency][part]."""
        from cnncc.targets.cpu.fft_lines import load

        code, tile, b = self.code, self.tile, self.tile.block
        inputs, vectors = -(-self.p.ic // b) * self.parts, -(-self.p.oc // b) * self.parts
        panels = vectors // tile.vectors
        with code.loop(self.half * self.high.length, "point", parallel=tile.parallel) as f:
            k, row = code.named(f // self.high.length, "k"), code.named(f % self.high.length, "row")
            with (
                code.loop(panels, "panel") as panel,
                code.loop((count + tile.rows - 1) // tile.rows, "rows") as rows,
            ):
                sums = code.local("acc", tile.rows, tile.vectors, 2, self.lanes)
                code.vector(self.lanes, partial(self._clear, sums))
                with code.loop(inputs, "u") as u, code.loop(self.lanes, "i") as i:

                    def step(let: Any, lane: Any) -> None:
                        weights = []
                        for v in range(tile.vectors):
                            o = panel * tile.vectors + v
                            row_of = u % self.parts * self.lanes + i
                            at = (o // self.parts, u // self.parts, row_of, o % self.parts * self.lanes + lane)
                            weights.append([let(load(self.w, k, row, part, *at)) for part in (0, 1)])
                        for t in range(tile.rows):
                            a, b_ = (let(self.inputs[f, rows * tile.rows + t, u, part, i]) for part in (0, 1))
                            for v, (re, im) in enumerate(weights):
                                for part, terms in ((0, (a * re, b_ * im * -1.0)), (1, (a * im, b_ * re))):
                                    for term in terms:
                                        code.store(sums, sums[t, v, part, lane] + term, t, v, part, lane)

                    code.vector(self.lanes, step)

                def keep(let: Any, lane: Any) -> None:
                    for t in range(tile.rows):
                        for v in range(tile.vectors):
                            for part in (0, 1):
                                at = (panel * tile.vectors + v, rows * tile.rows + t, f, part, lane)
                                code.store(self.sums, sums[t, v, part, lane], *at)

                code.vector(self.lanes, keep)

    def _clear(self, sums: Any, let: Any, lane: Any) -> None:
        from cnncc.targets.cpu.fft_lines import constant

        for t in range(self.tile.rows):
            for v in range(self.tile.vectors):
                for part in (0, 1):
                    self.code.store(sums, constant(0), t, v, part, lane)

    def _back(self, begin: Any, count: Any) -> None:
        """sums --> out."""
        from cnncc.targets.cpu.fft_lines import pair
        from cnncc.targets.cpu.fft_planes import restored
        from cnncc.targets.cpu.fourier import Let

        code, vectors = self.code, -(-self.p.oc // self.tile.block) * self.parts
        with code.loop(count * vectors, "task", parallel=self.tile.parallel) as task:
            t, v = code.named(task // vectors, "t"), code.named(task % vectors, "v")
            image, place = self._place(begin + t)
            c, first = code.named(v // self.parts, "c"), code.named(v % self.parts * self.lanes, "first")
            planes, line, spectrum = self._planes(place)
            with code.loop(self.half, "column") as k:
                with code.loop(line.r, "k1") as k1:

                    def unsplit(let: Let, lane: Any) -> None:
                        at = [k * self.high.length + k1 + k2 * line.r for k2 in range(line.s)]
                        line.unsplit(k1, [pair(self.sums, v, t, f, lane) for f in at], let, lane)

                    code.vector(self.lanes, unsplit)
                restored(code, line, self.high, spectrum, k)

            def result(y: Any, at: Any, value: Any, lane: Any) -> None:
                value = self.finish(value, (image, c * self.tile.block + first + lane, y, at))
                code.store(self.out, value, image, c, y, at, first + lane)

            planes.backward(spectrum, result)


ALGORITHM = fft_algorithm(
    "fft",
    declines,
    best_tile,
    error=48,
    layouts=layouts,
    cost=cost,
    define=define,
    workspaces=workspaces,
    candidates=candidates,
)
