"""A 1x1 convolution together with what stands before it: a depthwise convolution, or elementwise operations.

A task computes all channels of a group of pixels into scratch, which stays in the first or second-level cache, and
multiplies that with the weights, as in the pointwise convolution. So the tensor between both is never in memory, and
the threads meet once less. A task makes all output channels: nothing before the convolution is computed twice.

The depthwise convolution is one expression over its taps (see depthwise.py). Groups are whole rows then, and the rows
and columns whose windows leave the image have code of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any

from cnncc.targets.algorithm import Algorithm, Cost, Layouts
from cnncc.targets.cpu import common, depthwise, direct, pointwise, tiling
from cnncc.targets.cpu.depthwise_tiles import cuts, peeled, slots
from cnncc.targets.cpu.tiling import ConvTile, Filling, Reduction, ceil_div
from cnncc.targets.cpu.variety import tiles_or_error
from cnncc.targets.problem import FUSED, ConvProblem, FusedProblem
from cnncc.targets.target import Target

PER_ELEMENT = 7.0  # multiply-adds that one vector of an elementwise result takes the time of, its scratch beyond L1
EXPOSED = 0.3  # of the time to read what is computed from


@dataclass(frozen=True)
class FusedTile(ConvTile):
    """The tile of the 1x1 convolution over flat pixels. `columns`, `lanes`: pixels of a row, and channels, that the
    depthwise convolution computes at a time, 0 without one."""

    columns: int = 0
    lanes: int = 0


def applies(p: FusedProblem, target: Target) -> str | None:
    """Why not, or None."""
    if p.conv.groups != 1 or p.conv.rank != 2:
        return f"it is for images and one group, got {p.conv}"
    reason = pointwise.applies(p.conv, target)
    if reason is None and p.before is not None:
        reason = depthwise.applies(p.before, target)
        if reason is None and peeled(p.before, target) is None:
            reason = f"the depthwise convolution is too large to be one expression, got {p.before}"
    if reason is None and _tile(p, target) is None:
        reason = f"no group of pixels fits {tiling.SCRATCH} bytes of scratch, got {p.conv.ic} channels"
    return reason


def layouts(p: FusedProblem, target: Target) -> Layouts:
    """Those of the pointwise convolution; `x` is that of its computed operand, and of what this is computed from."""
    return pointwise.ALGORITHM.layouts(p.conv, target)


def _tile(p: FusedProblem, target: Target) -> FusedTile | None:
    flat = pointwise.flat(p.conv)
    reduction = _reduction(p, target)
    if not tiling.fits(flat, target, reduction):
        return None
    found = tiling.choose(flat, target, reduction)
    before = None if p.before is None else peeled(p.before, target)
    own = {f.name: getattr(found, f.name) for f in fields(ConvTile)}
    return FusedTile(**own) if before is None else FusedTile(**own, columns=before.pixels, lanes=before.lanes)


def cost(p: FusedProblem, target: Target, tile: FusedTile) -> Cost:
    """Time by the tile model: the register tiles and the computed pixels before them, and what these are read from,
    which products hide in part only."""
    reduction = _reduction(p, target)
    found = tiling.conv_cost(pointwise.flat(p.conv), target, reduction, tile)
    read = tiling.memory_seconds(target, reduction.filling.source) if reduction.filling is not None else 0.0
    return replace(found, seconds=found.seconds + EXPOSED * read, flops=2.0 * p.macs)


def scratch(p: FusedProblem, target: Target, tile: FusedTile) -> int:
    """Bytes of the computed pixels of a task."""
    return 4 * ceil_div(p.conv.ic, tile.block) * tile.block * prod(tile.group)


def _reduction(p: FusedProblem, target: Target) -> Reduction:
    own = direct.reduction(pointwise.flat(p.conv), target.block)
    if p.before is None:
        filling = Filling(PER_ELEMENT, 1, 4.0 * p.conv.batch * p.conv.ic * prod(p.conv.size))
    else:
        tile, per_vector = peeled(p.before, target), 0.0
        if tile is not None:
            slower = target.rate(target.lanes()) / target.rate(tile.lanes)
            per_vector = slots(p.before, target, tile) / prod(p.before.out) * slower
        filling = Filling(per_vector, p.conv.size[-1], 4.0 * p.before.batch * p.before.ic * prod(p.before.size))
    return replace(own, undivided=True, filling=filling)


def define(p: FusedProblem, tile: FusedTile, x: Any, w: Any, finish: common.Finish) -> Any:
    """Stages "fill", "acc", "out"."""
    from tvm import te

    n, b, width = common.batch_of(p.conv, x), tile.block, common.i64(p.conv.size[-1])
    fill = te.compute(
        common.shape(n, ceil_div(p.conv.ic, b), prod(p.conv.size), b),
        lambda n, c, q, a: x(n, c, q // width, q % width, a),
        name="fill",
    )
    return pointwise.product(p.conv, tile, n, fill, w, finish)


def window_sum(p: ConvProblem, x: Callable[..., Any], w: Callable[..., Any], index: Sequence[Any]) -> Any:
    """A result of a depthwise convolution, as one expression over its taps; `x`, `w` and `index` are logical."""
    from tvm import tirx

    n, channel, *at = index
    zero = common.i64(0)
    total = None
    for taps in depthwise.grid(p.kernel):
        places = [i - common.i64(q) for i, q in zip(common.window(p, at, taps), p.pads, strict=False)]
        conditions = []
        for axis, place in enumerate(places):
            first = taps[axis] * p.dilations[axis] - p.pads[axis]
            conditions += [place >= zero] if first < 0 else []
            last = (p.out[axis] - 1) * p.strides[axis] + first
            conditions += [place < common.i64(p.size[axis])] if last >= p.size[axis] else []
        value = x(n, channel, *places)
        if conditions:
            value = tirx.if_then_else(tirx.all(*conditions), value, tirx.const(0.0, "float32"))
        term = value * w(channel, zero, *map(common.i64, taps))
        total = term if total is None else total + term
    return total


def schedule(sch: Any, p: FusedProblem, tile: FusedTile, target: Target) -> None:
    """The pointwise convolution's, and "fill" inside of its tasks."""
    pointwise.schedule(sch, p.conv, tile, target)
    fill = sch.get_sblock("fill")
    *_, pixels, lanes = sch.get_loops(fill)
    if p.before is None:
        sch.vectorize(lanes)
        return
    width = p.conv.size[-1]
    rows, columns = sch.split(pixels, [tile.group[0] // width, width])
    column, inner = sch.split(columns, [None, tile.columns])
    lane_out, lane = sch.split(lanes, [None, tile.lanes])
    sch.reorder(rows, lane_out, column, inner, lane)
    sch.vectorize(lane)
    sch.unroll(inner)
    (top, middle, bottom), cut_columns = cuts(p.before, tile.columns)
    count = tile.group[0] // width
    # The rows at the borders of the image get code of their own. Where no row is clear of both, or a border reaches
    # from one task into the next, TVM's partition of the loop is wrong, now and then (it depends on addresses).
    if count > 1 and middle and count >= max(top, bottom):
        sch.annotate(rows, "pragma_loop_partition_hint", 1)
    depthwise.peel_columns(sch, column, cut_columns)


tiles_for = tiles_or_error(FUSED, _tile, applies)
ALGORITHM = Algorithm(
    name=FUSED,
    op=FUSED,
    applies=applies,
    layouts=layouts,
    tiles_for=tiles_for,
    cost=cost,
    define=define,
    schedule=schedule,
    scratch=scratch,
    prologue=True,
)
