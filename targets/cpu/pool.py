"""Max and average pooling: every output is one expression over the taps of its window.

Blocked layout (aBcd16b): vectors run over the channels of a block, so borders cost scalar index arithmetic only. Plain
layout: vectors run over the columns between the borders. A tap that falls outside reads the nearest element inside and,
where that could change the result, is replaced by the neutral element; TVM's simplifier drops both between the borders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from cnncc.ir.layout import PLAIN, Layout, channels
from cnncc.targets.algorithm import Algorithm, Cost, Layouts
from cnncc.targets.problem import PoolProblem
from cnncc.targets.target import Target

_DTYPES = {
    "f32": "float32",
    "f64": "float64",
    "f16": "float16",
    "bf16": "bfloat16",
    "i8": "int8",
    "u8": "uint8",
    "i32": "int32",
    "i64": "int64",
}
_FLOATS = ("f32", "f64", "f16", "bf16")
_SIZES = {"f64": 8, "i64": 8, "f32": 4, "i32": 4, "f16": 2, "bf16": 2, "i8": 1, "u8": 1}
_UNROLLED_TAPS = 49  # a window with more taps becomes a loop over them
_PARALLEL_BYTES = 128 << 10  # below this, waking the other threads costs more than they save


@dataclass(frozen=True)
class PoolTile:
    """`block`: channels in a vector (1: plain layout). `unrolled`: the window is one expression, not a loop."""

    block: int
    unrolled: bool


def _range(p: PoolProblem, axis: int) -> tuple[int, int]:
    """Outputs [low, high) of an axis whose window lies wholly inside the input."""
    r = len(p.size)
    s, d, k = p.strides[axis], p.dilations[axis], p.kernel[axis]
    low = -(-p.pads[axis] // s)
    high = (p.size[axis] - 1 - d * (k - 1) + p.pads[axis]) // s + 1
    low = min(low, p.out[axis])
    assert len(p.pads) == 2 * r
    return low, max(low, min(high, p.out[axis]))


def _touches(p: PoolProblem) -> bool:
    """Every window holds the input element nearest to each of its outside taps, so that clamping suits max."""
    for a, size in enumerate(p.size):
        last = (p.out[a] - 1) * p.strides[a] - p.pads[a]
        if p.dilations[a] != 1 or p.pads[a] >= p.kernel[a] or last >= size:
            return False
    return True


def _applies(p: PoolProblem, target: Target) -> str | None:
    if p.dtype not in _DTYPES:
        return f"pooling has no kernel for {p.dtype}"
    if p.op == "average" and p.dtype not in _FLOATS:
        return f"average pooling is defined for floating types, got {p.dtype}"
    return None


def _applies_blocked(p: PoolProblem, target: Target) -> str | None:
    if p.dtype not in ("f32", "f64", "i32"):
        return f"blocked pooling is for 32- and 64-bit types, got {p.dtype}"
    return _applies(p, target)


def _cost(p: PoolProblem, target: Target, tile: PoolTile) -> Cost:
    batch = p.n if isinstance(p.n, int) else p.hint
    planes = batch * (-(-p.c // tile.block) * tile.block)
    taps = prod(p.kernel)
    moved = planes * (prod(p.size) + prod(p.out)) * _SIZES[p.dtype]
    work = float(planes * prod(p.out) * taps)
    lanes = target.lanes(_SIZES[p.dtype])
    # a vector step per tap, two a cycle; strided columns of the plain layout need shuffles
    slowdown = 1.0 if tile.block > 1 or p.strides[-1] == 1 else 4.0
    per_second = target.threads * 3e9 * lanes / slowdown
    return Cost(max(moved / (target.gbytes_per_second * 1e9), work / per_second), work, moved)


def _maximum(a: Any, b: Any, dtype: str) -> Any:
    """max(a, b), NaN where either is."""
    from tvm import tirx

    a = tirx.convert(a)
    if dtype not in _FLOATS:
        return tirx.max(a, b)
    v = tirx.Var("m", a.ty)
    ordered = v <= tirx.const(float("inf"), a.ty.dtype)  # not v == v: TVM simplifies that to true
    return tirx.Let(v, a, tirx.Select(ordered, tirx.max(v, b), v))  # tirx.max gives b where either is NaN


def _count(p: PoolProblem, index: tuple[Any, ...]) -> Any:
    """Taps of the window at an output index that count in the average."""
    from tvm import tirx

    r = len(p.size)
    total: Any = 1
    for a in range(r):
        k, d = p.kernel[a], p.dilations[a]
        low, high = _range(p, a)
        begin = index[a] * p.strides[a] - p.pads[a]
        if p.include_pad:
            if (p.out[a] - 1) * p.strides[a] + d * (k - 1) < p.size[a] + p.pads[a] + p.pads[r + a]:
                inside: Any = k
            else:
                inside = tirx.min(k, tirx.floordiv(p.size[a] + p.pads[r + a] - begin + d - 1, d))
        elif (low, high) == (0, p.out[a]):
            inside = k
        else:
            first = tirx.max(0, tirx.floordiv(d - 1 - begin, d))
            inside = tirx.min(k, tirx.floordiv(p.size[a] - begin + d - 1, d)) - first
        total = total * inside
    return total


def _define(p: PoolProblem, tile: PoolTile, x: Any, w: Any, finish: Callable[[Any, tuple[Any, ...]], Any]) -> Any:
    from tvm import te, tirx

    dtype = _DTYPES[p.dtype]
    sums = dtype if p.op == "max" or p.dtype == "f64" else "float32"
    touches = _touches(p)
    r = len(p.size)
    layout = channels(tile.block)
    taps = list(product(*(range(k) for k in p.kernel)))
    lowest = tirx.const(float("-inf"), dtype) if p.dtype in _FLOATS else tirx.min_value(dtype)

    def const(v: int) -> Any:
        return tirx.const(v, "int64")

    def tap(index: tuple[Any, ...], k: tuple[Any, ...]) -> Any:
        place, valid = [], []
        for a in range(r):
            at = index[2 + a] * p.strides[a] - p.pads[a] + k[a] * p.dilations[a]
            low, high = _range(p, a)
            if low > 0:
                valid.append(at >= 0)
            if high < p.out[a]:
                valid.append(at < p.size[a])
            if low > 0 or high < p.out[a]:
                at = tirx.max(tirx.min(at, const(p.size[a] - 1)), const(0))
            place.append(at)
        value = x(*layout.index((index[0], index[1], *place)))
        if valid and not (p.op == "max" and touches):
            neutral = lowest if p.op == "max" else tirx.const(0, dtype)
            value = tirx.Select(tirx.all(*valid), value, neutral)
        return value if sums == dtype else tirx.Cast(sums, value)

    def average(total: Any, index: tuple[Any, ...]) -> Any:
        if p.op == "max":
            return total
        quotient = total / tirx.Cast(sums, tirx.convert(_count(p, index[2:])))
        return quotient if sums == dtype else tirx.Cast(dtype, quotient)

    def combine(a: Any, b: Any) -> Any:
        return _maximum(a, b, p.dtype) if p.op == "max" else a + b

    def unrolled(index: tuple[Any, ...]) -> Any:
        total = tap(index, taps[0])
        for k in taps[1:]:
            total = combine(total, tap(index, k))
        return total

    def outermost(index: tuple[Any, ...], value: Any) -> Any:
        result = finish(average(value, index), index)
        if p.c % tile.block:  # the padding of the last block stays zero
            result = tirx.if_then_else(index[1] < p.c, result, tirx.const(0, result.ty.dtype))
        return result

    shape = tuple(v if i == 0 else const(v) for i, v in enumerate(layout.physical((x.shape[0], p.c, *p.out))))
    rank = 2 + r
    if tile.unrolled:
        return te.compute(
            shape,
            lambda *i: outermost(layout.logical(i, rank), unrolled(layout.logical(i, rank))),
            name="out",
        )
    axes = [te.reduce_axis((const(0), const(k)), name=f"k{a}") for a, k in enumerate(p.kernel)]
    reducer = te.comm_reducer(combine, lambda t: lowest if p.op == "max" else tirx.const(0, t), name="combine")
    window = te.compute(
        shape, lambda *i: reducer(tap(layout.logical(i, rank), tuple(a.var for a in axes)), axis=axes), name="window"
    )
    return te.compute(shape, lambda *i: outermost(layout.logical(i, rank), window(*i)), name="out")


def _schedule(sch: Any, p: PoolProblem, tile: PoolTile, target: Target) -> None:
    out = sch.get_sblock("out")
    r = len(p.size)
    loops = sch.get_loops(out)
    column = loops[1 + r]
    batch = p.n if isinstance(p.n, int) else p.hint
    wide = batch * p.c * (prod(p.size) + prod(p.out)) * _SIZES[p.dtype] >= _PARALLEL_BYTES
    if not tile.unrolled:
        window = sch.get_sblock("window")
        sch.compute_at(window, column)
        sch.set_scope(window, 0, "local")
    rows = sch.fuse(*loops[: 1 + r])
    if target.threads > 1 and wide:
        sch.parallel(rows)
    if not tile.unrolled:
        inner = sch.get_loops(window)[2:]
        if tile.block > 1:
            sch.reorder(*inner[1:], inner[0])
            sch.vectorize(inner[0])
            sch.vectorize(sch.get_loops(out)[-1])
        first = sch.get_loops(window)[2]
        init = sch.decompose_reduction(window, first)
        if tile.block > 1:
            sch.vectorize(sch.get_loops(init)[-1])
        return
    if tile.block > 1 and p.c % tile.block == 0:
        sch.vectorize(loops[-1])
    low, high = _range(p, r - 1)
    parts = [low, high - low, p.out[-1] - high]
    if sum(n > 0 for n in parts) > 1:
        sch.loop_partition(column, [*[n for n in parts if n > 0][:-1], None])


def _tiles(block_of: Callable[[Target], int]) -> Callable[[PoolProblem, Target], PoolTile]:
    return lambda p, target: PoolTile(block_of(target), prod(p.kernel) <= _UNROLLED_TAPS)


def _layouts(layout_of: Callable[[Target], Layout]) -> Callable[[PoolProblem, Target], Layouts]:
    return lambda p, target: Layouts(layout_of(target), None, layout_of(target))


def _error(dtype: str) -> float:
    """Averages differ from the definition in the order of the sum only."""
    return {"f32": 1e-6, "f64": 1e-14, "f16": 1e-3, "bf16": 8e-3}.get(dtype, 0.0)


pool_blocked = Algorithm(
    name="pool_blocked",
    op="pool",
    applies=_applies_blocked,
    layouts=_layouts(lambda target: channels(target.block)),
    tiles_for=_tiles(lambda target: target.block),
    cost=_cost,
    define=_define,
    schedule=_schedule,
    error_bound=_error,
)
pool_plain = Algorithm(
    name="pool_plain",
    op="pool",
    applies=_applies,
    layouts=_layouts(lambda target: PLAIN),
    tiles_for=_tiles(lambda target: 1),
    cost=_cost,
    define=_define,
    schedule=_schedule,
    error_bound=_error,
)
