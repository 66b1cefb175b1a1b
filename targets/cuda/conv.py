"""Convolution in plain NCHW as an implicit GEMM: rows are output channels, columns are output pixels, the depth runs
over input channels and filter taps. The matrix of windows is never stored: blocks gather their tile of it. Depthwise
and other thin groups give no matrix worth tiling: there each thread computes one result directly.

Any rank, stride, dilation, pads and groups. Where the channels of a group divide by the step of k, the depth runs over
(channel block, taps, channel), so that a tile has one tap and its index arithmetic is shared by the block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from cnncc.ir.layout import PLAIN
from cnncc.targets.algorithm import Algorithm, Cost, Layouts
from cnncc.targets.cuda.fuse import inline_prologue
from cnncc.targets.cuda.gemm import (
    GemmTile,
    choose_tile,
    compute_seconds,
    define_product,
    schedule_product,
)
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target

if TYPE_CHECKING:
    from tvm import te
    from tvm.s_tir import Schedule


def _applies(problem: ConvProblem, target: Target) -> str | None:
    if target.kind != "cuda":
        return f"implicit GEMM is for CUDA targets, got {target.name}"
    if problem.dtype != "f32":
        return f"implicit GEMM is for float32, got {problem.dtype}"
    rows = problem.oc // problem.groups
    if rows < 4 or (problem.groups > 1 and rows % 4):
        return f"implicit GEMM needs at least 4 output channels (of several groups: a multiple of 4), got {rows}"
    return None


def _layouts(problem: ConvProblem, target: Target) -> Layouts:
    return Layouts(x=PLAIN, w=PLAIN, out=PLAIN)


def _extents(problem: ConvProblem) -> tuple[int, int, int]:
    """Rows and depth of a group's product, and pixels of an image."""
    depth = problem.ic // problem.groups * prod(problem.kernel)
    return problem.oc // problem.groups, depth, prod(problem.out)


def _tiles(problem: ConvProblem, target: Target) -> GemmTile:
    rows, depth, pixels = _extents(problem)
    return choose_tile(rows, problem.batch * pixels, depth, 1, target, problem.groups)


def _cost(problem: ConvProblem, target: Target, tile: GemmTile) -> Cost:
    rows, depth, pixels = _extents(problem)
    compute = compute_seconds(rows, problem.batch * pixels, depth, problem.groups, tile, target)
    moved = memory_bytes(problem)
    return Cost(max(compute, moved / (target.gbytes_per_second * 1e9)), 2.0 * problem.macs, moved)


def memory_bytes(problem: ConvProblem) -> float:
    """Bytes of the operands and the result, each moved once."""
    inputs = problem.batch * problem.ic * prod(problem.size)
    outputs = problem.batch * problem.oc * prod(problem.out)
    weights = problem.oc * problem.ic // problem.groups * prod(problem.kernel)
    return 4.0 * (inputs + outputs + weights)


def unravel(index: Any, shape: tuple[int, ...]) -> list[Any]:
    """Flat index --> indices along the axes of a shape, the last axis innermost; the first is left unbounded."""
    from cnncc.targets.cuda.expr import const

    out: list[Any] = []
    for size in reversed(shape[1:]):
        out.append(index % const(size))
        index = index // const(size)
    return [index, *reversed(out)]


def window(problem: ConvProblem, pixel: list[Any], tap: list[Any]) -> tuple[list[Any], list[Any]]:
    """Output pixel and filter tap --> conditions for the input pixel to exist (those not implied by the geometry),
    and its indices."""
    from cnncc.targets.cuda.expr import const, inside

    conditions, indices = [], []
    for axis in range(problem.rank):
        begin, stride, dilation = problem.pads[axis], problem.strides[axis], problem.dilations[axis]
        index = pixel[axis] * const(stride) + tap[axis] * const(dilation) - const(begin)
        last = (problem.out[axis] - 1) * stride + (problem.kernel[axis] - 1) * dilation - begin
        conditions += inside(index, low=begin > 0, high=last >= problem.size[axis], size=problem.size[axis])
        indices.append(index)
    return conditions, indices


