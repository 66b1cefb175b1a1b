"""From the anchor of a kernel to its problem: what the algorithm table is asked about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cnncc.ir.dims import Dim, product, substitute
from cnncc.ir.graph import Graph, Node
from cnncc.ir.kernel import anchor
from cnncc.ir.types import Type
from cnncc.ops.window import Window, geometry
from cnncc.targets.problem import (
    FUSED,
    HINT,
    ConvDwProblem,
    ConvProblem,
    FusedProblem,
    MatmulDwProblem,
    MatmulProblem,
    PoolBehind,
    PoolDxProblem,
    PoolProblem,
    WinogradWeightsProblem,
)

Problem = ConvProblem | FusedProblem | MatmulProblem | PoolProblem


def family(node: Node) -> str:
    """The op whose algorithms serve an anchor."""
    if node.op in ("conv", "winograd_conv", "fft_conv"):
        return "conv"
    if node.op in ("max_pool", "average_pool"):
        return "pool"
    if node.op == "matmul" and node.attrs.transpose_x:
        return "matmul_dw"
    if node.op in ("max_pool_dx", "average_pool_dx"):
        return "pool_dx"
    return node.op


def describe(body: Graph) -> Problem | None:
    """The problem of a kernel's body; None where its anchor has no algorithms of its own, or sizes are symbolic."""
    node = anchor(body)
    if node is None:
        return None
    maker = _MAKERS.get(family(node))
    return maker(node) if maker else None


def describe_kernel(node: Node) -> Problem | None:
    """The problem of a kernel whose algorithm is known."""
    assert node.body is not None
    return describe_fused(node.body) if node.attrs.algorithm == FUSED else describe(node.body)


def describe_fused(body: Graph) -> FusedProblem:
    """The problem of a 1x1 convolution and of the depthwise one before it, where there is one."""
    problems = [describe_convolution(n) for n in body.nodes if n.op == "conv"]
    return FusedProblem(problems[-1], problems[0] if len(problems) > 1 else None)


def describe_convolution(node: Node) -> ConvProblem:
    """The problem of a convolution whose sizes are known."""
    problem = _conv(node)
    assert problem is not None, node.where
    return problem


def _batch(dim: Dim) -> int | str:
    return dim if isinstance(dim, int) else str(dim)


def _numbers(dims: Any) -> tuple[int, ...] | None:
    return tuple(dims) if all(isinstance(d, int) for d in dims) else None


def _conv(node: Node) -> ConvProblem | None:
    x, w = (v.type for v in node.operands())
    size = _numbers(x.shape[2:])
    if size is None or not isinstance(x.shape[1], int):
        return None
    if node.op == "winograd_conv":
        g, groups, oc = node.attrs.geometry([int(d) for d in w.shape]), 1, w.shape[0]
    elif node.op == "fft_conv":
        groups, oc = node.attrs.groups, node.outputs[0].type.shape[1]
        g = geometry(Window((), node.attrs.pads, node.attrs.dilations), node.attrs.kernel)
    else:
        g, groups, oc = geometry(node.attrs, w.shape[2:]), node.attrs.groups, w.shape[0]
    n, pads = _batch(x.shape[0]), (*g.begin, *g.end)
    return ConvProblem(
        n, x.shape[1], int(oc), size, g.kernel, g.strides, pads, g.dilations, groups, x.dtype, behind=_behind(node)
    )


def pool_behind(node: Node) -> Node | None:
    """The max pool of a convolution's results in the same kernel."""
    return next((u for u in node.outputs[0].users if u.op == "max_pool"), None)


def _behind(node: Node) -> PoolBehind | None:
    pool = pool_behind(node)
    if pool is None:
        return None
    g, out = geometry(pool.attrs, pool.attrs.kernel), _numbers(pool.output.type.shape[2:])
    return None if out is None else PoolBehind(g.kernel, g.strides, g.begin, out)


def _conv_dw(node: Node) -> ConvDwProblem | None:
    x, dy = (v.type for v in node.operands())
    size = _numbers(x.shape[2:])
    if size is None or not isinstance(x.shape[1], int) or not isinstance(dy.shape[1], int):
        return None
    g = geometry(node.attrs, node.attrs.kernel)
    return ConvDwProblem(
        *(_batch(x.shape[0]), x.shape[1], dy.shape[1], size, g.kernel, g.strides, (*g.begin, *g.end), g.dilations),
        groups=node.attrs.groups,
        dtype=x.dtype,
    )


