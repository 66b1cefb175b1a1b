"""The tiled matrix product that convolution and matmul share: shared-memory tiles, register tiles, predicated tails.

A block of threads computes an m x n tile. Per step of k it copies a k x m tile of the left and a k x n tile of the
right operand to shared memory; each thread then multiplies an rm x rn register tile. Operands are functions, so an
implicit GEMM (im2col without the matrix) is a right operand that computes its addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnncc.targets.cuda.expr import ceil_div, const, divisible, extent, guard
from cnncc.targets.cuda.machine import WARP
from cnncc.targets.target import Target

if TYPE_CHECKING:
    from tvm import te
    from tvm.s_tir import Schedule

STEP_SECONDS = 4e-7  # latency of a step of k: global memory, shared memory, two barriers


@dataclass(frozen=True)
class GemmTile:
    """Tile of a block (m x n), step of k, register tile of a thread (rm x rn), and slices of the depth, each summed by
    threads of its own in the block: small problems that would leave a machine idle are deep instead."""

    m: int
    n: int
    k: int
    rm: int
    rn: int
    slices: int = 1

    @property
    def lanes(self) -> int:
        """Threads of a slice."""
        return (self.m // self.rm) * (self.n // self.rn)

    @property
    def threads(self) -> int:
        """Threads in a block."""
        return self.lanes * self.slices

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a block (float32) at most: TVM may let the sums take the operands' place."""
        sums = self.slices * self.m * self.n if self.slices > 1 else 0
        return 4 * (self.slices * self.k * (_padded(self.m) + _padded(self.n)) + sums)


def _padded(row: int) -> int:
    """Length of a row of an operand that is copied across rows: 4 modulo the 32 banks."""
    return row + (4 - row) % 32


# (m, n, rm, rn); large tiles reuse most, small ones fill the machine when the problem is small.
_SHAPES = (
    (128, 128, 8, 8),
    (128, 64, 8, 4),
    (64, 128, 4, 8),
    (64, 64, 8, 4),
    (64, 64, 4, 4),
    (64, 32, 4, 4),
    (32, 64, 4, 4),
    (32, 32, 4, 4),
    (64, 16, 4, 4),
    (16, 64, 4, 4),
    (16, 128, 4, 4),
    (8, 128, 4, 4),
    (8, 64, 4, 4),
    (32, 16, 4, 2),
    (16, 32, 2, 4),
    (16, 16, 2, 2),
)
_SHARED = 32 << 10  # bytes: leaves room for several blocks on a multiprocessor
_THREADS = 512


