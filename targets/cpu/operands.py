"""Operands of contractions that are guarded (padding of convolutions) or read in steps (strides) are stored once, so
that the many uses are plain loads of neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import ir, sym, tirx

from cnncc.targets.cpu.factor import blocks_of, make_loops, replace_statement, statements

_MOST = 4  # a padded copy may be so many times as large as the operand
_MOST_STEPS = 8


def store_operands(func: Any, name: str) -> Any:
    """sum of (x[e] if e inside x else 0) w[...] --> p[i] = x[i + low] if i + low inside x else 0; sum of p[e - low] w.

    Where the last index takes steps of s > 1, p has that axis as (i % s, i // s), so that neighbours lie side by side.
    For the block of this name, where its conditions are limits of single indices. Blocks of the new stages:
    "<name>_operand<k>".
    """
    inner = [blocks_of(s) for s in statements(func)]
    position = [[str(b.name_hint) for b in blocks] for blocks in inner].index([name])
    block = inner[position][0]
    analyzer = sym.Analyzer()
    for axis in block.iter_vars:
        analyzer.bind(axis.var, axis.dom)
    steps = {a.var: int(a.dom.extent) for a in block.iter_vars if isinstance(a.dom.extent, tirx.IntImm)}
    made: list[tuple[Any, _Operand]] = []

    def look(expr: Any, visitor: Any) -> None:
        if any(tvm_ffi.structural_equal(expr, old) for old, _ in made):
            return
        operand = _operand(expr, block.body.buffer, steps, analyzer, f"{name}_operand{len(made)}")
        if operand is None:
            visitor.default_visit(expr)
        else:
            made.append((expr, operand))

    tvm_ffi.structural_visit(block.body, ((ir.Call, look), (ir.TensorLoad, look)))
    if not made:
        return func

    def load_for(expr: Any, mutator: Any) -> Any:
        found = next((o.load for old, o in made if tvm_ffi.structural_equal(expr, old)), None)
        return mutator.default_mutate(expr) if found is None else found

    results = [a for a in block.iter_vars if int(a.iter_type) == 0]
    axes = [a for a in block.iter_vars if int(a.iter_type) != 0]
    replaced = tvm_ffi.structural_mutate(block.body, ((ir.Call, load_for), (ir.TensorLoad, load_for)))

    def body(s: list[Any], r: list[Any]) -> tuple[Any, Any]:
        places = dict(zip([a.var for a in (*results, *axes)], [*s, *r], strict=True))
        at = (ir.Var, lambda v: places.get(v, v))
        return tvm_ffi.structural_map(replaced, at), tvm_ffi.structural_map(block.init, at)

    again = make_loops(name, [a.dom.extent for a in results], [a.dom.extent for a in axes], body)
    nests = [operand.nest for _, operand in made]
    return replace_statement(func, position, [*nests, again], [operand.buffer for _, operand in made])


@dataclass(frozen=True)
class _Operand:
    """A stage that stores an operand, its buffer, and the load from there."""

    nest: Any
    buffer: Any
    load: Any


def _operand(expr: Any, result: Any, steps: dict[Any, int], analyzer: Any, name: str) -> _Operand | None:
    """The stored form of a guarded load, or of one with steps; None where the expression is neither."""
    condition, value, other = None, expr, None
    if isinstance(expr, ir.Call):
        if not (isinstance(expr.op, ir.Op) and expr.op.name == "prim.if_then_else"):
            return None
        condition, value, other = expr.args
        if not isinstance(other, tirx.FloatImm | tirx.IntImm):
            return None
    if not isinstance(value, ir.TensorLoad) or value.source.same_as(result) or not value.indices:
        return None
    step = _step(value.indices[-1], steps, analyzer)
    tests = [] if condition is None else _tests(condition, value.indices, analyzer)
    if tests is None or (step == 1 and condition is None):
        return None
    shape = list(value.source.shape)
    last = len(shape) - 1
    low, sizes, grown = [], [], 1.0
    for axis, (index, size) in enumerate(zip(value.indices, shape, strict=True)):
        if all(t[0] != axis for t in tests) and not (step > 1 and axis == last):
            low.append(_i64(0))
            sizes.append(size)
            continue
        bound = analyzer.const_int_bound(index)
        extent = int(bound.max_value) - int(bound.min_value) + 1
        grown *= extent / int(size)
        low.append(_i64(int(bound.min_value)))
        sizes.append(_i64(extent))
        if step > 1 and axis == last:
            sizes[-1:] = [_i64(step), _i64(-(-extent // step))]
            tests = [*tests, (axis, False, int(bound.max_value))]
    if grown > _MOST:
        return None
    buffer = tirx.decl_buffer(sizes, value.source.dtype, name)
    zero = tirx.const(0, value.source.dtype) if other is None else other

    def body(s: list[Any], _: list[Any]) -> tuple[Any, None]:
        places = [*s[:-2], s[-1] * _i64(step) + s[-2]] if step > 1 else s
        at = [i + l for i, l in zip(places, low, strict=True)]
        inside = [at[axis] >= _i64(limit) if below else at[axis] <= _i64(limit) for axis, below, limit in tests]
        read = tirx.if_then_else(tirx.all(*inside), tirx.BufferLoad(value.source, at), zero)
        return tirx.BufferStore(buffer, read, s), None

    at = [i - l for i, l in zip(value.indices, low, strict=True)]
    if step > 1:
        at[-1:] = [tirx.floormod(at[-1], _i64(step)), tirx.floordiv(at[-1], _i64(step))]
    return _Operand(make_loops(name, sizes, [], body), buffer, tirx.BufferLoad(buffer, at))


def _step(index: Any, steps: dict[Any, int], analyzer: Any) -> int:
    """The step in which the longest loop of an index walks, 1 where that is not a constant above 1."""
    best, length = 1, 3
    for var, extent in steps.items():
        found = sym.detect_linear_equation(index, [var])
        if found and isinstance(found[0], tirx.IntImm) and int(found[0]) != 0 and extent > length:
            best, length = int(found[0]), extent
    bound = analyzer.const_int_bound(index)
    finite = bound.max_value - bound.min_value < 1 << 20
    return best if 1 < best <= _MOST_STEPS and finite else 1


def _tests(condition: Any, indices: Any, analyzer: Any) -> list[tuple[int, bool, int]] | None:
    """A conjunction as limits of single indices: (axis, whether from below, limit); None where it is not that."""
    if isinstance(condition, tirx.And):
        parts = [_tests(c, indices, analyzer) for c in (condition.a, condition.b)]
        return None if any(p is None for p in parts) else [t for p in parts if p for t in p]
    if isinstance(condition, tirx.GE | tirx.GT):
        small, large, strict = condition.b, condition.a, isinstance(condition, tirx.GT)
    elif isinstance(condition, tirx.LE | tirx.LT):
        small, large, strict = condition.a, condition.b, isinstance(condition, tirx.LT)
    else:
        return None
    room = large - small - _i64(int(strict))  # the condition says that this is not negative
    for axis, index in enumerate(indices):
        for from_below in (True, False):
            rest = analyzer.simplify(room - index if from_below else room + index)
            if isinstance(rest, tirx.IntImm):
                return [(axis, from_below, -int(rest) if from_below else int(rest))]
    return None


def _i64(value: int) -> Any:
    return tirx.const(value, "int64")
