"""What the dense CPU algorithms share: arithmetic, te helpers, and the recipe of a convolution's register tile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cnncc.ir.layout import Layout, channels
from cnncc.targets.algorithm import Layouts
from cnncc.targets.cpu.tiling import ConvTile, ceil_div, covered, pieces_of
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target

Finish = Callable[[Any, tuple[Any, ...]], Any]


def i64(value: Any) -> Any:
    """A Python integer as TIR's int64 (a symbolic batch is int64, and indices may not mix widths); others unchanged."""
    from tvm import tirx

    return tirx.const(value, "int64") if isinstance(value, int) else value


def by_output(problem: ConvProblem, target: Target) -> Layouts:
    """NCHW{b}c, weights whose first axis, the output channels, is in blocks of b, NCHW{b}c."""
    b = target.block
    return Layouts(channels(b), Layout(((0, b),)), channels(b))


def shape(*extents: Any) -> tuple[Any, ...]:
    """Extents as int64."""
    return tuple(i64(e) for e in extents)


def pick(values: Sequence[Any], index: Any) -> Any:
    """values[index] for an index that is unrolled."""
    from tvm import tirx

    out = values[-1]
    for k in range(len(values) - 2, -1, -1):
        out = tirx.Select(index.equal(k), values[k], out)
    return out


def reduce_axes(prefix: str, extents: Iterable[int]) -> list[Any]:
    """te reduction axes of the given extents, named by a prefix and their place."""
    from tvm import te

    return [te.reduce_axis((i64(0), i64(e)), name=f"{prefix}{k}") for k, e in enumerate(extents)]


def places(index: Any, extents: tuple[int, ...]) -> list[Any]:
    """A number as places along axes of these extents."""
    found = []
    for extent in reversed(extents[1:]):
        found.append(index % i64(extent))
        index = index // i64(extent)
    return [index, *reversed(found)] if extents else []


def batch_of(problem: Any, x: Any) -> Any:
    """The batch as te needs it: a constant, or the variable in the operand's shape."""
    return i64(problem.n) if isinstance(problem.n, int) else x.shape[0]


def in_block(tile: ConvTile, vector: Any, lane: Any) -> tuple[Any, Any]:
    """Where the blocks of output channels have a lane of one of the tile's vectors."""
    if not tile.half:
        return vector, lane
    return vector // i64(2), vector % i64(2) * i64(tile.width) + lane


def unless_idle(problem: ConvProblem, tile: ConvTile, vector: Any, term: Any) -> Any:
    """A term of the sums, 0 in the vector that a tile of half blocks does not compute. Register tiles have all
    vectors, so which that is is known when their loop is unrolled."""
    from tvm import tirx

    if not tile.half:
        return term
    return tirx.Select(vector < i64(ceil_div(problem.oc, tile.width)), term, tirx.const(0.0, "float32"))


