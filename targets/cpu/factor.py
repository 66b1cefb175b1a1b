"""Reductions taken apart: partial results per lane or per slice, and their combination.

`Schedule.rfactor` drops the predicate of a loop that the factor does not divide and knows few reducers; this rewrite
takes any length and any reduction whose step is `result = combine(result, value)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import ir, s_tir, sym, tirx

_DATA_PARALLEL, _REDUCE = 0, 2


@dataclass(frozen=True)
class Step:
    """One step of a reduction: identity, combine(a, b), and the value at an index (results, then reduction axes)."""

    buffer: Any
    results: tuple[Any, ...]
    axes: tuple[Any, ...]
    identity: Any
    combine: Callable[[Any, Any], Any]
    value: Callable[[Sequence[Any], Sequence[Any]], Any]


def find_step(block: Any) -> Step | None:
    """What a reduction block computes; None where it is not of the form that can be taken apart."""
    if not isinstance(block.body, tirx.BufferStore) or not isinstance(block.init, tirx.BufferStore):
        return None
    results = [v for v in block.iter_vars if int(v.iter_type) == _DATA_PARALLEL]
    axes = [v for v in block.iter_vars if int(v.iter_type) == _REDUCE]
    buffer = block.body.buffer
    own = [v.var for v in results]
    if len(own) != len(block.body.indices) or not all(
        a.same_as(b) for a, b in zip(own, block.body.indices, strict=True)
    ):
        return None
    update = block.body.value
    slots: list[Any] = []
    _slots(update, buffer, {v.var for v in axes}, slots)
    if len(slots) != 1:
        return None
    (slot,) = slots

    def combine(a: Any, b: Any) -> Any:
        def replace(e: Any, mutator: Any) -> Any:
            if isinstance(e, ir.TensorLoad) and e.source.same_as(buffer):
                return a
            return b if tvm_ffi.structural_equal(e, slot) else mutator.default_mutate(e)

        return tvm_ffi.structural_mutate(update, (ir.Expr, replace))

    def value(at: Sequence[Any], along: Sequence[Any]) -> Any:
        places = dict(zip([*own, *(v.var for v in axes)], [*at, *along], strict=True))
        return tvm_ffi.structural_map(slot, (ir.Var, lambda v: places.get(v, v)))

    return Step(buffer, tuple(results), tuple(axes), block.init.value, combine, value)


def _slots(expr: Any, buffer: Any, axes: set[Any], found: list[Any]) -> None:
    """The largest parts of a step that depend on the reduction axes and not on the result so far, each once."""

    def look(e: Any, visitor: Any) -> None:
        own, depends = False, False

        def leaf(x: Any) -> None:
            nonlocal own, depends
            own = own or (isinstance(x, ir.TensorLoad) and x.source.same_as(buffer))
            depends = depends or (isinstance(x, ir.Var) and x in axes)

        tvm_ffi.structural_walk(e, (ir.Expr, leaf))
        if own:
            visitor.default_visit(e)
        elif depends and not any(tvm_ffi.structural_equal(e, f) for f in found):
            found.append(e)

    tvm_ffi.structural_visit(expr, (ir.Expr, look))


def split_lanes(func: Any, name: str, group: Sequence[int], lanes: int) -> Any:
    """r[s] = sum over k of v(s, k) --> p[s, l] = sum over j of v(s, j lanes + l);  r[s] = sum over l of p[s, l] + rest.

    `group`: positions of the block's reduction axes that together are k, outermost first. Blocks, in this order:
    "<name>_by<lanes>", "<name>" (over lanes); where lanes does not divide, "<name>_rest" (the last k), "<name>_whole".
    """
    step, rewrite = _find(func, name)
    extents = [int(step.axes[g].dom.extent) for g in group]
    total = 1
    for e in extents:
        total *= e
    others = [a for g, a in enumerate(step.axes) if g not in group]
    count, rest = divmod(total, lanes)
    shape = list(step.buffer.shape)
    dtype = step.buffer.dtype
    sizes = [v.dom.extent for v in step.results]
    outer = [v.dom.extent for v in others]

    def along(k: Any, other: Sequence[Any]) -> list[Any]:
        return _spread(step, group, extents, k, other)

    partial = tirx.decl_buffer([*shape, _i64(lanes)], dtype, f"{name}_by{lanes}")
    n = len(sizes)
    nests = [
        _nest(
            f"{name}_by{lanes}",
            [*sizes, _i64(lanes)],
            [*outer, _i64(count)],
            partial,
            step,
            lambda s, r: step.value(s[:n], along(r[-1] * _i64(lanes) + s[n], r[:-1])),
        )
    ]
    whole = step.buffer if not rest else tirx.decl_buffer(shape, dtype, f"{name}_over_lanes")
    nests.append(_nest(name, sizes, [_i64(lanes)], whole, step, lambda s, r: tirx.BufferLoad(partial, [*s, r[0]])))
    buffers = [partial]
    if rest:
        tail = tirx.decl_buffer(shape, dtype, f"{name}_rest")
        buffers += [whole, tail]
        start = _i64(count * lanes)
        nests.append(
            _nest(
                f"{name}_rest",
                sizes,
                [*outer, _i64(rest)],
                tail,
                step,
                lambda s, r: step.value(s, along(r[-1] + start, r[:-1])),
            )
        )
        nests.append(
            _map(
                f"{name}_whole",
                sizes,
                step.buffer,
                lambda s: step.combine(tirx.BufferLoad(whole, s), tirx.BufferLoad(tail, s)),
            )
        )
    return rewrite(nests, buffers)


def split_axis(func: Any, name: str, position: int, parts: int) -> Any:
    """r[s] = sum over k of v(s, k) --> p[j, s] = sum over i of v(s, j size + i);  r[s] = sum over j of p[j, s].

    `position`: a reduction axis; `parts` divides its extent, or is 0: one part an element (also where it is symbolic).
    Block names: "<name>_parts", "<name>".
    """
    step, rewrite = _find(func, name)
    axis = step.axes[position].dom.extent
    size = _i64(1 if not parts else int(axis) // parts)
    count = _i64(parts) if parts else axis
    others = [a.dom.extent for g, a in enumerate(step.axes) if g != position]
    sizes = [v.dom.extent for v in step.results]
    partial = tirx.decl_buffer([count, *step.buffer.shape], step.buffer.dtype, f"{name}_parts")

    def along(r: Sequence[Any], part: Any) -> list[Any]:
        at = list(r[1:])
        at.insert(position, part * size + r[0])
        return at

    nests = [
        _nest(
            f"{name}_parts",
            [count, *sizes],
            [size, *others],
            partial,
            step,
            lambda s, r: step.value(s[1:], along(r, s[0])),
        ),
        _nest(name, sizes, [count], step.buffer, step, lambda s, r: tirx.BufferLoad(partial, [r[0], *s])),
    ]
    return rewrite(nests, [partial])


def _spread(step: Step, group: Sequence[int], extents: Sequence[int], k: Any, other: Sequence[Any]) -> list[Any]:
    """The reduction axes from a position k in the group and the other axes."""
    inner = 1
    places: dict[int, Any] = {}
    for g, e in zip(reversed(group), reversed(extents), strict=True):
        at = k if inner == 1 else tirx.floordiv(k, _i64(inner))
        places[g] = at if g == group[0] else tirx.floormod(at, _i64(e))
        inner *= e
    rest = iter(other)
    return [places[g] if g in places else next(rest) for g in range(len(step.axes))]


def _i64(value: int) -> Any:
    return tirx.const(value, "int64")


def _find(func: Any, name: str) -> tuple[Step, Callable[[list[Any], list[Any]], Any]]:
    """The step of a block of the root, and how to put other nests and new buffers in its place."""
    inner = [blocks_of(s) for s in statements(func)]
    position = [[str(b.name_hint) for b in blocks] for blocks in inner].index([name])
    step = find_step(inner[position][0])
    assert step is not None
    return step, lambda nests, buffers: replace_statement(func, position, nests, buffers)


def statements(func: Any) -> list[Any]:
    """The statements of the root block, one a stage."""
    body = func.body.block.body
    return list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]


def replace_statement(func: Any, position: int, nests: list[Any], buffers: list[Any]) -> Any:
    """The function with other statements in the place of one, and new buffers at the root."""
    realize = func.body
    root = realize.block
    old = statements(func)
    block = s_tir.SBlock(
        root.iter_vars,
        root.reads,
        root.writes,
        root.name_hint,
        tirx.SeqStmt([*old[:position], *nests, *old[position + 1 :]]),
        root.init,
        [*root.alloc_buffers, *buffers],
        root.match_buffers,
        root.annotations,
    )
    changed = func.with_body(s_tir.SBlockRealize(realize.iter_values, realize.predicate, block))
    # the same value may now stand in two blocks, with the same let variables
    return s_tir.transform.ConvertSSA()(ir.IRModule({"main": changed}))["main"]


def blocks_of(statement: Any) -> list[Any]:
    found: list[Any] = []
    tvm_ffi.structural_walk(statement, (s_tir.SBlock, found.append))
    return found


def _nest(
    name: str, sizes: list[Any], reduced: list[Any], buffer: Any, step: Step, value: Callable[[Any, Any], Any]
) -> Any:
    """Loops and block of buffer[s] = combine over r of value(s, r)."""

    def body(s: list[Any], r: list[Any]) -> tuple[Any, Any]:
        update = step.combine(tirx.BufferLoad(buffer, s), value(s, r))
        return tirx.BufferStore(buffer, update, s), tirx.BufferStore(buffer, step.identity, s)

    return make_loops(name, sizes, reduced, body)


def _map(name: str, sizes: list[Any], buffer: Any, value: Callable[[Any], Any]) -> Any:
    """Loops and block of buffer[s] = value(s)."""
    return make_loops(name, sizes, [], lambda s, r: (tirx.BufferStore(buffer, value(s), s), None))


def make_loops(name: str, sizes: list[Any], reduced: list[Any], body: Callable[[Any, Any], tuple[Any, Any]]) -> Any:
    """Loops and block of a stage. `body(results, axes)` gives the store and the store of the initial value, or None."""
    analyzer = sym.Analyzer()
    kinds = [_DATA_PARALLEL] * len(sizes) + [_REDUCE] * len(reduced)
    extents = [*sizes, *reduced]
    axes, loops = [], []
    for k, (extent, kind) in enumerate(zip(extents, kinds, strict=True)):
        var = tirx.Var(f"v{k}", "int64")
        axes.append(tirx.IterVar(ir.Range.from_min_extent(_i64(0), extent), var, kind))
        loops.append(tirx.Var(f"i{k}", "int64"))
        analyzer.bind(var, ir.Range.from_min_extent(_i64(0), extent))
    places = [a.var for a in axes]
    store, init = body(places[: len(sizes)], places[len(sizes) :])
    store = tvm_ffi.structural_map(
        store,
        (ir.TensorLoad, lambda l: tirx.BufferLoad(l.source, [analyzer.simplify(i) for i in l.indices])),
    )
    buffers: dict[Any, Any] = {store.buffer: store.buffer}
    tvm_ffi.structural_walk(store.value, (ir.TensorLoad, lambda l: buffers.update({l.source: l.source})))
    bare = s_tir.SBlock(axes, [], [], name, store, init)
    reads, writes = s_tir.analysis.get_sblock_read_write_region(bare, buffers)
    reads = [r for r in reads if not r.source.same_as(store.buffer)]
    block = s_tir.SBlock(axes, reads, writes, name, store, init)
    nest: Any = s_tir.SBlockRealize(loops, True, block)
    for var, extent in zip(reversed(loops), reversed(extents), strict=True):
        nest = tirx.For(var, _i64(0), extent, tirx.ForKind.SERIAL, nest)
    return nest
