"""Winograd's F(m x m, 3 x 3) convolution on a CPU: stride 1, any size, any pads.

For a block of tiles: pad, transform the input (channels in the vector), alpha * alpha small matrix products with the
weights that were transformed at compile time, transform back, finish. The block stays in the second-level cache, and
nothing but the result is written to memory. The tile index has two dimensions with ceiling counts; the result is the
root of the schedule, so that sizes which tiles do not divide need predicates in its last loops only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cnncc.errors import UnsupportedError
from cnncc.ir.layout import Layout, channels
from cnncc.ops.winograd_matrices import TAPS, combine, matrices
from cnncc.targets.algorithm import Algorithm, Layouts
from cnncc.targets.cpu.winograd_tiles import STACK, WinogradTile, best_tile, cost, scratch
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target

# Largest error over the largest result, in units of the last place: twice what random and one-sided data show with 512
# input channels. `amplification` in winograd_matrices.py is what can be proven, of the operands instead of the result.
_ULPS = {2: 32, 4: 128, 6: 384}


def define(p: ConvProblem, tile: WinogradTile, x: Any, w: Any, finish: Callable[[Any, tuple[Any, ...]], Any]) -> Any:
    """The stages: pad, rows, columns, product, back_columns, back_rows, out."""
    from tvm import te, tirx

    def i64(v: int) -> Any:
        return tirx.const(v, "int64")

    m, alpha, b = tile.m, tile.alpha, tile.block
    back, forward, _ = matrices(m)
    n = i64(p.n) if isinstance(p.n, int) else x.shape[0]
    (h, wd), (oh, ow) = p.size, p.out
    ib, ob = -(-p.ic // b), -(-p.oc // b)
    ty, tx = _round_up(-(-oh // m), tile.th), _round_up(-(-ow // m), tile.tw)
    top, left = p.pads[0], p.pads[1]
    zero = tirx.const(0, "float32")

    def padded(n: Any, c: Any, y: Any, x_: Any, ci: Any) -> Any:
        inside = tirx.all(y >= top, y < h + top, x_ >= left, x_ < wd + left)
        return tirx.if_then_else(inside, x(n, c, y - top, x_ - left, ci), zero)

    pad = te.compute(_shape(n, ib, ty * m + 2, tx * m + 2, b), padded, name="pad")
    rows = te.compute(
        _shape(n, ib, ty, tx * m + 2, alpha, b),
        lambda n, c, t, x_, i, ci: _pick(combine(forward, [pad[n, c, t * m + j, x_, ci] for j in range(alpha)]), i),
        name="rows",
    )
    columns = te.compute(
        _shape(alpha, alpha, n, ib, ty, tx, b),
        lambda i, j, n, c, t, u, ci: _pick(
            combine(forward, [rows[n, c, t, u * m + k, i, ci] for k in range(alpha)]), j
        ),
        name="columns",
    )
    rc, ri = te.reduce_axis((i64(0), i64(ib)), name="rc"), te.reduce_axis((i64(0), i64(b)), name="ri")
    product = te.compute(
        _shape(alpha, alpha, n, ob, ty, tx, b),
        lambda i, j, n, c, t, u, ci: te.sum(columns[i, j, n, rc, t, u, ri] * w(i, j, c, rc, ri, ci), axis=[rc, ri]),
        name="product",
    )
    back_columns = te.compute(
        _shape(n, ob, ty, tx, m, alpha, b),
        lambda n, c, t, u, i, j, ci: _pick(
            combine(back, [product[i64(k), j, n, c, t, u, ci] for k in range(alpha)]), i
        ),
        name="back_columns",
    )
    back_rows = te.compute(
        _shape(n, ob, ty, tx, m, m, b),
        lambda n, c, t, u, i, j, ci: _pick(
            combine(back, [back_columns[n, c, t, u, i, i64(k), ci] for k in range(alpha)]), j
        ),
        name="back_rows",
    )
    return te.compute(
        _shape(n, ob, oh, ow, b),
        lambda n, c, y, x_, ci: finish(back_rows[n, c, y // m, x_ // m, y % m, x_ % m, ci], (n, c * b + ci, y, x_)),
        name="out",
    )


def schedule(sch: Any, p: ConvProblem, tile: WinogradTile, target: Target) -> None:
    """Tasks over (n, rows of tiles, columns of tiles, shares of output channels)."""
    m = tile.m
    out, product = sch.get_sblock("out"), sch.get_sblock("product")
    n, c, y, x, ci = sch.get_loops(out)
    y_task, y_tile, y_in = sch.split(y, [None, tile.th, m])
    x_task, x_tile, x_in = sch.split(x, [None, tile.tw, m])
    c_task, c_panel, c_in = sch.split(c, [None, tile.share // tile.panel, tile.panel])
    sch.reorder(c_task, n, y_task, x_task, c_panel, c_in, y_tile, x_tile, y_in, x_in, ci)
    task = sch.fuse(c_task, n, y_task, x_task)

    for name, at in (("back_rows", x_tile), ("back_columns", x_tile), ("product", c_panel), ("columns", task)):
        block = sch.get_sblock(name)
        sch.compute_at(block, at, preserve_unit_loops=True)
        sch.set_scope(block, 0, "local")
    columns = sch.get_sblock("columns")
    i, j, _, ic, t, u, v = sch.get_loops(columns)[-7:]
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

    i, j, c, t, u, v, rc, ri = sch.get_loops(product)[-8:]
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
    if p.kernel != (TAPS, TAPS):
        return f"the kernel must be 3x3, got {'x'.join(map(str, p.kernel))}"
    if p.strides != (1, 1) or p.dilations != (1, 1):
        return f"stride and dilation must be 1, got {p.strides} and {p.dilations}"
    if p.groups != 1:
        return f"groups must be 1, got {p.groups}"
    if p.dtype != "f32":
        return f"the transforms are for f32, got {p.dtype}"
    if min(p.out) < 1:
        return f"the output must have at least one pixel, got {p.out}"
    if best_tile(p, target, m) is None:
        return f"the transforms of one tile must fit {STACK >> 10} KB of stack, got {p.ic} input channels"
    return None


def _layouts(p: ConvProblem, target: Target) -> Layouts:
    b = target.block
    return Layouts(channels(b), Layout(((3, b), (2, b))), channels(b))


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
    )


WINOGRAD_F2, WINOGRAD_F4, WINOGRAD_F6 = _make(2), _make(4), _make(6)
