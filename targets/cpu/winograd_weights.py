"""Weights transformed for Winograd's convolution at run time, while a network is trained.

    u[o, a, b, (d,) i] = sum_{k, l} G[a, k] w[o, i, (d,) k, l] H[b, l]

Output channels are the lanes of a vector. The weights may be turned round on the way (`x` is then what does it), so
that the data gradient's cost no pass of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from cnncc.ir.layout import PLAIN, Layout
from cnncc.ops.winograd_matrices import axes, combine, matrices, side
from cnncc.targets.algorithm import Algorithm, Cost, Layouts
from cnncc.targets.cpu import common
from cnncc.targets.problem import WinogradWeightsProblem
from cnncc.targets.target import Target

PER_LOAD = 16.0  # operations of a vector whose elements lie apart, for 16 lanes
PER_SUM = 3.0  # of an element of a tile along one axis
PARALLEL_BYTES = 64 << 10


@dataclass(frozen=True)
class WeightsTile:
    """`lanes` channels of a `block` are a vector. `parallel`: blocks run on the threads."""

    block: int
    lanes: int
    parallel: bool


def _tiles(p: WinogradWeightsProblem) -> list[Any]:
    """The matrix G of every transformed axis."""
    taps = p.kernel[-axes(len(p.kernel)) :]
    return [matrices(side(p.m, k), k)[2] for k in taps]


def applies(p: WinogradWeightsProblem, target: Target) -> str | None:
    """Why not, or None: float32."""
    return None if p.dtype == "f32" else f"weights are transformed for f32, got {p.dtype}"


def layouts(p: WinogradWeightsProblem, target: Target) -> Layouts:
    """Plain weights; blocks of both channels, output channels innermost."""
    b = target.block
    return Layouts(PLAIN, None, Layout(((len(p.kernel) + 1, b), (0, b))))


def _bytes(p: WinogradWeightsProblem) -> float:
    points = math.prod(len(g) for g in _tiles(p)) * math.prod(p.kernel[: -len(_tiles(p))])
    return 4.0 * p.oc * p.ic * (math.prod(p.kernel) + points)


def tiles_for(p: WinogradWeightsProblem, target: Target) -> WeightsTile:
    """Whole vectors; in parallel where there is enough to do."""
    parallel = target.threads > 1 and _bytes(p) >= PARALLEL_BYTES
    return WeightsTile(target.block, min(target.block, target.lanes()), parallel)


def cost(p: WinogradWeightsProblem, target: Target, tile: WeightsTile) -> Cost:
    """Time of the loads and sums, or memory's: what is written is read before it is written."""
    sizes = [len(g) for g in _tiles(p)]
    depth = math.prod(p.kernel[: -len(sizes)])
    operations = math.prod(p.kernel) * PER_LOAD + depth * math.prod(sizes) * PER_SUM * len(sizes)
    vectors = p.oc * p.ic / tile.lanes
    threads = target.threads if tile.parallel else 1
    busy = vectors * operations * tile.lanes * 2 / (target.rate(tile.lanes) * 1e9 * threads)
    moved = 2 * _bytes(p)
    return Cost(max(busy, moved / (target.gbytes_per_second * 1e9)), 0.0, moved)


def define(p: WinogradWeightsProblem, tile: WeightsTile, x: Any, w: Any, finish: common.Finish) -> Any:
    """One stage, "out". `x` is called with indices of [oc, ic, *kernel]."""
    from tvm import te, tirx

    b, sizes = tile.block, [len(g) for g in _tiles(p)]
    lead = p.kernel[: -len(sizes)]
    extents = common.shape(-(-p.oc // b), *sizes, *lead, -(-p.ic // b), b, b)

    def body(read: Any, written: Any) -> Any:
        return _kernel(p, tile, x, written[0], finish)

    return te.extern([extents], [], body, "out", "float32", [], [tirx.decl_buffer(extents, "float32", "out")])


def _kernel(p: WinogradWeightsProblem, tile: WeightsTile, x: Any, out: Any, finish: common.Finish) -> Any:
    from tvm import tirx

    from cnncc.targets.cpu.loops import Loops

    code, i64, b = Loops(), common.i64, tile.block
    transforms = _tiles(p)
    lead, taps = p.kernel[: -len(transforms)], p.kernel[-len(transforms) :]
    rows, columns = -(-p.oc // b), -(-p.ic // b)
    with code.loop(rows * columns, "task", parallel=tile.parallel) as task:
        row, column = code.named(task // i64(columns), "o"), code.named(task % i64(columns), "c")
        with code.loop(b, "i") as inner, code.loop(math.prod(lead), "d") as number:
            depth = [number] if lead else []
            at_i = column * i64(b) + inner
            for first in range(0, b, tile.lanes):

                def write(let: Any, lane: Any, first: int = first) -> None:
                    within = i64(first) + lane
                    at_o = row * i64(b) + within
                    inside = [at_o < i64(p.oc)] * bool(p.oc % b) + [at_i < i64(p.ic)] * bool(p.ic % b)

                    def read(*tap: int) -> Any:
                        value = x(at_o, at_i, *depth, *(i64(t) for t in tap))
                        if inside:
                            value = tirx.if_then_else(tirx.all(*inside), value, tirx.const(0.0, "float32"))
                        return let(value)

                    for place, value in _transformed(transforms, taps, read, let):
                        index = (*(i64(a) for a in place), *depth)
                        made = finish(value, (at_o, *index, at_i))
                        code.store(out, made, row, *index, column, inner, within)

                code.vector(tile.lanes, write)
    return code.finish()


def _transformed(
    transforms: list[Any], taps: tuple[int, ...], read: Any, let: Any
) -> list[tuple[tuple[int, ...], Any]]:
    """The elements of a tile with their places."""
    if len(transforms) == 1:
        made = combine(transforms[0], [read(t) for t in range(taps[0])])
        return [((a,), value) for a, value in enumerate(made)]
    first, second = transforms
    given = [[read(k, l) for l in range(taps[1])] for k in range(taps[0])]
    halves = [[let(v) for v in combine(first, list(line))] for line in zip(*given, strict=True)]  # [l][a]
    return [
        ((a, c), value)
        for a in range(len(first))
        for c, value in enumerate(combine(second, [line[a] for line in halves]))
    ]


ALGORITHM = Algorithm(
    name="winograd_weights",
    op="winograd_weights",
    applies=applies,
    layouts=layouts,
    tiles_for=tiles_for,
    cost=cost,
    define=define,
    prologue=True,
)