def _define(problem: ConvProblem, tile: GemmTile, x: Any, w: Any, finish: Callable[..., Any]) -> te.Tensor:
    from tvm import te

    from cnncc.targets.cuda.expr import const, extent

    _, depth, pixels = _extents(problem)
    channels = problem.ic // problem.groups
    batch = extent(x.shape[0])

    def split_depth(k: Any) -> tuple[Any, list[Any]]:
        """Depth index --> input channel within the group, filter tap."""
        if channels % tile.k == 0:
            block, *tap = unravel(k // const(tile.k), (0, *problem.kernel))
            return block * const(tile.k) + k % const(tile.k), tap
        channel, *tap = unravel(k, (0, *problem.kernel))
        return channel, tap

    def filters(_: Any, k: Any, row: Any) -> tuple[list[Any], Any]:
        channel, tap = split_depth(k)
        return [], w(row, channel, *tap)

    def windows(_: Any, group: Any, k: Any, column: Any) -> tuple[list[Any], Any]:
        channel, tap = split_depth(k)
        image, *pixel = unravel(column, (0, *problem.out))
        conditions, indices = window(problem, pixel, tap)
        return conditions, x(image, group * const(channels) + channel, *indices)

    columns = batch * const(pixels)
    product = define_product((1, problem.oc, depth, columns), tile, filters, windows, problem.groups)

    def out(n: Any, c: Any, *pixel: Any) -> Any:
        column = n
        for index, size in zip(pixel, problem.out, strict=True):
            column = column * const(size) + index
        return finish(product[0, c, column], (n, c, *pixel))

    shape = (batch, const(problem.oc), *(const(size) for size in problem.out))
    return te.compute(shape, out, name="out")


def _schedule(sch: Schedule, problem: ConvProblem, tile: GemmTile, target: Target) -> None:
    from cnncc.targets.cuda.expr import const

    inline_prologue(sch, ("left", "right", "acc", "total", "flat", "out"))

    def to_product(n: Any, c: Any, *pixel: Any) -> tuple[Any, Any]:
        column = n
        for index, size in zip(pixel, problem.out, strict=True):
            column = column * const(size) + index
        return c, column

    out = sch.get_sblock("out")
    sch.transform_block_layout(out, index_map(to_product, problem.rank + 2))
    row, column = sch.get_loops(out)
    batch = sch.add_unit_loop(row)
    schedule_product(sch, (batch, row, column), tile, left_along_k=True, right_along_k=False)


TAP_SECONDS = 2e-8  # a thread's multiply-add, with its loads from L1


@dataclass(frozen=True)
class DirectTile:
    """One thread an output pixel of one channel; `threads` in a block. `unroll`: the taps are written out."""

    threads: int
    unroll: bool


def _direct_applies(problem: ConvProblem, target: Target) -> str | None:
    if target.kind != "cuda":
        return f"this convolution is for CUDA targets, got {target.name}"
    return None if problem.dtype == "f32" else f"direct convolution is for float32, got {problem.dtype}"


def _direct_tiles(problem: ConvProblem, target: Target) -> DirectTile:
    return DirectTile(threads=128, unroll=prod(problem.kernel) <= 49)


def _direct_cost(problem: ConvProblem, target: Target, tile: DirectTile) -> Cost:
    # Two loads and some index arithmetic for every multiply-add, from L1; a thread waits for most of them.
    threads = problem.batch * problem.oc * prod(problem.out)
    chain = problem.ic // problem.groups * prod(problem.kernel)
    busy = min(1.0, threads / (target.threads * 1024))
    seconds = problem.macs * 16.0 / (target.threads * target.gflops_per_core * 1e9 * busy) + chain * TAP_SECONDS
    moved = memory_bytes(problem)
    return Cost(max(seconds, moved / (target.gbytes_per_second * 1e9)), 2.0 * problem.macs, moved)


def _direct_define(problem: ConvProblem, tile: DirectTile, x: Any, w: Any, finish: Callable[..., Any]) -> te.Tensor:
    from tvm import te

    from cnncc.targets.cuda.expr import const, extent, guard

    channels, rows = problem.ic // problem.groups, problem.oc // problem.groups
    channel = te.reduce_axis((const(0), const(channels)), name="ic")
    taps = [te.reduce_axis((const(0), const(size)), name=f"k{i}") for i, size in enumerate(problem.kernel)]
    shape = (extent(x.shape[0]), const(problem.oc), *(const(size) for size in problem.out))

    def product(n: Any, c: Any, *pixel: Any) -> Any:
        conditions, indices = window(problem, list(pixel), [tap.var for tap in taps])
        value = x(n, c // const(rows) * const(channels) + channel, *indices)
        return te.sum(guard(conditions, value) * w(c, channel, *taps), axis=[channel, *taps])

    acc = te.compute(shape, product, name="acc")
    return te.compute(shape, lambda *index: finish(acc(*index), index), name="out")


def _direct_schedule(sch: Schedule, problem: ConvProblem, tile: DirectTile, target: Target) -> None:
    inline_prologue(sch, ("acc", "out"))
    acc = sch.get_sblock("acc")
    loops = sch.get_loops(acc)
    channel, *taps = loops[-1 - problem.rank :]
    # The accumulation carries the loops and the result follows: the other way round, TVM loses track of the tail.
    block, thread = sch.split(sch.fuse(*loops[: -1 - problem.rank]), [None, tile.threads])
    sch.bind(block, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    sch.set_scope(acc, 0, "local")
    sch.reverse_compute_at("out", thread, preserve_unit_loops=True)
    if tile.unroll:
        for tap in taps:
            sch.unroll(tap)
    sch.decompose_reduction(acc, channel)


def index_map(mapping: Callable[..., Any], rank: int) -> Any:
    """An index map of a function that takes any number of indices."""
    from tvm import tirx

    return tirx.IndexMap.from_func(mapping, ndim=rank)


IMPLICIT_GEMM = Algorithm(
    name="conv.implicit_gemm",
    op="conv",
    applies=_applies,
    layouts=_layouts,
    tiles_for=_tiles,
    cost=_cost,
    define=_define,
    schedule=_schedule,
)

DIRECT = Algorithm(
    name="conv.direct",
    op="conv",
    applies=_direct_applies,
    layouts=_layouts,
    tiles_for=_direct_tiles,
    cost=_direct_cost,
    define=_direct_define,
    schedule=_direct_schedule,
)
