"""Depthwise convolution by Fourier transforms: tile by tile of a block of channels, in the second-level cache.

rows forward; for each column: forward, times the filter's spectrum, back; rows back
"""

from __future__ import annotations

from typing import Any

from cnncc.targets.cpu import common
from cnncc.targets.cpu.fft_tiles import FftTile, attrs_for, best_tile, candidates, cost, declines, fft_algorithm
from cnncc.targets.problem import ConvProblem


def define(p: ConvProblem, tile: FftTile, x: Any, w: Any, finish: common.Finish) -> Any:
    """One stage, "out"."""
    from tvm import te, tirx

    n = common.batch_of(p, x)
    extents = common.shape(n, -(-p.ic // tile.block), *p.out, tile.block)

    def body(read: Any, written: Any) -> Any:
        return _kernel(p, tile, n, read[0], read[1], finish, written[0])

    return te.extern(
        [extents], [x, w], body, "out", "float32", [common.declared(x), common.declared(w)],
        [tirx.decl_buffer(extents, "float32", "out")],
    )  # fmt: skip


def _kernel(p: ConvProblem, tile: FftTile, n: Any, x: Any, w: Any, finish: common.Finish, out: Any) -> Any:
    from cnncc.targets.cpu.fft_lines import Line, pair
    from cnncc.targets.cpu.fft_planes import Planes, column, restored
    from cnncc.targets.cpu.fourier import Complex, Let, times
    from cnncc.targets.cpu.loops import Loops

    high, wide = attrs_for(p, tile).axes
    parts, blocks = tile.block // tile.lanes, -(-p.ic // tile.block)
    code = Loops()
    tasks = n * (blocks * parts * high.count * wide.count)
    with code.loop(tasks, "task", parallel=tile.parallel) as task:
        tw = code.named(task % wide.count, "tw")
        th = code.named(task // wide.count % high.count, "th")
        first = code.named(task // (wide.count * high.count) % parts * tile.lanes, "lane")
        c = code.named(task // (wide.count * high.count * parts) % blocks, "c")
        image = code.named(task // (wide.count * high.count * parts * blocks), "n")
        row = Line(code, tile.lanes, tile.wide, "row")
        line = Line(code, tile.lanes, tile.high, "column")
        planes = Planes(code, row, (high, wide), (th, tw))
        spectrum = code.local("spectrum", planes.half, high.length + high.length % 2, 2, tile.lanes)
        planes.forward(spectrum, lambda y, at, lane: x[image, c, y, at, first + lane])
        with code.loop(planes.half, "column") as k:
            column(code, line, high, spectrum, k, planes.pairs)

            def product(k1: Any, values: list[Complex], let: Let, lane: Any) -> None:
                factors = [pair(w, c, k, k1 + k2 * line.r, first + lane) for k2 in range(line.s)]
                made = [times(value, *factor) for value, factor in zip(values, factors, strict=True)]
                line.unsplit(k1, [(let(a), let(b)) for a, b in made], let, lane)

            line.each(product)

            restored(code, line, high, spectrum, k)

        def result(y: Any, at: Any, value: Any, lane: Any) -> None:
            value = finish(value, (image, c * tile.block + first + lane, y, at))
            code.store(out, value, image, c, y, at, first + lane)

        planes.backward(spectrum, result)
    return code.finish()


ALGORITHM = fft_algorithm(
    "fft_depthwise",
    declines,
    best_tile,
    error=16,
    layouts=common.by_output,
    cost=cost,
    define=define,
    candidates=candidates,
)
