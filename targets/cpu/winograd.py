"""Winograd's F(m x m, 3 x 3) convolution on a CPU: stride 1, any size, any pads; in 3-D, d x 3 x 3 taps.

Three axes are two: an output plane is a sum over taps in depth and channels, so the transforms run over the planes it
needs as if those were more channels.

For a block of tiles: pad, transform the input (channels in the vector), alpha * alpha small matrix products with the
weights that were transformed at compile time, transform back, finish. The block stays in the second-level cache, and
nothing but the result is written to memory. The tile index has two dimensions with ceiling counts; the result is the
root of the schedule, so that sizes which tiles do not divide need predicates in its last loops only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

from cnncc.errors import UnsupportedError
from cnncc.ir.layout import Layout, channels
from cnncc.ops.winograd import WinogradAttrs
from cnncc.ops.winograd_matrices import TAPS, combine, matrices
from cnncc.targets.algorithm import Algorithm, Layouts
from cnncc.targets.cpu.winograd_tiles import STACK, WinogradTile, best_tile, candidates, channel_blocks, cost, scratch
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target

# Largest error, in units of the last place, over the largest result (or what it would be with random signs), with 512
# input channels: more than any operands showed that `python -m benchmarks.accuracy` knows. The worst are signs in the
# pattern of the tiles, shared by all channels, four times as bad as random ones; their errors grow with the square root
# of the channels. `amplification` in winograd_matrices.py is what can be proven, of the operands instead of the result.
_ULPS = {2: 32, 4: 160, 6: 1024}


def define(p: ConvProblem, tile: WinogradTile, x: Any, w: Any, finish: Callable[[Any, tuple[Any, ...]], Any]) -> Any:
    """The stages: pad, rows, columns, product, back_columns, back_rows, out."""
    from tvm import te, tirx

    from cnncc.targets.cpu.pool import maximum

    def i64(v: int) -> Any:
        return tirx.const(v, "int64")

    m, alpha, b = tile.m, tile.alpha, tile.block
    back, forward, _ = matrices(m)
    n = i64(p.n) if isinstance(p.n, int) else x.shape[0]
    r, taps = p.rank, p.kernel[:-2]
    outer = (n, *p.out[:-2])  # images, and planes in 3-D
    real, ib, ob = -(-p.ic // b), channel_blocks(p, b), -(-p.oc // b)
    ty, tx = _round_up(-(-p.out[-2] // m), tile.th), _round_up(-(-p.out[-1] // m), tile.tw)
    zero = tirx.const(0, "float32")

    def padded(*i: Any) -> Any:
        n, *planes, c, y, x_, ci = i
        tap = [c // real] if taps else []
        place = [
            *(d * p.strides[0] + k * p.dilations[0] for d, k in zip(planes, tap, strict=True)), y, x_
        ]  # fmt: skip
        inside = [
            bound for at, before, size in zip(place, p.pads[:r], p.size, strict=True)
            for bound in (at >= before, at < size + before)
        ]  # fmt: skip
        at = [at - before for at, before in zip(place, p.pads[:r], strict=True)]
        return tirx.if_then_else(tirx.all(*inside), x(n, c % real if taps else c, *at, ci), zero)

    pad = te.compute(_shape(*outer, ib, ty * m + 2, tx * m + 2, b), padded, name="pad")

    def down(*i: Any) -> Any:
        *o, c, t, x_, k, ci = i
        return _pick(combine(forward, [pad(*o, c, t * m + j, x_, ci) for j in range(alpha)]), k)

    def across(i: Any, j: Any, *rest: Any) -> Any:
        *o, c, t, u, ci = rest
        return _pick(combine(forward, [rows(*o, c, t, u * m + k, i, ci) for k in range(alpha)]), j)

    rows = te.compute(_shape(*outer, ib, ty, tx * m + 2, alpha, b), down, name="rows")
    columns = te.compute(_shape(alpha, alpha, *outer, ib, ty, tx, b), across, name="columns")
    rc, ri = te.reduce_axis((i64(0), i64(ib)), name="rc"), te.reduce_axis((i64(0), i64(b)), name="ri")
    where = (rc // real, rc % real) if taps else (rc,)

    def summed(i: Any, j: Any, *rest: Any) -> Any:
        *o, c, t, u, ci = rest
        return te.sum(columns(i, j, *o, rc, t, u, ri) * w(i, j, c, *where, ri, ci), axis=[rc, ri])

    def up(*i: Any) -> Any:
        *o, y, k, ci = i
        return _pick(combine(back, [product(i64(a), k, *o, ci) for a in range(alpha)]), y)

    def along(*i: Any) -> Any:
        *o, y, x_, ci = i
        return _pick(combine(back, [back_columns(*o, y, i64(k), ci) for k in range(alpha)]), x_)

    def result(*i: Any) -> Any:
        n, c, *planes, y, x_, ci = i
        value = back_rows(n, *planes, c, y // m, x_ // m, y % m, x_ % m, ci)
        return finish(value, (n, c * b + ci, *planes, y, x_))

    def pooled(*i: Any) -> Any:
        n, c, *planes, y, x_, ci = i
        half = m // 2
        at = [(y % half * 2 + k, x_ % half * 2 + j) for k in range(2) for j in range(2)]
        four = [back_rows(n, *planes, c, y // half, x_ // half, *inside, ci) for inside in at]
        value = reduce(lambda one, other: maximum(one, other, "f32"), four)
        return finish(value, (n, c * b + ci, *planes, y, x_))

    product = te.compute(_shape(alpha, alpha, *outer, ob, ty, tx, b), summed, name="product")
    back_columns = te.compute(_shape(*outer, ob, ty, tx, m, alpha, b), up, name="back_columns")
    back_rows = te.compute(_shape(*outer, ob, ty, tx, m, m, b), along, name="back_rows")
    if p.behind is not None:
        return te.compute(_shape(n, ob, *p.behind.out, b), pooled, name="out")
    return te.compute(_shape(n, ob, *p.out, b), result, name="out")


def schedule(sch: Any, p: ConvProblem, tile: WinogradTile, target: Target) -> None:
    """Tasks over (n, rows of tiles, columns of tiles, shares of output channels)."""
    side = tile.m if p.behind is None else tile.m // 2  # results of a tile
    out, product = sch.get_sblock("out"), sch.get_sblock("product")
    n, c, *planes, y, x, ci = sch.get_loops(out)
    y_task, y_tile, y_in = sch.split(y, [None, tile.th, side])
    x_task, x_tile, x_in = sch.split(x, [None, tile.tw, side])
    c_task, c_panel, c_in = sch.split(c, [None, tile.share // tile.panel, tile.panel])
    sch.reorder(c_task, n, *planes, y_task, x_task, c_panel, c_in, y_tile, x_tile, y_in, x_in, ci)
    task = sch.fuse(c_task, n, *planes, y_task, x_task)

    for name, at in (("back_rows", x_tile), ("back_columns", x_tile), ("product", c_panel), ("columns", task)):
        block = sch.get_sblock(name)
        sch.compute_at(block, at, preserve_unit_loops=True)
        sch.set_scope(block, 0, "local")
    columns = sch.get_sblock("columns")
    i, j, *_, ic, t, u, v = sch.get_loops(columns)[-7 - len(planes) :]
    sch.reorder(ic, t, i, u, j, v)
    for name, at in (("rows", t), ("pad", ic)):
        block = sch.get_sblock(name)
        sch.compute_at(block, at, preserve_unit_loops=True)
        sch.set_scope(block, 0, "local")
    if target.threads > 1:
        sch.parallel(task)
    for name in ("pad", "rows", "columns", "back_columns", "back_rows"):
        block = sch.get_sblock(name)
        sch.vectorize(sch.get_loops(block)[-1])
    sch.unroll(j)
    sch.unroll(sch.get_loops("rows")[-2])
    for name in ("back_columns", "back_rows"):
        for loop in sch.get_loops(name)[-3:-1]:
            sch.unroll(loop)
    for loop in (y_in, x_in):
        sch.unroll(loop)
    sch.vectorize(ci)

    i, j, *_, c, t, u, v, rc, ri = sch.get_loops(product)[-9 - len(planes) :]
    t_out, t_in = sch.split(t, [None, tile.rh])
    u_out, u_in = sch.split(u, [None, tile.rw])
    sch.reorder(i, j, t_out, u_out, rc, ri, t_in, u_in, c, v)
    for loop in (t_in, u_in, c):
        sch.unroll(loop)
    sch.vectorize(v)
    init = sch.decompose_reduction(product, rc)
    loops = sch.get_loops(init)
    sch.vectorize(loops[-1])
    for loop in loops[-4:-1]:
        sch.unroll(loop)


def _pick(values: list[Any], index: Any) -> Any:
    """values[index] for an index that is unrolled."""
    from tvm import tirx

    out = values[-1]
    for k in range(len(values) - 2, -1, -1):
        out = tirx.Select(index.equal(k), values[k], out)
    return out


def _shape(*extents: Any) -> tuple[Any, ...]:
    from tvm import tirx

    return tuple(tirx.const(e, "int64") if isinstance(e, int) else e for e in extents)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _applies(p: ConvProblem, target: Target, m: int) -> str | None:
    if target.kind != "cpu":
        return f"it is for CPUs, and {target.name} is of kind {target.kind}"
    if p.rank == 1 or p.kernel[-2:] != (TAPS, TAPS):
        return f"the last two axes of the kernel must be 3x3, got {'x'.join(map(str, p.kernel))}"
    if p.strides[-2:] != (1, 1) or p.dilations[-2:] != (1, 1):
        return f"stride and dilation must be 1 in the last two axes, got {p.strides} and {p.dilations}"
    if p.groups != 1:
        return f"groups must be 1, got {p.groups}"
    if p.dtype != "f32":
        return f"the transforms are for f32, got {p.dtype}"
    if min(p.out) < 1:
        return f"the output must have at least one pixel, got {p.out}"
    if best_tile(p, target, m) is None:
        return f"the transforms of one tile must fit {STACK >> 10} KB of stack, got {p.ic} input channels"
    return None


def _pooled(p: ConvProblem, target: Target, m: int) -> str | None:
    """A tile holds whole windows, where those are 2x2 and follow one another."""
    pool = p.behind
    assert pool is not None
    one, two = (1,) * (p.rank - 2), (2, 2)
    if pool.kernel != (*one, *two) or pool.strides != pool.kernel or any(pool.begin):
        return f"the pool's windows must be 2x2, in steps of 2, without padding, got {pool}"
    if any(o * 2 > size for o, size in zip(pool.out[-2:], p.out[-2:], strict=True)):
        return f"the pool's windows must lie inside of the image, got {pool}"
    return None if m % 2 == 0 else f"a tile of {m} results holds no whole windows"


def _layouts(p: ConvProblem, target: Target) -> Layouts:
    b = target.block
    return Layouts(channels(b), Layout(((p.rank + 1, b), (2, b))), channels(b))


def _make(m: int) -> Algorithm:
    def tiles_for(p: ConvProblem, target: Target) -> WinogradTile:
        tile = best_tile(p, target, m)
        if tile is None:
            raise UnsupportedError(f"{p}: Winograd F({m}x{m}, 3x3): {_applies(p, target, m)}")
        return tile

    return Algorithm(
        name=f"winograd_f{m}",
        op="conv",
        applies=lambda p, target: _applies(p, target, m),
        layouts=_layouts,
        tiles_for=tiles_for,
        cost=cost,
        define=define,
        schedule=schedule,
        scratch=scratch,
        error_bound=lambda dtype: _ULPS[m] * {"f32": 2.0**-23}[dtype],
        exact=False,
        weight_op="winograd_weights",
        anchor_op="winograd_conv",
        attrs_for=lambda p, tile: WinogradAttrs(tile.m, p.pads, (p.strides[0], p.dilations[0])),
        candidates=lambda p, target: candidates(p, target, m),
        pooled=lambda p, target: _pooled(p, target, m),
    )


WINOGRAD_F2, WINOGRAD_F4, WINOGRAD_F6 = _make(2), _make(4), _make(6)
