"""Grouped convolution whose groups are narrower than a block, or end within one: vectors narrower than a block.

out[n, u, y, l] = sum_{c, k} x[n, group of u, c, y*s + k*d] * w[u, c, k, l], for the largest vectors u that divide both
a group's output channels and the block. All lanes of a vector are of one group, so it is the direct convolution's loop:
pixels in registers, a broadcast of an input channel for each; no product is with a zero, and nothing is spread. Half
vectors multiply as fast as whole ones where the units are narrower than the registers (Zen 4's are of 256 bits).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from cnncc.ir.layout import Layout, channels
from cnncc.targets.algorithm import Layouts
from cnncc.targets.cpu import common, tiling
from cnncc.targets.cpu.tiled import Tiled
from cnncc.targets.cpu.tiling import ConvTile, Reduction, ceil_div
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target

LEAST = 4  # lanes: narrower vectors are slower than the algorithm `lanes`


def applies(problem: ConvProblem, target: Target) -> str | None:
    """Why not, or None: float32, several groups of vectors, not all of whole blocks."""
    b = target.block
    if problem.dtype != "f32":
        return f"it is for f32, got {problem.dtype}"
    if min(problem.out) < 1:
        return f"it needs an output of at least one pixel, got {problem.out}"
    if problem.groups == 1:
        return "it is for several groups, got 1"
    if not problem.ic // problem.groups % b and not problem.oc // problem.groups % b:
        return "groups of whole blocks are the direct convolution's"
    if vector(problem, b) < LEAST:
        return f"output channels of a group must be a multiple of {LEAST}, got {problem.oc // problem.groups}"
    return tiling.unfit(problem, _depth(problem, b))


def vector(problem: ConvProblem, block: int) -> int:
    """Output channels of a vector: as many as divide a group and a block."""
    return math.gcd(problem.oc // problem.groups, block)


def piece(problem: ConvProblem, block: int) -> int:
    """Input channels that lie side by side: as many as divide a group and a block."""
    return math.gcd(problem.ic // problem.groups, block)


def layouts(problem: ConvProblem, target: Target) -> Layouts:
    """NCHW{b}c, OIHW{piece}i{b}o, NCHW{b}c."""
    b, inner = target.block, piece(problem, target.block)
    weights = Layout(((1, inner), (0, b)) if inner > 1 else ((0, b),))
    return Layouts(channels(b), weights, channels(b))


def _vectors(problem: ConvProblem, block: int) -> int:
    """Vectors of all output channels, padding too."""
    return ceil_div(problem.oc, block) * block // vector(problem, block)


def _bundle(problem: ConvProblem, block: int) -> int:
    """Vectors of a task: of whole groups, and whole blocks in and out; all where those do not divide the channels."""
    narrow, width = problem.ic // problem.groups, problem.oc // problem.groups
    groups = math.lcm(block // math.gcd(narrow, block), block // math.gcd(width, block))
    every, least = _vectors(problem, block), groups * width // vector(problem, block)
    return every if every % least else least


def _depth(problem: ConvProblem, block: int) -> int:
    """Input channels of a task, in whole blocks."""
    width = problem.oc // problem.groups
    groups = min(problem.groups, _bundle(problem, block) * vector(problem, block) // width)
    return ceil_div(groups * problem.ic // problem.groups, block) * block


def _bundled(problem: ConvProblem, block: int) -> ConvProblem:
    """The convolution as its tasks see it: the channels of a task are a group."""
    tasks = _vectors(problem, block) // _bundle(problem, block)
    return replace(problem, groups=tasks, ic=tasks * _depth(problem, block))


def _reduction(problem: ConvProblem, block: int) -> Reduction:
    narrow, lanes, inner = problem.ic // problem.groups, vector(problem, block), piece(problem, block)
    return Reduction(
        inner=inner,
        outer=narrow // inner * math.prod(problem.kernel),
        depth=_depth(problem, block),
        blocks=_bundle(problem, block),
        lanes=lanes,
        together=problem.oc // problem.groups // lanes,
        undivided=True,  # the input channels of a part of a bundle are no range that TVM could bound
    )


def define(problem: ConvProblem, tile: ConvTile, x: Any, w: Any, finish: common.Finish) -> Any:
    """Stages "pad" (where the tile copies), "acc", "out"."""
    from tvm import te, tirx

    r, b = problem.rank, tile.block
    i64, shape = common.i64, common.shape
    n, lanes, inner = common.batch_of(problem, x), vector(problem, b), piece(problem, b)
    narrow, width = problem.ic // problem.groups, problem.oc // problem.groups
    vectors, blocks = _vectors(problem, b), ceil_div(problem.ic, b)
    reached = ceil_div(vectors * lanes, width) * narrow  # input channels, those of padded outputs too
    source = common.padded(problem, x, blocks, b) if tile.copy else x

    def pixel(n: Any, c: Any, *rest: Any) -> Any:
        """A channel of a piece of the input; padded outputs read the last piece."""
        c = tirx.min(c, i64(blocks * (b // inner) - 1)) if reached > blocks * b else c
        return source(n, c // i64(b // inner), *rest[:r], c % i64(b // inner) * i64(inner) + rest[r])

    outer, lane = common.reduce_axes("c", [narrow // inner, inner])
    taps = common.reduce_axes("k", problem.kernel)

    def total(n: Any, u: Any, *rest: Any) -> Any:
        first = u // i64(width // lanes) * i64(narrow // inner)
        read = pixel(n, first + outer, *common.window(problem, rest[:r], taps), lane)
        place = (*((lane,) if inner > 1 else ()), u % i64(b // lanes) * i64(lanes) + rest[r])
        return te.sum(read * w(u // i64(b // lanes), outer, *taps, *place), axis=[outer, *taps, lane])

    acc = te.compute(shape(n, vectors, *problem.out, lanes), total, name="acc")

    def result(n: Any, o: Any, *rest: Any) -> Any:
        value = acc(n, o * i64(b // lanes) + rest[r] // i64(lanes), *rest[:r], rest[r] % i64(lanes))
        return finish(value, (n, o * i64(b) + rest[r], *rest[:r]))

    return te.compute(shape(n, ceil_div(problem.oc, b), *problem.out, b), result, name="out")


def schedule(sch: Any, problem: ConvProblem, tile: ConvTile, target: Target) -> None:
    """`common.schedule_tile`, over vectors in place of blocks."""
    lanes = vector(problem, tile.block)
    many = tile.block // lanes
    if many > 1:
        from tvm.tirx import IndexMap

        def by_vector(n: Any, o: Any, *rest: Any) -> list[Any]:
            return [n, o * many + rest[-1] // lanes, *rest[:-1], rest[-1] % lanes]

        sch.transform_block_layout("out", IndexMap.from_func(by_vector, problem.rank + 3, index_dtype="int64"))
    common.schedule_tile(sch, problem, tile)


ALGORITHM = Tiled(_reduction, _bundled).algorithm(
    "narrow", applies=applies, layouts=layouts, define=define, schedule=schedule
)
