"""Direct convolution on blocked channels: out[n, o, y, b] = sum_{c, k, a} x[n, c, y*s + k*d, a] * w[o, c, k, a, b].

A tile of accumulators (a few output pixels times a few vectors of output channels) stays in registers for the whole
reduction; each step loads the vectors of weights and broadcasts one input channel of each pixel. Borders are padded
once per task, into scratch, so that the innermost loop has no conditions; the last tile of a row may be narrower, and
has code of its own. 1x1 convolutions are this loop without taps.

NeoCPU (Liu et al., ATC 2019) describes the layout; Georganas et al., SC 2018, the register blocking.
"""

from __future__ import annotations

import math
from typing import Any

from cnncc.ir.layout import Layout, channels
from cnncc.targets.algorithm import Layouts
from cnncc.targets.cpu import common, tiling
from cnncc.targets.cpu.tiled import Tiled
from cnncc.targets.cpu.tiling import ConvTile, Reduction, ceil_div
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target


def applies(problem: ConvProblem, target: Target) -> str | None:
    """Why not, or None: float32, groups of whole blocks, and a pixel's window that fits the scratch."""
    b = target.block
    ic, oc = problem.ic // problem.groups, problem.oc // problem.groups
    if problem.dtype != "f32":
        return f"direct convolution is for f32, got {problem.dtype}"
    if min(problem.out) < 1:
        return f"direct convolution needs an output of at least one pixel, got {problem.out}"
    if problem.groups > 1 and (ic % b or oc % b):
        return f"channels of a group must be multiples of the block {b}, got {ic} in and {oc} out"
    return tiling.unfit(problem, _depth(problem, b))


def layouts(problem: ConvProblem, target: Target) -> Layouts:
    """NCHW{b}c, OIHW{b}i{b}o, NCHW{b}c."""
    b = target.block
    return Layouts(channels(b), Layout(((1, b), (0, b))), channels(b))


def _depth(problem: ConvProblem, block: int) -> int:
    """Channels of a group's input, in whole blocks."""
    return ceil_div(problem.ic // problem.groups, block) * block


def _ragged(problem: ConvProblem, block: int) -> bool:
    """Whether the last block of input channels is partly padding, which the reduction then leaves out."""
    return problem.groups == 1 and problem.ic % block != 0


def reduction(problem: ConvProblem, block: int) -> Reduction:
    """What the tile search knows of the loops."""
    depth = _depth(problem, block)
    taps = math.prod(problem.kernel)
    ragged = _ragged(problem, block)
    return Reduction(
        inner=problem.ic if ragged else block,
        outer=taps if ragged else depth // block * taps,
        depth=depth,
        blocks=ceil_div(problem.oc // problem.groups, block),
        half=problem.groups == 1 and half_idle(problem.oc, block),
    )


def half_idle(oc: int, block: int) -> bool:
    """Whether half of the last block of output channels, or more, is padding."""
    return 0 < oc % block <= block // 2


def define(problem: ConvProblem, tile: ConvTile, x: Any, w: Any, finish: common.Finish) -> Any:
    """Stages "pad" (where the tile copies), "acc", "out"."""
    n, b = common.batch_of(problem, x), tile.block
    source = common.padded(problem, x, ceil_div(problem.ic, b), b) if tile.copy else x
    return common.finished(accumulate(problem, tile, n, source, w), b, finish)


def accumulate(problem: ConvProblem, tile: ConvTile, n: Any, source: Any, w: Any) -> Any:
    """The stage "acc": the sums, over the padded input and the weights at physical indices."""
    from tvm import te

    r, b = problem.rank, tile.block
    i64 = common.i64
    per_group_in, per_group_out = ceil_div(problem.ic // problem.groups, b), ceil_div(problem.oc // problem.groups, b)
    taps = common.reduce_axes("k", problem.kernel)
    if _ragged(problem, b):
        (c,) = common.reduce_axes("c", [problem.ic])
        steps, outer, lane_in = [*taps, c], c // i64(b), c % i64(b)
    else:
        outer, lane_in = common.reduce_axes("c", [per_group_in, b])
        steps = [outer, *taps, lane_in]

    def product(n: Any, o: Any, *rest: Any) -> Any:
        at, lane = rest[:r], rest[r]
        first = o // i64(per_group_out) * i64(per_group_in) if problem.groups > 1 else i64(0)
        pixel = source(n, first + outer, *common.window(problem, at, taps), lane_in)
        block, place = common.in_block(tile, o, lane)
        return te.sum(common.unless_idle(problem, tile, o, pixel * w(block, outer, *taps, lane_in, place)), axis=steps)

    vectors = problem.groups * per_group_out * (b // tile.width)
    return te.compute(common.shape(n, vectors, *problem.out, tile.width), product, name="acc")


TILED = Tiled(reduction)
ALGORITHM = TILED.algorithm("direct", applies=applies, layouts=layouts, define=define)