def of_block(acc: Any, block: int) -> Callable[..., Any]:
    """Sums in vectors, as elements of blocks."""
    several = block // int(acc.shape[-1])
    if several == 1:
        return lambda *index: acc(*index)
    width = i64(block // several)
    return lambda n, o, *rest: acc(n, o * i64(several) + rest[-1] // width, *rest[:-1], rest[-1] % width)


def finished(acc: Any, block: int, finish: Finish) -> Any:
    """The stage "out" of sums, in blocks of channels."""
    from tvm import te

    n, vectors, *at, lanes = acc.shape
    value = of_block(acc, block)
    return te.compute(
        (n, vectors // i64(block // int(lanes)), *at, i64(block)),
        lambda n, o, *rest: finish(value(n, o, *rest), (n, o * i64(block) + rest[-1], *rest[:-1])),
        name="out",
    )


def declared(tensor: Any) -> Any:
    """An operand as the buffer that a body of loops of its own reads."""
    from tvm import tirx

    return tirx.decl_buffer(tensor.shape, tensor.dtype, tensor.op.name)


def operations(problem: ConvProblem, finish: Finish) -> int:
    """Multiplications, additions and divisions of an epilogue, for one element."""
    import tvm_ffi
    from tvm import tirx

    index = tuple(tirx.Var(f"i{k}", "int64") for k in range(problem.rank + 2))
    found: list[Any] = []
    kinds = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div)

    def count(node: Any) -> None:
        if str(node.ty.dtype) == "float32":
            found.append(node)

    tvm_ffi.structural_walk(finish(tirx.Var("value", "float32"), index), (kinds, count))
    return len(found)


def padded(
    problem: ConvProblem, x: Any, lead: int, tail: int, out: tuple[int, ...] = (), pads: tuple[int, ...] = ()
) -> Any:
    """The stage "pad": x(*lead, *spatial, *tail) with the problem's pads, as far as the outputs read (those of other
    extents `out`, with other pads at the begin, where given).

    `lead` is the number of channel blocks (or channels), `tail` the channels in a block, 0 where there are no blocks.
    """
    from tvm import te, tirx

    r = problem.rank
    extent, begin = covered(problem, out or problem.out), pads or problem.pads[:r]

    def at(n: Any, c: Any, *rest: Any) -> Any:
        where = inside(rest[:r], problem.size, extent, begin)
        value = x(n, c, *(i - i64(p) for i, p in zip(rest[:r], begin, strict=True)), *rest[r:])
        return tirx.if_then_else(tirx.all(*where), value, tirx.const(0.0, "float32")) if where else value

    return te.compute(shape(batch_of(problem, x), lead, *extent, *([tail] if tail else [])), at, name="pad")


def inside(index: Sequence[Any], size: Sequence[int], extent: Sequence[int], pads: Sequence[int]) -> list[Any]:
    """Conditions under which a padded index lies in the unpadded array; those that always hold are left out.

    `index` counts from the padding's begin and runs to `extent`; `pads` are the begins.
    """
    conditions = []
    for i, s, e, p in zip(index, size, extent, pads, strict=True):
        if p:
            conditions.append(i >= i64(p))
        if e - p > s:
            conditions.append(i < i64(p + s))
    return conditions


def window(problem: ConvProblem, at: Sequence[Any], taps: Sequence[Any]) -> list[Any]:
    """Where in the padded input an output pixel finds a tap of the kernel."""
    return [o * i64(s) + k * i64(d) for o, s, k, d in zip(at, problem.strides, taps, problem.dilations, strict=True)]


def is_one(extent: Any) -> bool:
    """Whether a loop is of one iteration: TVM drops it, and scratch in it is then outside of the loops inside."""
    from tvm import tirx

    return isinstance(extent, tirx.IntImm) and int(extent) == 1


def has_block(sch: Any, name: str) -> bool:
    """Whether the function under the schedule has a block of this name."""
    import tvm_ffi
    from tvm import s_tir

    found: list[str] = []
    tvm_ffi.structural_walk(sch.mod["main"].body, (s_tir.SBlock, lambda block: found.append(str(block.name_hint))))
    return name in found


def _in_halves(sch: Any, rank: int, width: int) -> None:
    """The loops of "out" over blocks and lanes become those over half blocks and their lanes."""
    from tvm.tirx import IndexMap

    def halved(n: Any, o: Any, *rest: Any) -> list[Any]:
        return [n, o * 2 + rest[-1] // width, *rest[:-1], rest[-1] % width]

    sch.transform_block_layout("out", IndexMap.from_func(halved, ndim=rank + 3, index_dtype="int64"))


def schedule_tile(sch: Any, problem: ConvProblem, tile: ConvTile) -> None:
    """The recipe: tasks (batch, groups of pixels, chunks of output channels), in them register tiles, reduction inside.

    Stages: "pad" and "spread" (where there are such: input and weights made ready in scratch), "fill" (an input that is
    computed there; its loops are the caller's), "acc" with loops batch, output blocks, pixels, lanes, reduction; "out".
    """
    r = problem.rank
    if tile.half:
        _in_halves(sch, r, tile.width)
    acc, out = sch.get_sblock("acc"), sch.get_sblock("out")
    batch, oc, *rest = sch.get_loops(acc)
    pixels, lanes, steps = rest[:r], rest[r], rest[r + 1 :]

    oc_task, oc_tile, oc_in = sch.split(oc, [None, tile.chunk // tile.vectors, tile.vectors])
    tasks, tiles, inner = [], [], []
    for loop, group, pixel in zip(pixels, tile.group, tile.pixels, strict=True):
        task, rest = sch.split(loop, [None, group])
        several, one = sch.split(rest, [None, pixel])
        tasks.append(task)
        tiles.append(several)
        inner.append(one)
    sch.reorder(batch, *tasks, oc_task, oc_tile, *tiles, *steps, *inner, oc_in, lanes)
    task = sch.fuse(batch, *tasks, oc_task)

    if has_block(sch, "pad"):
        pad = sch.get_sblock("pad")
        sch.compute_at(pad, task, preserve_unit_loops=True)
        sch.set_scope(pad, 0, "local")
        copied = sch.get_loops(pad)[-1]
        if len(sch.get_loops(pad)) > r + 3:  # channel blocks; rows of plain layout are left to LLVM, with their borders
            sch.vectorize(copied)
    if has_block(sch, "fill"):
        fill = sch.get_sblock("fill")
        sch.compute_at(fill, task, preserve_unit_loops=True)
        sch.set_scope(fill, 0, "local")
    if has_block(sch, "spread"):
        spread = sch.get_sblock("spread")
        sch.compute_at(spread, oc_tile, preserve_unit_loops=True)
        sch.set_scope(spread, 0, "local")
    sch.reverse_compute_at(out, tiles[-1], preserve_unit_loops=True)
    sch.set_scope(acc, 0, "local")
    if tile.parallel:
        sch.parallel(task)
        if pieces_of(tile) > 1 and not (tile.copy and is_one(sch.get(task).extent)):  # see `team.share_out`
            sch.parallel(tiles[0])
    for loop, group, pixel in zip(tiles, tile.group, tile.pixels, strict=True):
        if group % pixel:  # the narrower last tile gets code of its own
            sch.annotate(loop, "pragma_loop_partition_hint", 1)

    *out_inner, out_lanes = sch.get_loops(out)[-r - 2 :]
    for loop in (*inner, oc_in, *out_inner):
        sch.unroll(loop)
    sch.vectorize(lanes)
    sch.vectorize(out_lanes)
    init = sch.decompose_reduction(acc, steps[0])
    *init_inner, init_lanes = sch.get_loops(init)[-r - 2 :]
    for loop in init_inner:
        sch.unroll(loop)
    sch.vectorize(init_lanes)
