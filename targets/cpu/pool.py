"""Max and average pooling: every output is one expression over the taps of its window.

Blocked layout (aBcd16b): vectors run over the channels of a block, so borders cost scalar index arithmetic only. Plain
layout: vectors run over the columns between the borders. A tap that falls outside reads the nearest element inside or,
where that could change the result, is the neutral element; TVM's simplifier drops both between the borders.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, Literal

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
_ROW_BYTES = 64 << 10  # of stack
_PARALLEL_BYTES = 128 << 10  # below this, waking the other threads costs more than they save


@dataclass(frozen=True)
class PoolTile:
    """`block`: channels in a vector (1: plain layout). `form`: how a window is combined: "taps", one expression of all;
    "rows", a row of the input's width first, then along it; "window", a loop over the taps."""

    block: int
    form: Literal["taps", "rows", "window"]


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


def maximum(a: Any, b: Any, dtype: str) -> Any:
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
    r = len(p.size)
    rank = 2 + r
    layout = channels(tile.block)
    lowest = tirx.const(float("-inf"), dtype) if p.dtype in _FLOATS else tirx.min_value(dtype)
    neutral = lowest if p.op == "max" else tirx.const(0, sums)

    def extents(*sizes: int) -> tuple[Any, ...]:
        shape = layout.physical((0, p.c, *sizes))
        return (x.shape[0], *(tirx.const(d, "int64") for d in shape[1:]))

    def read(*index: Any) -> Any:
        value = x(*layout.index(index))
        return value if sums == dtype else tirx.Cast(sums, value)

    def tap(source: Callable[..., Any], axes: Sequence[int], index: tuple[Any, ...], k: tuple[Any, ...]) -> Any:
        """The element of a source under tap k of the axes; elsewhere it is indexed as the result."""
        near, there, valid = list(index), list(index), []
        for a, at_tap in zip(axes, k, strict=True):
            near[2 + a], there[2 + a], inside = _place(p, a, index[2 + a], at_tap)
            valid += inside
        if not valid or (p.op == "max" and _touches(p)):
            return source(*near)
        if source is read:  # not a Select: the simplifier takes its condition for granted, and the index leaves memory
            return tirx.if_then_else(tirx.all(*valid), source(*there), neutral)
        return tirx.Select(
            tirx.all(*(i.equal(j) for i, j in zip(near, there, strict=True) if i is not j)), source(*near), neutral
        )

    def combine(a: Any, b: Any) -> Any:
        return maximum(a, b, p.dtype) if p.op == "max" else a + b

    def over(source: Callable[..., Any], axes: Sequence[int], index: tuple[Any, ...]) -> Any:
        """The taps of some axes combined, as one expression."""
        taps = [tap(source, axes, index, k) for k in product(*(range(p.kernel[a]) for a in axes))]
        return functools.reduce(combine, taps)

    def outermost(index: tuple[Any, ...], value: Any) -> Any:
        if p.op == "average":
            quotient = value / tirx.Cast(sums, tirx.convert(_count(p, index[2:])))
            value = quotient if sums == dtype else tirx.Cast(dtype, quotient)
        result = finish(value, index)
        if p.c % tile.block:  # the padding of the last block stays zero
            result = tirx.if_then_else(index[1] < p.c, result, tirx.const(0, result.ty.dtype))
        return result

    def stage(name: str, sizes: Sequence[int], body: Callable[[tuple[Any, ...]], Any]) -> Any:
        return te.compute(extents(*sizes), lambda *i: body(layout.logical(i, rank)), name=name)

    every = range(r)
    if tile.form == "rows":
        rows = stage("rows", (*p.out[:-1], p.size[-1]), lambda index: over(read, every[:-1], index))
        return stage("out", p.out, lambda index: outermost(index, over(rows, every[-1:], index)))
    if tile.form == "taps":
        return stage("out", p.out, lambda index: outermost(index, over(read, every, index)))
    axes = [
        te.reduce_axis((tirx.const(0, "int64"), tirx.const(k, "int64")), name=f"k{a}") for a, k in enumerate(p.kernel)
    ]
    reducer = te.comm_reducer(combine, lambda t: neutral, name="combine")
    at = tuple(a.var for a in axes)
    window = stage("window", p.out, lambda index: reducer(tap(read, every, index, at), axis=axes))
    return stage("out", p.out, lambda index: outermost(index, window(*layout.index(index))))