def choose_tile(m: int, n: int, k: int, batch: int, target: Target, groups: int = 1) -> GemmTile:
    """The tile of least modelled time for an m x n x k product done `batch * groups` times.

    Groups of rows with a right operand of their own need whole tiles: m must be a multiple of 4 then.
    """
    shapes = list(_SHAPES)
    if groups > 1:
        divisors = [d for d in range(4, min(m, 128) + 1, 4) if m % d == 0]
        shapes = [shape for shape in shapes if m % shape[0] == 0]
        shapes += [(d, columns, 4, 4) for d in divisors for columns in (32, 64, 128) if d * columns <= 128 * 64]
    tiles = [
        GemmTile(tm, tn, step, rm, rn, slices)
        for tm, tn, rm, rn in shapes
        for step in (8, 16, 32)
        for slices in (1, 2, 4, 8)
        if slices == 1 or (step * slices <= k and rm * rn % slices == 0)
    ]

    def key(tile: GemmTile) -> tuple[float, int]:
        whole = -(-m // tile.m) * tile.m * -(-n // tile.n) * tile.n
        return compute_seconds(m, n, k, batch * groups, tile, target), whole

    return min((tile for tile in tiles if tile.threads <= _THREADS and tile.shared <= _SHARED), key=key)


def compute_seconds(m: int, n: int, k: int, batch: int, tile: GemmTile, target: Target) -> float:
    """Modelled time of the arithmetic: whole tiles, dealt out to the multiprocessors, at the rate that the
    instruction mix and the warps in flight allow, plus the latency of the steps that nothing hides."""
    blocks = -(-m // tile.m) * -(-n // tile.n) * batch
    per_processor = -(-blocks // target.threads)
    resident = min(per_processor, 2048 // max(tile.threads, 64), 16)
    warps = resident * tile.threads / WARP
    products = tile.rm * tile.rn
    loads = (tile.rm + tile.rn) / 4  # float4 reads of shared memory
    copies = 12 * (tile.m + tile.n) / tile.lanes  # address, load and store of each element, shared by a slice
    rate = target.gflops_per_core * 1e9 * products / (products + loads + copies) * min(1.0, warps / 4)
    steps = -(-k // (tile.k * tile.slices))
    waiting = (steps + (tile.slices > 1)) * STEP_SECONDS * -(-per_processor // resident)
    return waiting + per_processor * 2.0 * tile.m * tile.n * steps * tile.k * tile.slices / rate


# An operand: (batch, k, row or column) --> the conditions under which it may be read (else it is zero), and its value.
# The right operand of grouped rows takes the group before k.
Operand = Callable[..., tuple[list[Any], Any]]


def define_product(
    extents: tuple[Any, Any, int, Any], tile: GemmTile, left: Operand, right: Operand, groups: int = 1
) -> te.Tensor:
    """te stages of flat[b, m, n] = sum_k left[b, k, m] * right[b, group of m, k, n].

    `extents` is (b, m, k, n); b, m and n may be symbolic. Tiles are stages of whole size, so the inner loops need no
    predicate: outside the operands they hold zeros. "flat" only renames indices and is inlined by the schedule.
    """
    from tvm import te

    k = extents[2]
    b, m, n = (extent(extents[i]) for i in (0, 1, 3))
    length = -(-k // (tile.k * tile.slices)) * tile.k  # depth of a slice
    whole = length * tile.slices == k
    tm, tn, depth, slices = const(tile.m), const(tile.n), const(length), const(tile.slices)
    rows, columns = extent(ceil_div(m, tile.m)), extent(ceil_div(n, tile.n))
    tiles_in_group = ceil_div(m, tile.m * groups)

    def fetch(operand: Operand, limit: Any, size: int) -> Callable[..., Any]:
        def at(*index: Any) -> Any:
            *outer, block, part, step, inner = index
            position, kk = block * const(size) + inner, part * depth + step
            conditions, value = operand(*outer, kk, position)
            tails = [] if divisible(limit, size) else [position < limit]
            if not whole:
                tails.append(kk < const(k))
            return guard([*tails, *conditions], value)

        return at

    lefts = te.compute((b, rows, slices, depth, tm), fetch(left, m, tile.m), name="left")
    rights = te.compute((b, const(groups), columns, slices, depth, tn), fetch(right, n, tile.n), name="right")
    axis = te.reduce_axis((const(0), depth), name="k")

    def product(bb: Any, mb: Any, nb: Any, part: Any, mi: Any, ni: Any) -> Any:
        group = mb // extent(tiles_in_group) if groups > 1 else const(0)
        return te.sum(lefts[bb, mb, part, axis, mi] * rights[bb, group, nb, part, axis, ni], axis=[axis])

    acc = te.compute((b, rows, columns, slices, tm, tn), product, name="acc")
    if tile.slices == 1:
        return te.compute((b, m, n), lambda bb, i, j: acc[bb, i // tm, j // tn, 0, i % tm, j % tn], name="flat")
    part = te.reduce_axis((const(0), slices), name="slice")
    total = te.compute(
        (b, rows, columns, tm, tn),
        lambda bb, mb, nb, mi, ni: te.sum(acc[bb, mb, nb, part, mi, ni], axis=[part]),
        name="total",
    )
    return te.compute((b, m, n), lambda bb, i, j: total[bb, i // tm, j // tn, i % tm, j % tn], name="flat")


def schedule_product(
    sch: Schedule, loops: tuple[Any, Any, Any], tile: GemmTile, left_along_k: bool, right_along_k: bool
) -> None:
    """Schedule block "out", whose loops (g, m, n) are given, with the stages of `define_product`.

    `left_along_k` and `right_along_k` say along which axis neighbouring threads copy an operand: the one that is
    contiguous in memory.
    """
    sch.compute_inline("flat")
    g, m, n = loops
    block_m, thread_m, inner_m = sch.split(m, [None, tile.m // tile.rm, tile.rm])
    block_n, thread_n, inner_n = sch.split(n, [None, tile.n // tile.rn, tile.rn])
    sch.reorder(g, block_m, block_n, thread_m, thread_n, inner_m, inner_n)
    thread = sch.fuse(thread_m, thread_n)
    sch.bind(g, "blockIdx.z")
    sch.bind(block_m, "blockIdx.y")
    sch.bind(block_n, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    acc = sch.get_sblock("acc")
    if tile.slices == 1:
        sch.set_scope(acc, 0, "local")
        sch.compute_at(acc, thread, preserve_unit_loops=True)
        mi, ni, k = sch.get_loops(acc)[-3:]
    else:
        part, inner = sch.split(sch.fuse(inner_m, inner_n), [tile.slices, None])
        sch.bind(part, "threadIdx.y")
        total = sch.get_sblock("total")
        sch.set_scope(total, 0, "local")
        sch.compute_at(total, inner, preserve_unit_loops=True)
        copy = sch.cache_write(acc, 0, "local")
        sch.set_scope(copy, 0, "shared")
        sch.compute_at(copy, block_n, preserve_unit_loops=True)
        *_, part, mi, ni = sch.get_loops(copy)
        thread_m, mi = sch.split(mi, [tile.m // tile.rm, tile.rm])
        thread_n, ni = sch.split(ni, [tile.n // tile.rn, tile.rn])
        sch.reorder(part, thread_m, thread_n, mi, ni)
        thread = sch.fuse(thread_m, thread_n)
        sch.bind(part, "threadIdx.y")
        sch.bind(thread, "threadIdx.x")
        sch.set_scope(acc, 0, "local")
        sch.compute_at(acc, thread, preserve_unit_loops=True)
        mi, ni, k = sch.get_loops(acc)[-3:]
    ko, ki = sch.split(k, [None, tile.k])
    sch.reorder(ko, ki, mi, ni)
    for loop in (ki, mi, ni):
        sch.unroll(loop)
    _copy_to_shared(sch, "left", ko, tile, left_along_k)
    _copy_to_shared(sch, "right", ko, tile, right_along_k)
    sch.decompose_reduction(acc, ko)


def _copy_to_shared(sch: Schedule, name: str, ko: Any, tile: GemmTile, along_k: bool) -> None:
    """All threads of a block copy one tile, neighbours along the axis that is contiguous in global memory."""
    block = sch.get_sblock(name)
    sch.set_scope(block, 0, "shared")  # before compute_at, so that the tile covers all threads of the block
    sch.compute_at(block, ko, preserve_unit_loops=True)
    part, k, inner = sch.get_loops(block)[-3:]
    if along_k:
        sch.reorder(part, inner, k)
        # Rows 4 apart modulo the 32 banks: neighbours along k write to different banks, float4 reads stay aligned.
        sch.storage_align(block, 0, axis=-2, factor=32, offset=4)  # as _padded says
        fused = sch.fuse(part, inner, k)
    else:
        fused = sch.fuse(part, k, inner)
    step, group, thread = sch.split(fused, [None, tile.slices, tile.lanes])
    if tile.slices > 1:
        sch.bind(group, "threadIdx.y")
    sch.bind(thread, "threadIdx.x")
    sch.unroll(step)
