"""Weights of a convolution turned round for its data gradient and put into blocks, while a network is trained.

    y[o, i, k, b, a] = w[i B + b, o B + a, K - 1 - k]

A block of both channels is read row by row, as it lies: vectors of elements that are K apart.
"""

from __future__ import annotations

import math
from typing import Any

from cnncc.ir.graph import Graph
from cnncc.ir.layout import Layout
from cnncc.targets.target import Target


def packs_weights(body: Graph, target: Target) -> bool:
    """Whether a kernel does that: of float32, plain weights, all sizes known, transposed and flipped before."""
    *moves, last = body.nodes
    x, y = body.inputs[0].type, body.outputs[0].type
    rank = x.rank
    wanted = [("transpose", (1, 0, *range(2, rank))), ("flip", tuple(range(2, rank)))]
    known = [(n.op, tuple(n.attrs.perm if n.op == "transpose" else n.attrs.axes)) for n in moves
             if n.op in ("transpose", "flip")]  # fmt: skip
    return (
        last.op == "to_layout"
        and len(body.inputs) == 1
        and x.dtype == "f32"
        and rank > 2
        and not x.layout
        and y.layout == Layout(((1, target.block), (0, target.block)))
        and all(isinstance(d, int) for d in x.shape)
        and len(known) == len(moves)
        and (known == wanted or (known == wanted[:1] and math.prod(map(int, x.shape[2:])) == 1))
    )


def pack_weights(x: Any, y: Any, body: Graph, target: Target) -> Any:
    """The kernel as a PrimFunc without blocks; x and y are the buffers of its operand and result."""
    from tvm import tirx

    from cnncc.targets.cpu.common import i64
    from cnncc.targets.cpu.elementwise import WORTH
    from cnncc.targets.cpu.loops import Loops

    code = Loops()
    m, c, *kernel = (int(d) for d in body.inputs[0].type.shape)
    taps, b, lanes = math.prod(kernel), target.block, min(target.block, target.lanes())
    rows, columns = -(-m // b), -(-c // b)
    plain = tirx.decl_buffer((i64(m * c * taps),), "float32", name="plain")
    packed = tirx.decl_buffer((i64(rows * columns * taps * b * b),), "float32", name="packed")
    parallel = target.threads > 1 and 8.0 * m * c * taps / 20e9 >= WORTH
    with code.loop(rows * columns, "task", parallel=parallel) as task:
        column, row = code.named(task // i64(rows), "o"), code.named(task % i64(rows), "i")
        with code.loop(b, "b") as inner, code.loop(taps, "k") as k:
            at_m = row * i64(b) + inner
            for first in range(0, b, lanes):

                def write(let: Any, lane: Any, first: int = first) -> None:
                    at_c = column * i64(b) + (i64(first) + lane)
                    value = plain[((at_m * i64(c) + at_c) * i64(taps) + (i64(taps - 1) - k),)]
                    inside = [at_m < i64(m)] * bool(m % b) + [at_c < i64(c)] * bool(c % b)
                    if inside:
                        value = tirx.if_then_else(tirx.all(*inside), value, tirx.const(0.0, "float32"))
                    square = (task * i64(taps) + k) * i64(b) + inner
                    code.store(packed, value, square * i64(b) + i64(first) + lane)

                code.vector(lanes, write)
    nest = [tirx.DeclBuffer(plain, data=x.data), tirx.DeclBuffer(packed, data=y.data), code.finish()]
    return tirx.PrimFunc([x, y], tirx.SeqStmt(nest)).with_attr("tirx.noalias", True)
