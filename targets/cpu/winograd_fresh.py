"""Winograd's weights transformed inside of the kernel that multiplies with them.

Transformed weights are 4 times as large as those of a 3x3 convolution, and where few tiles share them, bringing them
from memory takes longer than the products: 37 MB for 512 channels, for 4 tiles of a 7x7 image. Here the kernel reads
the weights as they are and transforms some blocks of input channels at a time, into scratch, as they are needed.

The transform is G without its denominators, rows (1, p, p^2): they are divided out of B^T, of which there is less.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from cnncc.ir.layout import Layout
from cnncc.ops.winograd_matrices import Matrix, combine, matrices
from cnncc.targets.cpu.prefetch import PART, TURNS
from cnncc.targets.cpu.winograd_tiles import Axis, WinogradTile, channel_blocks, tile_axes
from cnncc.targets.problem import ConvProblem


@cache
def scaled(m: int, taps: int) -> tuple[Matrix, Matrix]:
    """B^T and G with rows of G divided by their first coefficient, and those of B^T multiplied by it."""
    _, b, g = matrices(m, taps)
    factors = [next(v for v in row if v) for row in g]
    return (
        tuple(tuple(v * f for v in row) for row, f in zip(b, factors, strict=True)),
        tuple(tuple(v / f for v in row) for row, f in zip(g, factors, strict=True)),
    )


def transformed(p: ConvProblem, tile: WinogradTile, vertical: Axis, horizontal: Axis, w: Any) -> Any:
    """Stages "half", "whole": rows, columns of tiles of weights, from [oc/b, ic/b, (depth,) 1, 1, b, r, s, b]."""
    from tvm import te

    from cnncc.targets.cpu import common

    b, real = tile.block, -(-p.ic // tile.block)
    blocks, shares, zero = channel_blocks(p, b), -(-p.oc // b), common.i64(0)

    def down(o: Any, c: Any, ri: Any, l: Any, i: Any, lane: Any) -> Any:
        at = (c % real, c // real) if p.rank == 3 else (c,)
        taps = [w(o, *at, zero, zero, ri, common.i64(k), l, lane) for k in range(vertical.taps)]
        return common.pick(combine(scaled(vertical.m, vertical.taps)[1], taps), i)

    half = te.compute(common.shape(shares, blocks, b, horizontal.taps, vertical.alpha, b), down, name="half")

    def across(o: Any, c: Any, ri: Any, i: Any, j: Any, lane: Any) -> Any:
        line = [half(o, c, ri, common.i64(l), i, lane) for l in range(horizontal.taps)]
        return common.pick(combine(scaled(horizontal.m, horizontal.taps)[1], line), j)

    whole = te.compute(common.shape(shares, blocks, b, vertical.alpha, horizontal.alpha, b), across, name="whole")

    def read(o: Any, i: Any, j: Any, *rest: Any) -> Any:
        *at, ri, lane = rest
        return whole(o, at[0] * real + at[1] if p.rank == 3 else at[0], ri, i, j, lane)

    return read


def weights_layout(p: ConvProblem, block: int) -> Layout:
    """The taps of a vector of weights lie side by side, so that those that are read together are one stream."""
    first, second = p.rank, p.rank + 1
    return Layout(((1, block), (first, p.kernel[-2]), (second, p.kernel[-1]), (0, block)))


def schedule_product(sch: Any, p: ConvProblem, tile: WinogradTile) -> None:
    """A row of the tile at a time: its products of a few tiles with a block of output channels are in registers, as is
    its row of transformed weights, which is made anew in every step."""
    planes, two = p.rank - 2, tile.part != channel_blocks(p, tile.block)
    product = sch.get_sblock("product")
    i, j, *_, c, t, u, v, rc = sch.get_loops(product)[(-8 if two else -9) - planes :][: 8 + planes]
    t_out, t_in = sch.split(t, [None, tile.rh])
    u_out, u_in = sch.split(u, [None, tile.rw])
    summed, ri = product, sch.get_loops(product)[-1]
    if two:
        sch.reorder(rc, i, t_out, u_out, j, t_in, u_in, c, v)
        _unroll(sch, [j, t_in, u_in, c, v])
        summed = sch.get_sblock("partial")
        sch.compute_at(summed, u_out, preserve_unit_loops=True)
        _, _, j, *_, c, t_in, u_in, v, inner, ri = sch.get_loops(summed)[-10 - planes :]
        sch.reorder(inner, ri, j, t_in, u_in, c, v)
    else:
        inner = rc
        sch.reorder(i, t_out, u_out, rc, ri, j, t_in, u_in, c, v)
    _unroll(sch, [j, t_in, u_in, c, v])
    sch.unroll(i)
    for name in ("whole", "half"):
        block = sch.get_sblock(name)
        sch.compute_at(block, ri, preserve_unit_loops=True)
        sch.set_scope(block, 0, "local")
        _unroll(sch, sch.get_loops(block)[-3:])
    sch.annotate(ri, TURNS, tile_axes(p, tile.m)[0].alpha)
    sch.annotate(ri, PART, 4 * math.prod(p.kernel[-2:]) * tile.block**2 * tile.part)
    _unroll(sch, sch.get_loops(sch.decompose_reduction(summed, inner))[-5:])
    if two:
        _unroll(sch, sch.get_loops(sch.decompose_reduction(product, rc))[-5:])


def _unroll(sch: Any, loops: list[Any]) -> None:
    *inner, lane = loops
    for loop in inner:
        sch.unroll(loop)
    sch.vectorize(lane)
