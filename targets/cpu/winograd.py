"""Winograd's convolution on a CPU: 2, 3, 5 or 7 taps along one or both of the last two axes, stride 1, any size, pads.

One axis is two, of which the first is not transformed. Three axes are two: an output plane is a sum over taps in depth
and channels, so the transforms run over the planes it needs as if those were more channels.

For a block of tiles: pad, transform the input (channels in the vector), alpha * alpha small matrix products with the
weights that were transformed at compile time, transform back, finish. The block stays in the second-level cache, and
nothing but the result is written to memory. The tile index has two dimensions with ceiling counts; the result is the
root of the schedule, so that sizes which tiles do not divide need predicates in its last loops only.

Products are summed in two levels, which makes the errors a fraction: they follow the largest sum, and where signs make
the products of a transform add up and cancel in the result, that grows with the channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any

from cnncc.ir.layout import Layout, channels
from cnncc.ops.winograd import WinogradAttrs
from cnncc.ops.winograd_matrices import TAPS, Matrix, alignment, axes, combine, matrices, points, side
from cnncc.targets.algorithm import Algorithm, Layouts
from cnncc.targets.cpu.common import pick, shape
from cnncc.targets.cpu.variety import tiles_or_error
from cnncc.targets.cpu.winograd_fresh import scaled, schedule_product, transformed, weights_layout
from cnncc.targets.cpu.winograd_tiles import (
    STACK,
    Axis,
    WinogradTile,
    best_tile,
    candidates,
    channel_blocks,
    cost,
    growth,
    scratch,
    tile_axes,
)
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target

# Errors over those that grow as the model says: above what signs in the worst pattern showed, on magnitudes that vary
# by a third, for all tiles and 16 to 2,048 channels (0.5 to 0.9).
ROUNDING = 0.95
WORST = 3e-4  # what accuracy="fast" accepts


def define(p: ConvProblem, tile: WinogradTile, x: Any, w: Any, finish: Callable[[Any, tuple[Any, ...]], Any]) -> Any:
    """The stages: pad, rows, columns, partial, product, back_columns, back_rows, out; without rows and back_columns
    where one axis is transformed, without partial where all channels are summed at once."""
    from tvm import te, tirx

    from cnncc.targets.cpu.pool import maximum

    def i64(v: int) -> Any:
        return tirx.const(v, "int64")

    b, (vertical, horizontal) = tile.block, tile_axes(p, tile.m)
    my, mx = vertical.m, horizontal.m
    n = i64(p.n) if isinstance(p.n, int) else x.shape[0]
    r, last = p.rank, axes(p.rank)
    taps, flat = p.kernel[:-last], p.rank == 1
    outer = (n, *p.out[:-last])  # images, and planes in 3-D
    real, ib, ob = -(-p.ic // b), channel_blocks(p, b), -(-p.oc // b)
    ty, tx = _round_up(vertical.tiles, tile.th), _round_up(horizontal.tiles, tile.tw)
    zero = tirx.const(0, "float32")

    def padded(*i: Any) -> Any:
        n, *planes, c, y, x_, ci = i
        tap = [c // real] if taps else []
        place = [*(d * p.strides[0] + k * p.dilations[0] for d, k in zip(planes, tap, strict=True)), y, x_][-r:]
        inside = [
            bound for at, before, size in zip(place, p.pads[:r], p.size, strict=True)
            for bound in (at >= before, at < size + before)
        ]  # fmt: skip
        at = [at - before for at, before in zip(place, p.pads[:r], strict=True)]
        return tirx.if_then_else(tirx.all(*inside), x(n, c % real if taps else c, *at, ci), zero)

    height, width = vertical.inputs(ty), horizontal.inputs(tx)
    pad = te.compute(shape(*outer, ib, height, width, b), padded, name="pad")

    def down(*i: Any) -> Any:
        *o, c, t, x_, k, ci = i
        return pick(
            combine(forward(vertical, tile.fresh), [pad(*o, c, t * my + j, x_, ci) for j in range(vertical.alpha)]), k
        )

    rows = None
    if not (vertical.plain or horizontal.plain):
        rows = te.compute(shape(*outer, ib, ty, width, vertical.alpha, b), down, name="rows")

    def across(i: Any, j: Any, *rest: Any) -> Any:
        *o, c, t, u, ci = rest
        if horizontal.plain:
            return down(*o, c, t, u, i, ci)
        places = [u * mx + k for k in range(horizontal.alpha)]
        line = [pad(*o, c, t, k, ci) if rows is None else rows(*o, c, t, k, i, ci) for k in places]
        return pick(combine(forward(horizontal, tile.fresh), line), j)

    tiles = (vertical.alpha, horizontal.alpha, *outer)
    if tile.fresh:
        w = transformed(p, tile, vertical, horizontal, w)
    columns = te.compute(shape(*tiles, ib, ty, tx, b), across, name="columns")
    product = _product(p, tile, columns, w, shape(*tiles, ob, ty, tx, b))

    def up(*i: Any) -> Any:
        *o, y, k, ci = i
        return pick(combine(backward(vertical), [product(i64(a), k, *o, ci) for a in range(vertical.alpha)]), y)

    back_columns = None
    if not (vertical.plain or horizontal.plain):
        back_columns = te.compute(shape(*outer, ob, ty, tx, my, horizontal.alpha, b), up, name="back_columns")

    def along(*i: Any) -> Any:
        *o, y, x_, ci = i
        if horizontal.plain:
            return up(*o, y, x_, ci)
        places = [i64(k) for k in range(horizontal.alpha)]
        line = [product(y, k, *o, ci) if back_columns is None else back_columns(*o, y, k, ci) for k in places]
        return pick(combine(backward(horizontal), line), x_)

    back_rows = te.compute(shape(*outer, ob, ty, tx, my, mx, b), along, name="back_rows")

    def result(*i: Any) -> Any:
        n, c, *place, ci = i
        *planes, y, x_ = [i64(0), *place] if flat else place
        value = back_rows(n, *planes, c, y // my, x_ // mx, y % my, x_ % mx, ci)
        return finish(value, (n, c * b + ci, *place))

    def pooled(*i: Any) -> Any:
        n, c, *planes, y, x_, ci = i
        half = tile.m // 2
        at = [(y % half * 2 + k, x_ % half * 2 + j) for k in range(2) for j in range(2)]
        four = [back_rows(n, *planes, c, y // half, x_ // half, *inside, ci) for inside in at]
        value = reduce(lambda one, other: maximum(one, other, "f32"), four)
        return finish(value, (n, c * b + ci, *planes, y, x_))

    if p.behind is not None:
        return te.compute(shape(n, ob, *p.behind.out, b), pooled, name="out")
    return te.compute(shape(n, ob, *p.out, b), result, name="out")


def _product(p: ConvProblem, tile: WinogradTile, columns: Any, w: Any, extents: tuple[Any, ...]) -> Any:
    """The matrix products: sums over blocks of channels, in two levels where there are many."""
    from tvm import te, tirx

    def extent(n: int) -> tuple[Any, Any]:
        return tirx.const(0, "int64"), tirx.const(n, "int64")

    b, flat = tile.block, p.rank == 1
    real, blocks, chunk = -(-p.ic // b), channel_blocks(p, b), tile.part
    rc, ri = te.reduce_axis(extent(chunk), name="rc"), te.reduce_axis(extent(b), name="ri")

    def summed(first: Any, i: Any, j: Any, *rest: Any) -> Any:
        *o, c, t, u, ci = rest
        at = first + rc
        where = (at // real, at % real) if p.rank == 3 else (at,)
        weight = w(c, j, *where, ri, ci) if flat else w(c, i, j, *where, ri, ci)
        return te.sum(columns(i, j, *o, at, t, u, ri) * weight, axis=[rc, ri])

    if chunk == blocks:
        return te.compute(extents, lambda *i: summed(0, *i), name="product")
    rk = te.reduce_axis(extent(blocks // chunk), name="rk")
    partial = te.compute(shape(blocks // chunk, *extents), lambda k, *i: summed(k * chunk, *i), name="partial")
    return te.compute(extents, lambda *i: te.sum(partial(rk, *i), axis=[rk]), name="product")


def forward(axis: Axis, fresh: bool = False) -> Matrix:
    """B^T, of which weights that the kernel transforms leave the denominators."""
    return scaled(axis.m, axis.taps)[0] if fresh else matrices(axis.m, axis.taps)[1]


def backward(axis: Axis) -> Matrix:
    """A^T."""
    return matrices(axis.m, axis.taps)[0]


def schedule(sch: Any, p: ConvProblem, tile: WinogradTile, target: Target) -> None:
    """Tasks over (n, rows of tiles, columns of tiles, shares of output channels)."""
    vertical, horizontal = tile_axes(p, tile.m)
    both = not (vertical.plain or horizontal.plain)
    out = sch.get_sblock("out")
    if p.rank == 1:
        sch.add_unit_loop(sch.get_loops(out)[2])
    pooled = 1 if p.behind is None else 2  # results of the convolution along an axis, to one of the kernel
    n, c, *planes, y, x, ci = sch.get_loops(out)
    y_task, y_tile, y_in = sch.split(y, [None, tile.th, vertical.m // pooled])
    x_task, x_tile, x_in = sch.split(x, [None, tile.tw, horizontal.m // pooled])
    c_task, c_panel, c_in = sch.split(c, [None, tile.share // tile.panel, tile.panel])
    sch.reorder(c_task, n, *planes, y_task, x_task, c_panel, c_in, y_tile, x_tile, y_in, x_in, ci)
    task = sch.fuse(c_task, n, *planes, y_task, x_task)

    two = tile.part != channel_blocks(p, tile.block)
    stages = [("back_rows", x_tile)] + ([("back_columns", x_tile)] if both else [])
    stages += [("product", c_panel)] + ([("partial", c_panel)] if two else [])
    for name, at in (*stages, ("columns", task)):
        block = sch.get_sblock(name)
        sch.compute_at(block, at, preserve_unit_loops=True)
        sch.set_scope(block, 0, "local")
    columns = sch.get_sblock("columns")
    i, j, *_, ic, t, u, v = sch.get_loops(columns)[-7 - len(planes) :]
    if horizontal.plain:
        sch.reorder(ic, t, u, j, i, v)
    else:
        sch.reorder(ic, t, i, u, j, v)
    for name, at in (("rows", t), ("pad", ic)) if both else (("pad", ic),):
        block = sch.get_sblock(name)
        sch.compute_at(block, at, preserve_unit_loops=True)
        sch.set_scope(block, 0, "local")
    if target.threads > 1:
        sch.parallel(task)
    for name in ("pad", "rows", "columns", "back_columns", "back_rows") if both else ("pad", "columns", "back_rows"):
        block = sch.get_sblock(name)
        sch.vectorize(sch.get_loops(block)[-1])
    sch.unroll(i if horizontal.plain else j)
    if both:
        sch.unroll(sch.get_loops("rows")[-2])
    for name in ("back_columns", "back_rows") if both else ("back_rows",):
        for loop in sch.get_loops(name)[-3:-1]:
            sch.unroll(loop)
    for loop in (y_in, x_in):
        sch.unroll(loop)
    sch.vectorize(ci)
    if tile.fresh:
        schedule_product(sch, p, tile)
    else:
        _schedule_product(sch, p, tile, len(planes))


def _schedule_product(sch: Any, p: ConvProblem, tile: WinogradTile, planes: int) -> None:
    """Register tiles; those of partial sums are added to those of the product, which stand in memory."""
    product = sch.get_sblock("product")
    two = tile.part != channel_blocks(p, tile.block)
    loops = sch.get_loops(product)[(-8 if two else -9) - planes :]
    i, j, *_, c, t, u, v, rc = loops if two else loops[:-1]
    t_out, t_in = sch.split(t, [None, tile.rh])
    u_out, u_in = sch.split(u, [None, tile.rw])
    if not two:
        sch.reorder(i, j, t_out, u_out, rc, loops[-1], t_in, u_in, c, v)
        _unroll(sch, [t_in, u_in, c, v])
        _unroll(sch, sch.get_loops(sch.decompose_reduction(product, rc))[-4:])
        return
    sch.reorder(i, j, t_out, u_out, rc, t_in, u_in, c, v)
    _unroll(sch, [t_in, u_in, c, v])
    partial = sch.get_sblock("partial")
    sch.compute_at(partial, rc, preserve_unit_loops=True)
    *_, c, t, u, v, inner, ri = sch.get_loops(partial)
    sch.reorder(inner, ri, t, u, c, v)
    _unroll(sch, [t, u, c, v])
    _unroll(sch, sch.get_loops(sch.decompose_reduction(partial, inner))[-4:])
    _unroll(sch, sch.get_loops(sch.decompose_reduction(product, rc))[-4:])


def _unroll(sch: Any, loops: list[Any]) -> None:
    """Unrolls loops, and makes vectors of the last."""
    *inner, lane = loops
    for loop in inner:
        sch.unroll(loop)
    sch.vectorize(lane)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def outputs(p: ConvProblem, m: int) -> int:
    """Outputs of a tile along an axis: m, one more where there are 2 taps, so that a tile has m + 2 inputs as of 3."""
    return m + 1 if max(p.kernel[-axes(p.rank) :]) == 2 else m


def _applies(p: ConvProblem, target: Target, m: int, fresh: bool = False) -> str | None:
    if target.kind != "cpu":
        return f"it is for CPUs, and {target.name} is of kind {target.kind}"
    last = axes(p.rank)
    taps, kernel = p.kernel[-last:], "x".join(map(str, p.kernel))
    if set(taps) == {1} or any(points(side(m, r), r) is None for r in taps):
        *few, most = (str(r) for r in TAPS if points(m + (r == 2), r))
        return (
            f"each of the last two axes of the kernel must have {', '.join(few)} or {most} taps, or one 1, got {kernel}"
        )
    if p.strides[-last:] != (1,) * last or p.dilations[-last:] != (1,) * last:
        return f"stride and dilation must be 1 in the last two axes, got {p.strides} and {p.dilations}"
    if p.groups != 1:
        return f"groups must be 1, got {p.groups}"
    if p.dtype != "f32":
        return f"the transforms are for f32, got {p.dtype}"
    if min(p.out) < 1:
        return f"the output must have at least one pixel, got {p.out}"
    if error_bound(p, target, m) > WORST:
        return f"errors must be at most {WORST:.0e} of the result, got {error_bound(p, target, m):.0e} for {kernel}"
    if fresh and (last == 1 or 1 in taps):
        return f"weights are transformed in the kernel where both axes have several taps, got {kernel}"
    if fresh and best_tile(p, target, m, fresh) is None:
        return f"a row of a tile's transform must fit {target.vector_registers} registers, with the weights' own"
    if best_tile(p, target, m, fresh) is None:
        return f"the transforms of one tile must fit {STACK >> 10} KB of stack, got {p.ic} input channels"
    return None


def error_bound(p: ConvProblem, target: Target, m: int) -> float:
    """The largest error over the largest result (or what it would be with random signs).

    The worst operands are signs in a pattern that all channels share, chosen so that the products in a transform are
    large and cancel in the result (`worst_signs`): the sums over channels grow to the end, and rounding errors with
    them. `amplification` is what can be proven, of the operands instead of the result.
    """
    y, x = tile_axes(p, m)
    return 2.0**-24 * alignment(y.m, y.taps) * alignment(x.m, x.taps) * ROUNDING * growth(p, target)


def _pooled(p: ConvProblem, target: Target, m: int) -> str | None:
    """A tile holds whole windows, where those are 2x2 and follow one another."""
    pool = p.behind
    assert pool is not None
    if any(axis.plain for axis in tile_axes(p, m)):
        return f"a tile must have several rows and columns, got the kernel {'x'.join(map(str, p.kernel))}"
    one, two = (1,) * (p.rank - 2), (2, 2)
    if pool.kernel != (*one, *two) or pool.strides != pool.kernel or any(pool.begin):
        return f"the pool's windows must be 2x2, in steps of 2, without padding, got {pool}"
    if any(o * 2 > size for o, size in zip(pool.out[-2:], p.out[-2:], strict=True)):
        return f"the pool's windows must lie inside of the image, got {pool}"
    return None if m % 2 == 0 else f"a tile of {m} results holds no whole windows"


def _layouts(p: ConvProblem, target: Target) -> Layouts:
    b = target.block
    return Layouts(channels(b), Layout(((p.rank + 1, b), (0, b))), channels(b))


def _given_layouts(p: ConvProblem, target: Target) -> Layouts:
    b = target.block
    return Layouts(channels(b), weights_layout(p, b), channels(b))


def _make(m: int, fresh: bool = False) -> Algorithm:
    name = f"winograd_f{m}" + "_fresh" * fresh

    def applies(p: ConvProblem, target: Target) -> str | None:
        return _applies(p, target, outputs(p, m), fresh)

    made = Algorithm(
        name=name,
        op="conv",
        applies=applies,
        layouts=_given_layouts if fresh else _layouts,
        tiles_for=tiles_or_error(name, lambda p, target: best_tile(p, target, outputs(p, m), fresh), applies),
        cost=cost,
        define=define,
        schedule=schedule,
        scratch=scratch,
        error_bound=lambda p, target: error_bound(p, target, outputs(p, m)),
        exact=False,
        candidates=lambda p, target: candidates(p, target, outputs(p, m), fresh),
        pooled=lambda p, target: _pooled(p, target, outputs(p, m)),
    )
    if fresh:
        return replace(made, constant_weights=True)
    return replace(
        made,
        weight_op="winograd_weights",
        anchor_op="winograd_conv",
        attrs_for=lambda p, tile: WinogradAttrs(tile.m, p.pads, (p.strides[0], p.dilations[0])),
    )


WINOGRAD_F2, WINOGRAD_F4, WINOGRAD_F6 = _make(2), _make(4), _make(6)
WINOGRAD_F4_FRESH = _make(4, fresh=True)
