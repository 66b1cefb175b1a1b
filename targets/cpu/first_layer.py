"""Convolution of few input channels: reads plain NCHW, writes blocked channels.

out[n, o, y, b] = sum_{c, k} x[n, c, y*s + k*d] * w[o, c, k, b]. Blocks of input channels would be mostly padding (3 of
16), so the reduction runs over channels and taps of the image as it comes, padded into scratch once per task.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from cnncc.ir.layout import PLAIN, Layout, channels
from cnncc.targets.algorithm import Algorithm, Cost, Layouts
from cnncc.targets.cpu import common, pooled, tiling
from cnncc.targets.cpu.tiling import ConvTile, Reduction, ceil_div, covered
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
    window = 4 * problem.ic * math.prod(covered(problem, (1,) * problem.rank))
    if window > tiling.SCRATCH:
        return f"the input of a pixel must fit {tiling.SCRATCH} bytes of scratch, got {window}"
    return None


def layouts(problem: ConvProblem, target: Target) -> Layouts:
    """NCHW, OIHW{b}o, NCHW{b}c."""
    return Layouts(PLAIN, Layout(((0, target.block),)), channels(target.block))


def tiles_for(problem: ConvProblem, target: Target) -> ConvTile:
    """The tile with the least modelled time."""
    if problem.behind is not None:
        return pooled.choose(problem, target, _reduction(problem, target.block))
    return tiling.choose(problem, target, _reduction(problem, target.block))


def candidates(problem: ConvProblem, target: Target) -> Iterator[ConvTile]:
    """Tiles worth measuring."""
    if problem.behind is not None:
        return pooled.candidates(problem, target, _reduction(problem, target.block))
    return tiling.candidates(problem, target, _reduction(problem, target.block))


def cost(problem: ConvProblem, target: Target, tile: ConvTile) -> Cost:
    """Time by the tile model."""
    if tile.rows:
        return pooled.cost(problem, target, _reduction(problem, tile.block), tile)
    return tiling.conv_cost(problem, target, _reduction(problem, tile.block), tile)


def scratch(problem: ConvProblem, target: Target, tile: ConvTile) -> int:
    """Bytes of the padded copy of a task's input, and of the rows that a pool behind is made from."""
    copied = tiling.copied(problem, tile.group, problem.ic) if tile.copy else 0
    return copied + (pooled.kept(tile.group, tile.vectors, tile.block) if tile.rows else 0)


def _reduction(problem: ConvProblem, block: int) -> Reduction:
    return Reduction(
        inner=problem.ic,
        outer=math.prod(problem.kernel),
        depth=problem.ic,
        blocks=ceil_div(problem.oc, block),
        accumulators=ACCUMULATORS,
    )


def define(problem: ConvProblem, tile: ConvTile, x: Any, w: Any, finish: common.Finish) -> Any:
    """Stages "pad" (where the tile copies), "acc", "out"."""
    from tvm import te

    r, b = problem.rank, tile.block
    n = common.batch_of(problem, x)
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
        return te.sum(pixel * w(o, c, *taps, rest[-1]), axis=steps)

    acc = te.compute(common.shape(n, ceil_div(problem.oc, b), *extents, b), product, name="acc")
    if tile.rows:
        return pooled.result(problem, tile, acc, finish)
    return te.compute(
        acc.shape,
        lambda n, o, *rest: finish(acc(n, o, *rest), (n, o * common.i64(b) + rest[r], *rest[:r])),
        name="out",
    )


def schedule(sch: Any, problem: ConvProblem, tile: ConvTile, target: Target) -> None:
    """Tasks, register tiles, reduction; see `common.schedule_tile`, and `pooled` with a pool behind."""
    (pooled.schedule if tile.rows else common.schedule_tile)(sch, problem, tile)


ALGORITHM = Algorithm(
    name="first_layer",
    op="conv",
    applies=applies,
    layouts=layouts,
    tiles_for=tiles_for,
    cost=cost,
    define=define,
    schedule=schedule,
    scratch=scratch,
    candidates=candidates,
    pooled=lambda problem, target: pooled.applies(problem, target, _reduction(problem, target.block)),
)