def _place(p: PoolProblem, axis: int, position: Any, tap: Any) -> tuple[Any, Any, list[Any]]:
    """Where a tap lies along an axis: moved inside the input, as it is, and the conditions for being inside."""
    from tvm import tirx

    at = position * p.strides[axis] - p.pads[axis] + tap * p.dilations[axis]
    low, high = _range(p, axis)
    inside = [at >= 0] if low > 0 else []
    if high < p.out[axis]:
        inside.append(at < p.size[axis])
    near = tirx.max(tirx.min(at, tirx.const(p.size[axis] - 1, "int64")), tirx.const(0, "int64")) if inside else at
    return near, at, inside


def _schedule(sch: Any, p: PoolProblem, tile: PoolTile, target: Target) -> None:
    out = sch.get_sblock("out")
    r = len(p.size)
    *outer, column = sch.get_loops(out)[: 2 + r]
    lanes = sch.get_loops(out)[2 + r :]
    row = sch.fuse(*outer)
    if tile.form == "rows":
        rows = sch.get_sblock("rows")
        sch.compute_at(rows, row)
        sch.set_scope(rows, 0, "local")
    if tile.form == "window":
        window = sch.get_sblock("window")
        sch.compute_at(window, column)
        sch.set_scope(window, 0, "local")
    if target.threads > 1 and _moved(p) >= _PARALLEL_BYTES:
        sch.parallel(row)
    if lanes and p.c % tile.block == 0:
        sch.vectorize(lanes[0])
    if tile.form == "window":
        steps = sch.get_loops(window)[2:]
        if lanes:
            sch.reorder(*steps[1:], steps[0])
            sch.vectorize(steps[0])
        init = sch.decompose_reduction(window, sch.get_loops(window)[2])
        if lanes:
            sch.vectorize(sch.get_loops(init)[-1])
        return
    low, high = _range(p, r - 1)
    parts = [n for n in (low, high - low, p.out[-1] - high) if n > 0]
    if len(parts) > 1 and tile.form == "taps":
        sch.loop_partition(column, [*parts[:-1], None])


def _moved(p: PoolProblem) -> int:
    """Bytes read and written at the batch that decisions assume."""
    batch = p.n if isinstance(p.n, int) else p.hint
    return batch * p.c * (prod(p.size) + prod(p.out)) * _SIZES[p.dtype]


def _blocked_tile(p: PoolProblem, target: Target) -> PoolTile:
    return PoolTile(target.block, "taps" if prod(p.kernel) <= _UNROLLED_TAPS else "window")


def _plain_tile(p: PoolProblem, target: Target) -> PoolTile:
    """Windows of several rows: first along the columns of whole rows, then along a row."""
    apart = prod(p.kernel[:-1]) <= _UNROLLED_TAPS and p.kernel[-1] <= _UNROLLED_TAPS
    if prod(p.kernel[:-1]) > 1 and apart and p.size[-1] * 8 <= _ROW_BYTES:
        return PoolTile(1, "rows")
    return PoolTile(1, "taps" if prod(p.kernel) <= _UNROLLED_TAPS else "window")


def _scratch(p: PoolProblem, target: Target, tile: PoolTile) -> int:
    """A row, or one result, in the type of the sums."""
    itemsize = max(4 if p.op == "average" else 1, _SIZES[p.dtype])
    return {"taps": 0, "rows": p.size[-1] * itemsize, "window": tile.block * itemsize}[tile.form]


def _layouts(layout_of: Callable[[Target], Layout]) -> Callable[[PoolProblem, Target], Layouts]:
    return lambda p, target: Layouts(layout_of(target), None, layout_of(target))


def _error(p: PoolProblem, target: Target) -> float:
    """Averages differ from the definition in the order of the sum only."""
    return {"f32": 1e-6, "f64": 1e-14, "f16": 1e-3, "bf16": 8e-3}.get(p.dtype, 0.0)


pool_blocked = Algorithm(
    name="pool_blocked",
    op="pool",
    applies=_applies_blocked,
    layouts=_layouts(lambda target: channels(target.block)),
    tiles_for=_blocked_tile,
    cost=_cost,
    define=_define,
    schedule=_schedule,
    scratch=_scratch,
    error_bound=_error,
    prologue=True,
)
pool_plain = Algorithm(
    name="pool_plain",
    op="pool",
    applies=_applies,
    layouts=_layouts(lambda target: PLAIN),
    tiles_for=_plain_tile,
    cost=_cost,
    define=_define,
    schedule=_schedule,
    scratch=_scratch,
    error_bound=_error,
    prologue=True,
)
