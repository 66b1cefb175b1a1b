"""1x1 convolution of stride 1: a matrix product over pixels, whatever rows they stand in.

out[n, o, q, b] = sum_{c, a} x[n, c, q, a] * w[o, c, a, b] with q over all spatial axes as one: a register tile need not
end where a row does. Otherwise it is the direct convolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cnncc.targets.cpu import common, direct
from cnncc.targets.cpu.tiled import Tiled
from cnncc.targets.cpu.tiling import ConvTile, ceil_div
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target


def applies(problem: ConvProblem, target: Target) -> str | None:
    """Why not, or None: kernel and strides of 1, no pads, more than one spatial axis; and what direct asks for."""
    if any(k != 1 for k in problem.kernel) or any(s != 1 for s in problem.strides) or any(problem.pads):
        return f"a pointwise convolution has kernel and stride 1 and no pads, got {problem}"
    if problem.rank == 1:
        return "with one spatial axis the direct convolution is the same"
    return direct.applies(problem, target)


def flat(problem: ConvProblem) -> ConvProblem:
    """The problem with its spatial axes as one."""
    return replace(problem, size=(math.prod(problem.size),), kernel=(1,), strides=(1,), pads=(0, 0), dilations=(1,))


def define(problem: ConvProblem, tile: ConvTile, x: Any, w: Any, finish: common.Finish) -> Any:
    """Stages "acc", "out"."""
    i64, extents = common.i64, problem.size

    def read(n: Any, c: Any, q: Any, a: Any) -> Any:
        places = []
        for extent in reversed(extents[1:]):
            places.append(q % i64(extent))
            q = q // i64(extent)
        return x(n, c, q, *reversed(places), a)

    return product(problem, tile, common.batch_of(problem, x), read, w, finish)


def product(problem: ConvProblem, tile: ConvTile, n: Any, source: Any, w: Any, finish: common.Finish) -> Any:
    """Stages "acc", "out" for an input with the spatial axes as one."""
    from tvm import te

    i64, b, extents = common.i64, tile.block, problem.size

    def weight(o: Any, c: Any, _: Any, a: Any, lane: Any) -> Any:
        return w(o, c, *(i64(0) for _ in extents), a, lane)

    acc = direct.accumulate(flat(problem), tile, n, source, weight)

    def out(n: Any, o: Any, *rest: Any) -> Any:
        *place, lane = rest
        value = common.of_block(acc, b)(n, o, _joined(place, extents), lane)
        return finish(value, (n, o * i64(b) + lane, *place))

    return te.compute(common.shape(n, ceil_div(problem.oc, b), *extents, b), out, name="out")


def _joined(place: Sequence[Any], extents: Sequence[int]) -> Any:
    """A place along each axis as the pixel's number."""
    q = place[0]
    for index, extent in zip(place[1:], extents[1:], strict=True):
        q = q * common.i64(extent) + index
    return q


def schedule(sch: Any, problem: ConvProblem, tile: ConvTile, target: Target) -> None:
    """The loops of "out" become those of the flat problem, then `common.schedule_tile`."""
    from tvm.tirx import IndexMap

    def flatten(n: Any, o: Any, *rest: Any) -> tuple[Any, ...]:
        return n, o, _joined(rest[:-1], problem.size), rest[-1]

    sch.transform_block_layout("out", IndexMap.from_func(flatten, ndim=problem.rank + 3, index_dtype="int64"))
    common.schedule_tile(sch, flat(problem), tile)


ALGORITHM = Tiled(direct.reduction, lambda problem, block: flat(problem)).algorithm(
    "pointwise", applies=applies, layouts=direct.layouts, define=define, schedule=schedule
)
