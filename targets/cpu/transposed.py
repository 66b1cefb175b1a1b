"""Layout changes between rows of channels and blocks of channels: squares of vectors transposed in registers.

    y[n, o, p, l] = x[n, o b + l, p]      for b channels l of a block o, or the other way round

Square tiles of as many pixels as a vector has lanes: so many vector loads, log2 rounds of shuffles of pairs, so many
vector stores. The last tile of a row overlaps the one before it. Channels beyond the last are zeros.
"""

from __future__ import annotations

import math
from typing import Any

from cnncc.ir.graph import Graph
from cnncc.ir.layout import Layout, channels
from cnncc.targets.target import Target


def changes_blocks(body: Graph, target: Target) -> bool:
    """Whether a kernel is such a change: of float32, spatial sizes known, rows of a vector or more."""
    if len(body.nodes) != 1 or body.nodes[0].op != "to_layout":
        return False
    x, y = body.inputs[0].type, body.outputs[0].type
    spatial = x.shape[2:]
    return (
        x.dtype == "f32"
        and x.rank > 2
        and {x.layout, y.layout} == {Layout(), channels(target.block)}
        and all(isinstance(d, int) for d in x.shape[1:])
        and math.prod(d for d in spatial if isinstance(d, int)) >= target.lanes()
    )


def transpose_blocks(x: Any, y: Any, body: Graph, target: Target) -> Any:
    """The change as a PrimFunc without blocks; x and y are the buffers of the kernel's operand and result."""
    from tvm import tirx

    from cnncc.targets.cpu.elementwise import WORTH

    type_ = body.inputs[0].type
    count, pixels = int(type_.shape[1]), math.prod(int(d) for d in type_.shape[2:])
    block, lanes, inward = target.block, target.lanes(), bool(body.outputs[0].type.layout)
    blocks, tiles = -(-count // block), -(-pixels // lanes)
    batch = x.shape[0]
    rows = tirx.decl_buffer((batch * _i64(count * pixels),), "float32", name="rows")
    packed = tirx.decl_buffer((batch * _i64(blocks * pixels * block),), "float32", name="packed")
    task, tile = tirx.Var("task", "int64"), tirx.Var("tile", "int64")
    n, o = tirx.floordiv(task, _i64(blocks)), tirx.floormod(task, _i64(blocks))
    first = tirx.min(tile * _i64(lanes), _i64(pixels - lanes))

    def row(lane: int) -> Any:
        return tirx.Ramp(((n * _i64(count) + o * _i64(block) + _i64(lane)) * _i64(pixels)) + first, _i64(1), lanes)

    def pixel(at: int, lane: int) -> Any:
        start = ((n * _i64(blocks) + o) * _i64(pixels) + first + _i64(at)) * _i64(block) + _i64(lane)
        return tirx.Ramp(start, _i64(1), lanes)

    def squares(valid: int) -> Any:
        """The tiles of a block with so many channels."""
        made: list[Any] = []
        zero = tirx.Broadcast(tirx.const(0.0, "float32"), lanes)
        for start in range(0, block, lanes):
            here = range(start, start + lanes)
            if inward:
                loads = [tirx.BufferLoad(rows, [row(c)]) if c < valid else zero for c in here]
            elif start < valid:
                loads = [tirx.BufferLoad(packed, [pixel(k, start)]) for k in range(lanes)]
            else:
                continue
            for k, value in enumerate(_columns(loads, made)):
                if inward:
                    made.append(tirx.BufferStore(packed, value, [pixel(k, start)]))
                elif start + k < valid:
                    made.append(tirx.BufferStore(rows, value, [row(start + k)]))
        return tirx.For(tile, _i64(0), _i64(tiles), tirx.ForKind.SERIAL, tirx.SeqStmt(made))

    whole = squares(block)
    if count % block:
        whole = tirx.IfThenElse(o < _i64(count // block), whole, squares(count % block))
    seconds = 8.0 * count * pixels / 20e9
    shared = target.threads > 1 and (seconds >= WORTH or not isinstance(batch, tirx.IntImm))
    kind = tirx.ForKind.PARALLEL if shared else tirx.ForKind.SERIAL
    loop = tirx.For(task, _i64(0), batch * _i64(blocks), kind, whole)
    views = ((rows, x if inward else y), (packed, y if inward else x))
    nest = tirx.SeqStmt([tirx.DeclBuffer(flat, data=from_.data) for flat, from_ in views] + [loop])
    return tirx.PrimFunc([x, y], nest).with_attr("tirx.noalias", True)


def _columns(loads: list[Any], made: list[Any]) -> list[Any]:
    """The columns of the square whose rows are loaded; the statements that compute them are appended to `made`."""
    from tvm import tirx

    count = len(loads)

    def name(value: Any) -> Any:
        made.append(tirx.Bind(tirx.Var(f"v{len(made)}", f"float32x{count}"), value))
        return made[-1].var

    values = [name(value) for value in loads]
    step = count // 2
    while step:
        low = [k if not k & step else count + k - step for k in range(count)]
        high = [k + step if not k & step else count + k for k in range(count)]
        for i in (k for k in range(count) if not k & step):
            pair = [values[i], values[i + step]]
            for j, lanes in ((i, low), (i + step, high)):
                values[j] = name(tirx.Shuffle(pair, [tirx.const(k, "int32") for k in lanes]))
        step //= 2
    return values


def _i64(value: int) -> Any:
    from tvm import tirx

    return tirx.const(value, "int64")
