"""Grouped convolution whose groups are not whole blocks of channels.

A block of output channels may belong to several groups. It sums over the input channels of each of them, with weights
that are zero for the output channels of the others: they are spread out so in scratch, once per block.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from cnncc.targets.cpu import common, direct
from cnncc.targets.cpu.tiled import Tiled
from cnncc.targets.cpu.tiling import ConvTile, Reduction, ceil_div
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target

SPREAD = 256 << 10  # bytes of spread weights that a thread may hold


def applies(problem: ConvProblem, target: Target) -> str | None:
    """Why not, or None: several groups, not all of whole blocks, and what direct asks for."""
    b = target.block
    if problem.groups == 1:
        return "it is for several groups, got 1"
    if not problem.ic // problem.groups % b and not problem.oc // problem.groups % b:
        return "groups of whole blocks are the direct convolution's"
    if problem.ic == problem.groups and problem.oc == problem.groups:
        return "a group for every channel is the depthwise convolution's"
    reason = direct.applies(_joined(problem), target)
    if reason is not None:
        return reason
    if _spread(problem, b) > SPREAD:
        return f"weights of a block, spread over its groups, must fit {SPREAD} bytes, got {_spread(problem, b)}"
    return None


def touched(problem: ConvProblem, block: int) -> list[int]:
    """The groups that each block of output channels touches."""
    width, last = problem.oc // problem.groups, problem.oc - 1
    return [min(first + block - 1, last) // width - first // width + 1 for first in range(0, problem.oc, block)]


def _joined(problem: ConvProblem) -> ConvProblem:
    """The convolution of all channels with all."""
    return replace(problem, groups=1)


def _spread(problem: ConvProblem, block: int) -> int:
    """Bytes of the spread weights of a block."""
    return 4 * block * max(touched(problem, block)) * (problem.ic // problem.groups) * math.prod(problem.kernel)


def _reduction(problem: ConvProblem, block: int) -> Reduction:
    groups = touched(problem, block)
    return Reduction(
        inner=ceil_div(sum(groups) * (problem.ic // problem.groups), len(groups)),
        outer=math.prod(problem.kernel),
        depth=ceil_div(problem.ic, block) * block,
        blocks=len(groups),
        widest=1,  # blocks touch different groups
        undivided=True,  # the input channels of some blocks are no range that TVM could bound
    )


def define(problem: ConvProblem, tile: ConvTile, x: Any, w: Any, finish: common.Finish) -> Any:
    """Stages "pad" (where the tile copies), "spread", "acc", "out"."""
    from tvm import te, tirx

    r, b = problem.rank, tile.block
    i64, shape = common.i64, common.shape
    n = common.batch_of(problem, x)
    ic, oc = ceil_div(problem.ic, b), ceil_div(problem.oc, b)
    per_group, width = problem.ic // problem.groups, problem.oc // problem.groups
    source = common.padded(problem, x, ic, b) if tile.copy else x
    zero = tirx.const(0.0, "float32")

    def group(channel: Any) -> Any:
        return tirx.min(channel, i64(problem.oc - 1)) // i64(width)

    def weight(o: Any, g: Any, c: Any, *rest: Any) -> Any:
        channel = o * i64(b) + rest[r]
        same = tirx.all((group(o * i64(b)) + g).equal(channel // i64(width)), channel < i64(problem.oc))
        return tirx.if_then_else(same, w(o, c, *rest), zero)

    most = max(touched(problem, b))
    spread = te.compute(shape(oc, most, per_group, *problem.kernel, b), weight, name="spread")
    (g,), (c,) = common.reduce_axes("g", [most]), common.reduce_axes("c", [per_group])
    taps = common.reduce_axes("k", problem.kernel)

    def total(n: Any, o: Any, *rest: Any) -> Any:
        among = group(o * i64(b)) + g
        channel = tirx.min(among * i64(per_group) + c, i64(problem.ic - 1))
        pixel = source(n, channel // i64(b), *common.window(problem, rest[:r], taps), channel % i64(b))
        term = pixel * spread(o, g, c, *taps, rest[r])
        return te.sum(tirx.if_then_else(among <= group(o * i64(b) + i64(b - 1)), term, zero), axis=[g, *taps, c])

    acc = te.compute(shape(n, oc, *problem.out, b), total, name="acc")
    return common.finished(acc, b, finish)


TILED = Tiled(_reduction, lambda problem, block: _joined(problem))


def scratch(problem: ConvProblem, target: Target, tile: ConvTile) -> int:
    """Bytes of a task's padded input and of the spread weights of a register tile."""
    return TILED.scratch(problem, target, tile) + tile.vectors * _spread(problem, tile.block)


ALGORITHM = TILED.algorithm("grouped", applies=applies, layouts=common.by_output, define=define, scratch=scratch)
