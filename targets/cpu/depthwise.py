"""Depthwise convolution (groups == channels) on blocked channels.

    out[n, c, y, b] = sum_k x[n, c, y*s + k*d, b] * w[c, k, b]

One multiplication per load, so the point is to read each input once and to have no conditions at the pixels:

peel    The loops over rows and columns are cut where windows begin to overhang the input. The outer pieces are
        unrolled, so that their conditions become constants; the middle has none. The taps are one expression.
pad     A task copies its input into scratch with the padding around it; the taps are loops. For large kernels, three
        spatial axes, operands that are computed on the fly (each is then computed once, not once per tap), and
        where the peeled form's registers leave no room for the epilogue (5x5 with SiLU: 1.3 to 1.7 times as fast).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cnncc.targets.algorithm import Algorithm
from cnncc.targets.cpu import common
from cnncc.targets.cpu.depthwise_tiles import DepthwiseTile, best_tile, candidates, cost, crowded, cuts, scratch
from cnncc.targets.cpu.variety import tiles_or_error
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target

COSTLY = 10  # operations of an epilogue (sigmoid has 20) for which there should be registers


def applies(p: ConvProblem, target: Target) -> str | None:
    """Why not, or None."""
    if target.kind != "cpu":
        return f"it is for CPUs, and {target.name} is of kind {target.kind}"
    if p.groups == 1 or p.groups != p.ic:
        return f"every channel must be a group of its own, got {p.ic} channels in {p.groups} groups"
    if p.oc != p.ic:
        return f"every channel must make one output, got {p.oc} outputs of {p.ic} channels"
    if p.dtype != "f32":
        return f"it is for f32, got {p.dtype}"
    if min(p.out) < 1:
        return f"the output must have at least one pixel, got {p.out}"
    if best_tile(p, target) is None:
        return f"the window of a few pixels must fit the stack, got kernel {p.kernel} with dilation {p.dilations}"
    return None


def define(p: ConvProblem, tile: DepthwiseTile, x: Any, w: Any, finish: common.Finish) -> Any:
    """Stages "out" alone (peel), or "pad", "acc" and "out"."""
    from tvm import te, tirx

    r, b = p.rank, tile.block
    n, blocks = common.batch_of(p, x), -(-p.ic // b)
    peel = tile.peel and isinstance(x, te.Tensor) and not (crowded(p, tile) and common.operations(p, finish) > COSTLY)
    extent = [(o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(p.out, p.strides, p.dilations, p.kernel, strict=True)]

    def padded(n: Any, c: Any, *rest: Any) -> Any:
        at, lane = rest[:r], rest[r]
        conditions = common.inside(at, p.size, extent, p.pads[:r])
        value = x(n, c, *(i - q for i, q in zip(at, p.pads[:r], strict=True)), lane)
        return tirx.if_then_else(tirx.all(*conditions), value, tirx.const(0, "float32")) if conditions else value

    def window_sum(n: Any, c: Any, *rest: Any) -> Any:
        total = None
        for taps in grid(p.kernel):
            at = common.window(p, rest[:r], taps)
            term = padded(n, c, *at, rest[r]) * w(c, common.i64(0), *map(common.i64, taps), rest[r])
            total = term if total is None else total + term
        return total

    if peel:
        acc: Any = window_sum
    else:
        pad = te.compute(common.shape(n, blocks, *extent, b), padded, name="pad")
        taps = common.reduce_axes("k", p.kernel)
        acc = te.compute(
            common.shape(n, blocks, *p.out, b),
            lambda n, c, *rest: te.sum(
                pad(n, c, *common.window(p, rest[:r], taps), rest[r]) * w(c, common.i64(0), *taps, rest[r]), axis=taps
            ),
            name="acc",
        )
    return te.compute(
        common.shape(n, blocks, *p.out, b),
        lambda n, c, *rest: finish(acc(n, c, *rest), (n, c * b + rest[r], *rest[:r])),
        name="out",
    )


def schedule(sch: Any, p: ConvProblem, tile: DepthwiseTile, target: Target) -> None:
    """Tasks over batch and channel blocks (and over rows, where those are too few)."""
    if common.has_block(sch, "acc"):
        _schedule_pad(sch, p, tile, target)
    else:
        _schedule_peel(sch, p, tile, target)


def _schedule_peel(sch: Any, p: ConvProblem, tile: DepthwiseTile, target: Target) -> None:
    n, c, *spatial, lanes = sch.get_loops(sch.get_sblock("out"))
    lane_out, lane = sch.split(lanes, [None, tile.lanes])
    x_out, x = sch.split(spatial[-1], [None, tile.pixels])
    sch.reorder(n, c, *spatial[:-1], lane_out, x_out, x, lane)
    sch.vectorize(lane)
    sch.unroll(x)
    parallel = target.threads > 1
    rows, columns = cuts(p, tile.pixels)
    if not spatial[:-1]:
        task = sch.fuse(n, c)
        peel_columns(sch, x_out, columns)
        if parallel:
            sch.parallel(task)
        return
    (y,) = spatial[:-1]
    if tile.split_rows:
        sch.reorder(y, n, c)
    else:
        task = sch.fuse(n, c)
        if parallel:
            sch.parallel(task)
    for piece, middle in _cut(sch, y, rows):
        loops = sch.get_loops(sch.get_child_blocks(piece)[0])
        peel_columns(sch, loops[-3], columns)
        if not middle:
            sch.unroll(piece)
        elif tile.split_rows and parallel:
            sch.parallel(piece)


def peel_columns(sch: Any, loop: Any, columns: tuple[int, int, int]) -> None:
    """Cut a loop over tiles of a row: the outer pieces are unrolled (see `cuts`)."""
    for piece, middle in _cut(sch, loop, columns):
        if not middle:
            sch.unroll(piece)


def _cut(sch: Any, loop: Any, parts: tuple[int, int, int]) -> list[tuple[Any, bool]]:
    """The pieces of a loop, begin, middle, end, as far as they are not empty, and whether each is the middle."""
    kinds = [k for k in range(3) if parts[k]]
    if len(kinds) == 1:
        return [(loop, kinds[0] == 1)]
    pieces = sch.loop_partition(loop, [parts[k] for k in kinds[:-1]] + [None])
    return [(piece, kind == 1) for piece, kind in zip(pieces, kinds, strict=True)]


def _schedule_pad(sch: Any, p: ConvProblem, tile: DepthwiseTile, target: Target) -> None:
    r = p.rank
    pad, acc, out = (sch.get_sblock(name) for name in ("pad", "acc", "out"))
    n, c, *spatial, lanes = sch.get_loops(out)
    lane_out, lane = sch.split(lanes, [None, min(tile.block, target.lanes())])
    splits = [sch.split(axis, [None, chunk]) for axis, chunk in zip(spatial, tile.chunk, strict=True)]
    tasks, inner = [s[0] for s in splits], [s[1] for s in splits]
    x_out, x = sch.split(inner[-1], [None, tile.pixels])
    sch.reorder(n, c, *tasks, lane_out, *inner[:-1], x_out, x, lane)
    task = sch.fuse(n, c, *tasks)
    sch.compute_at(acc, x_out, preserve_unit_loops=True)
    sch.set_scope(acc, 0, "local")
    sch.compute_at(pad, task, preserve_unit_loops=True)
    sch.set_scope(pad, 0, "local")
    if target.threads > 1:
        sch.parallel(task)
    sch.vectorize(lane)
    sch.unroll(x)
    sch.vectorize(sch.get_loops(pad)[-1])
    *_, pixels, acc_lanes = sch.get_loops(acc)[:-r]
    taps = sch.get_loops(acc)[-r:]
    sch.reorder(*taps, pixels, acc_lanes)
    if p.kernel[-1] <= 8:
        sch.unroll(taps[-1])
    sch.unroll(pixels)
    sch.vectorize(acc_lanes)
    init = sch.decompose_reduction(acc, taps[0])
    sch.unroll(sch.get_loops(init)[-2])
    sch.vectorize(sch.get_loops(init)[-1])


def grid(extents: Sequence[int]) -> list[tuple[int, ...]]:
    """The places in a box, in order."""
    points: list[tuple[int, ...]] = [()]
    for extent in extents:
        points = [(*point, k) for point in points for k in range(extent)]
    return points


DEPTHWISE = Algorithm(
    name="depthwise",
    op="conv",
    applies=applies,
    layouts=common.by_output,
    tiles_for=tiles_or_error("depthwise", best_tile, applies),
    cost=cost,
    define=define,
    schedule=schedule,
    scratch=scratch,
    candidates=candidates,
)
