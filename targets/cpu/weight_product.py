"""Weight gradients of dense layers: y[m, c] = sum_n a[n, m] * b[n, c], all as they lie, few terms for many results.

A register tile is some rows by some vectors of columns; the columns that are left make narrower vectors. Nothing is
packed: the terms are the images of a batch, and the time is that of writing the results and what is made of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cnncc.ir.layout import PLAIN
from cnncc.targets.algorithm import Algorithm, Cost, Layouts
from cnncc.targets.cpu import common
from cnncc.targets.cpu.tiling import FORK_SECONDS, PER_LOOP, PER_TILE, ceil_div, memory_seconds, registers, step_time
from cnncc.targets.problem import MatmulDwProblem
from cnncc.targets.target import Target

MOST = 4  # vectors of a register tile
PARALLEL_BYTES = 128 << 10  # of results: below this, waking the other threads costs more than they save


@dataclass(frozen=True)
class ProductTile:
    """A register tile is `rows` by `vectors` of `lanes` columns. `parallel`: rows run on the threads."""

    rows: int
    vectors: int
    lanes: int
    parallel: bool


def applies(p: MatmulDwProblem, target: Target) -> str | None:
    """Why not, or None: float32."""
    return None if p.dtype == "f32" else f"it is for f32, got {p.dtype}"


def layouts(p: MatmulDwProblem, target: Target) -> Layouts:
    """All as they are."""
    return Layouts(w=PLAIN)


def tiles_for(p: MatmulDwProblem, target: Target) -> ProductTile:
    """The register tile with the least time for a result; ties go to the first."""
    lanes = target.lanes()
    parallel = target.threads > 1 and 4 * p.m * p.c >= PARALLEL_BYTES
    most = max(1, min(MOST, p.c // lanes))
    sizes = [
        (rows, v)
        for v in range(1, most + 1)
        for rows in range(1, min(12, p.m) + 1)
        if rows == 1 or registers(rows, v, target) <= target.vector_registers
    ]
    rows, vectors = min(sizes, key=lambda size: ceil_div(p.m, size[0]) * step_time(*size) / size[1])
    return ProductTile(rows, vectors, lanes, parallel)


def cost(p: MatmulDwProblem, target: Target, tile: ProductTile) -> Cost:
    """Time of the register tiles, or memory's."""
    tiles = ceil_div(p.m, tile.rows) * ceil_div(p.c, tile.vectors * tile.lanes)
    per_tile = p.terms * step_time(tile.rows, tile.vectors) + PER_LOOP + PER_TILE * tile.rows * tile.vectors
    threads = target.threads if tile.parallel else 1
    unit = tile.lanes * 2 / (target.rate(tile.lanes) * 1e9)
    busy = tiles * per_tile * unit / threads + (FORK_SECONDS if tile.parallel else 0.0)
    moved = 4.0 * (p.terms * (p.m + p.c) + p.m * p.c)
    return Cost(max(busy, memory_seconds(target, moved)), 2.0 * p.macs, moved)


def define(p: MatmulDwProblem, tile: ProductTile, x: Any, w: Any, finish: common.Finish) -> Any:
    """One stage, "out"; `x` is a, `w` is b."""
    from tvm import te, tirx

    extents = common.shape(p.m, p.c)
    terms = common.i64(p.n) if isinstance(p.n, int) else x.shape[0]

    def body(read: Any, written: Any) -> Any:
        return _kernel(p, tile, terms, read[0], read[1], written[0], finish)

    buffers = [tirx.decl_buffer(tensor.shape, tensor.dtype, tensor.op.name) for tensor in (x, w)]
    return te.extern([extents], [x, w], body, "out", "float32", buffers, [tirx.decl_buffer(extents, "float32", "out")])


def _kernel(p: MatmulDwProblem, tile: ProductTile, terms: Any, a: Any, b: Any, out: Any, finish: common.Finish) -> Any:
    from tvm import tirx

    from cnncc.targets.cpu.loops import Loops

    code, i64 = Loops(), common.i64
    zero = tirx.const(0.0, "float32")

    def block(row: Any, rows: int, column: Any, vectors: int, lanes: int) -> None:
        """One register tile."""
        sums = code.local("sums", rows * vectors, lanes)
        places = [(r, v) for v in range(vectors) for r in range(rows)]
        for r, v in places:

            def clear(let: Any, lane: Any, r: int = r, v: int = v) -> None:
                code.store(sums, zero, r * vectors + v, lane)

            code.vector(lanes, clear)
        with code.loop(terms, "n") as n:
            for v in range(vectors):

                def products(let: Any, lane: Any, v: int = v) -> None:
                    term = let(b[n, column + i64(v * lanes) + lane])
                    for r in range(rows):
                        at = (r * vectors + v, lane)
                        code.store(sums, sums[at] + a[n, row + i64(r)] * term, *at)

                code.vector(lanes, products)
        for r, v in places:

            def result(let: Any, lane: Any, r: int = r, v: int = v) -> None:
                index = row + i64(r), column + i64(v * lanes) + lane
                code.store(out, finish(sums[r * vectors + v, lane], index), *index)

            code.vector(lanes, result)

    def columns(row: Any, rows: int) -> None:
        """All columns of some rows: whole tiles, whole vectors, then halves of vectors and so on."""
        whole = tile.vectors * tile.lanes
        with code.loop(p.c // whole, "column") as column:
            block(row, rows, column * i64(whole), tile.vectors, tile.lanes)
        begin, lanes = p.c // whole * whole, tile.lanes
        while begin < p.c:
            while p.c - begin < lanes:
                lanes //= 2
            vectors = (p.c - begin) // lanes
            block(row, rows, i64(begin), vectors, lanes)
            begin += vectors * lanes

    tiles, rest = divmod(p.m, tile.rows)
    with code.loop(tiles, "row", parallel=tile.parallel) as row:
        columns(row * i64(tile.rows), tile.rows)
    if rest:
        columns(i64(tiles * tile.rows), rest)
    return code.finish()


ALGORITHM = Algorithm(
    name="weight_product",
    op="matmul_dw",
    applies=applies,
    layouts=layouts,
    tiles_for=tiles_for,
    cost=cost,
    define=define,
)