def _matmul(node: Node) -> MatmulProblem | None:
    x, w = (v.type for v in node.operands())
    lead = x.shape[:-2]
    stacked = x.rank > 2 and w.shape[:-2] == lead
    inner = _numbers((x.shape[-1], *w.shape[-2:]))
    if node.attrs.transpose_x or inner is None or not (stacked or x.rank == w.rank == 2):
        return None
    k, n = inner[1:] if not node.attrs.transpose_w else inner[:0:-1]
    return MatmulProblem(
        _batch(x.shape[-2]),
        k,
        n,
        node.attrs.transpose_w,
        hinted(product(lead)),
        x.dtype,
        hinted(x.shape[-2]),
        stacked,
    )


def _matmul_dw(node: Node) -> MatmulDwProblem | None:
    a, b = (v.type for v in node.operands())
    sizes = _numbers((a.shape[-1], b.shape[-1]))
    if a.rank != 2 or b.rank != 2 or node.attrs.transpose_w or sizes is None:
        return None
    return MatmulDwProblem(_batch(a.shape[0]), sizes[0], sizes[1], a.dtype, hinted(a.shape[0]))


def hinted(dim: Dim) -> int:
    """A dimension, or a number of bytes, at the batch that decisions assume."""
    return dim if isinstance(dim, int) else int(substitute(dim, {s.name: HINT for s in dim.free_symbols}))


def _pool(node: Node) -> PoolProblem | None:
    x, y = next(node.operands()).type, node.outputs[0].type
    size, out = _numbers(x.shape[1:]), _numbers(y.shape[2:])
    if size is None or out is None or len(node.outputs) != 1:
        return None
    g = geometry(node.attrs, node.attrs.kernel)
    include = node.op == "average_pool" and node.attrs.count_include_pad
    return PoolProblem(
        node.op.removesuffix("_pool"), _batch(x.shape[0]), size[0], size[1:], out, g.kernel, g.strides,
        (*g.begin, *g.end), g.dilations, include, x.dtype,
    )  # fmt: skip


def _pool_dx(node: Node) -> PoolDxProblem | None:
    dx, dy = node.outputs[0].type, [*node.operands()][-1].type
    size, out = _numbers(dx.shape[1:]), _numbers(dy.shape[2:])
    if size is None or out is None:
        return None
    g = geometry(node.attrs, node.attrs.kernel)
    include = node.op == "average_pool_dx" and node.attrs.count_include_pad
    return PoolDxProblem(
        node.op.removesuffix("_pool_dx"), _batch(dx.shape[0]), size[0], size[1:], out, g.kernel, g.strides,
        (*g.begin, *g.end), g.dilations, include, dx.dtype,
    )  # fmt: skip


def _winograd_weights(node: Node) -> WinogradWeightsProblem | None:
    (w,) = (v.type for v in node.operands())
    sizes = _numbers(w.shape)
    return None if sizes is None else WinogradWeightsProblem(sizes[0], sizes[1], sizes[2:], node.attrs.m, w.dtype)


def padded_alike(body: Graph) -> bool:
    """Whether every operand has blocks along the axes that the results have blocks along, or does not have those."""
    results = [v.type for v in body.outputs]
    blocks = results[0].layout.blocks
    if not blocks or any(t.layout.blocks != blocks for t in results):
        return False

    def alike(type_: Type) -> bool:
        if type_.rank != results[0].rank:
            return type_.rank == 0
        return all(
            type_.shape[a] == 1 or (type_.layout.factor(a) == f and type_.shape[a] == results[0].shape[a])
            for a, f in blocks
        )

    return all(alike(v.type) for v in body.inputs)


_MAKERS: dict[str, Callable[[Node], Any]] = {
    "conv": _conv,
    "conv_dw": _conv_dw,
    "matmul": _matmul,
    "matmul_dw": _matmul_dw,
    "pool": _pool,
    "pool_dx": _pool_dx,
    "winograd_weights": _winograd_weights,
}


def register_problem(op: str, describe: Callable[[Node], Any]) -> None:
    """Say what the problem record of an operation from outside the package is, so that algorithms can serve it.

    describe(node): a frozen record, or None where sizes are symbolic. Its text goes into reports.
    """
    _MAKERS[op] = describe
