"""Convolution of few input channels: reads plain NCHW, writes blocked channels.

out[n, o, y, b] = sum_{c, k} x[n, c, y*s + k*d] * w[o, c, k, b]. Blocks of input channels would be mostly padding (3 of
16), so the reduction runs over channels and taps of the image as it comes, padded into scratch once per task.
"""

from __future__ import annotations

import math
from typing import Any

from cnncc.ir.layout import PLAIN, Layout, channels
from cnncc.targets.algorithm import Layouts
from cnncc.targets.cpu import common, direct, pooled, tiling
from cnncc.targets.cpu.tiled import Tiled
from cnncc.targets.cpu.tiling import ConvTile, Reduction, ceil_div
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target

ACCUMULATORS = 16  # reductions are short: one tile's stores should overlap the next one's sums


def applies(problem: ConvProblem, target: Target) -> str | None:
    """Why not, or None: float32, at most a block of input channels, no groups."""
    if problem.dtype != "f32":
        return f"the first-layer convolution is for f32, got {problem.dtype}"
    if problem.groups != 1 or problem.ic > target.block:
        return f"it is for at most {target.block} input channels in one group, got {problem.ic} in {problem.groups}"
    if min(problem.out) < 1:
        return f"it needs an output of at least one pixel, got {problem.out}"
    return tiling.unfit(problem, problem.ic)


def layouts(problem: ConvProblem, target: Target) -> Layouts:
    """NCHW, OIHW{b}o, NCHW{b}c."""
    return Layouts(PLAIN, Layout(((0, target.block),)), channels(target.block))


def _reduction(problem: ConvProblem, block: int) -> Reduction:
    return Reduction(
        inner=problem.ic,
        outer=math.prod(problem.kernel),
        depth=problem.ic,
        blocks=ceil_div(problem.oc, block),
        half=direct.half_idle(problem.oc, block),
        accumulators=ACCUMULATORS,
    )


def define(problem: ConvProblem, tile: ConvTile, x: Any, w: Any, finish: common.Finish) -> Any:
    """Stages "pad" (where the tile copies), "acc", "out"."""
    from tvm import te

    n, b = common.batch_of(problem, x), tile.block
    extents, place = pooled.pixels(problem, tile) if tile.rows else (problem.out, list)
    source = x
    if tile.copy:
        source = (
            pooled.padded(problem, tile, x, problem.ic, 0) if tile.rows else common.padded(problem, x, problem.ic, 0)
        )
    (c,), taps = common.reduce_axes("c", [problem.ic]), common.reduce_axes("k", problem.kernel)
    # LLVM unrolls short loops. Taps along a row, unrolled, share pixels, which then push accumulators out of registers.
    steps = [taps[-1], *taps[:-1], c]

    def product(n: Any, o: Any, *rest: Any) -> Any:
        pixel = source(n, c, *common.window(problem, place(rest[:-1]), taps))
        block, lane = common.in_block(tile, o, rest[-1])
        return te.sum(common.unless_idle(problem, tile, o, pixel * w(block, c, *taps, lane)), axis=steps)

    vectors = ceil_div(problem.oc, b) * (b // tile.width)
    acc = te.compute(common.shape(n, vectors, *extents, tile.width), product, name="acc")
    if tile.rows:
        return pooled.result(problem, tile, acc, finish)
    return common.finished(acc, b, finish)


TILED = Tiled(_reduction)
ALGORITHM = TILED.algorithm("first_layer", applies=applies, layouts=layouts, define=define, pooled=TILED.pooled)
