"""Convolution by Winograd's minimal filtering in its last two axes (in 1-D: its one), split at the transformed weights
so that they become constants.

`lay-out` rewrites conv(x, w) --> winograd_conv(x, winograd_weights(w)) where `choose` found that the algorithm pays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.types import Type
from cnncc.ops.conv import check_operands
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.registry import Arg, Sample, define
from cnncc.ops.window import Geometry
from cnncc.ops.winograd_matrices import Matrix, as_array, axes, matrices, side, transform_weights

_NO_GRAD = "made after differentiation, by the choice of algorithms"


@dataclass(frozen=True)
class WinogradAttrs:
    """m: outputs per tile and axis (2, 4 or 6; of 2 taps 3, 5 or 7); an axis of one tap is not tiled. pads: begin and
    end per spatial axis. depth: stride and dilation of the depth axis, where there are three axes."""

    m: int = 4
    pads: tuple[int, ...] = (0, 0, 0, 0)
    depth: tuple[int, int] = (1, 1)

    def geometry(self, u: Sequence[int]) -> Geometry:
        """The window, given the shape of the transformed weights."""
        r = len(self.pads) // 2
        last, lead = axes(r), max(0, r - 2)
        depth = [int(d) for d in u[last + 1 : last + 1 + lead]]
        strides, dilations = (self.depth[0],) * lead + (1,) * last, (self.depth[1],) * lead + (1,) * last
        taps = [int(alpha) - self.m + 1 if alpha != 1 else 1 for alpha in u[1 : last + 1]]
        return Geometry((*depth, *taps), strides, self.pads[:r], self.pads[r:], dilations)


def _weights_infer(attrs: WinogradAttrs, w: Type) -> Type:
    """w [M, C, (D,) r, s] --> [M, alpha, beta, (D,) C], alpha = m + r - 1 (1 for r = 1); in 1-D [M, alpha, C]."""
    if w.rank not in (3, 4, 5):
        raise GraphError(f"weights must be of one to three spatial axes, got {w}")
    last = axes(w.rank - 2)
    tile = [len(matrices(side(attrs.m, int(taps)), int(taps))[1]) for taps in w.shape[-last:]]
    return w.with_(shape=(w.shape[0], *tile, *w.shape[2:-last], w.shape[1]))


def _dot(c: Lowering, rows: Matrix, k: Any, values: Sequence[Any]) -> Any:
    """sum_j rows[k][j] values[j] for a symbolic row number k."""
    from tvm import tirx

    dtype = values[0].ty.dtype
    total = tirx.const(0, dtype)
    for j, value in enumerate(values):
        factor = tirx.const(0, dtype)
        for i, row in enumerate(rows):
            factor = tirx.Select(k.equal(i), tirx.const(float(row[j]), dtype), factor)
        total = total + factor * value
    return total


def _weights_compute(c: Lowering, attrs: WinogradAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    """A stage for each transformed axis: behind the output channel those of the tile that are made, at the end the taps
    that are left."""
    (w,) = xs
    last = axes(w.type.rank - 2)
    (m, *tile), inner = outs[0].shape[: last + 1], outs[0].shape[last + 1 :]
    taps = [int(d) for d in w.type.shape[-last:]]

    def read(m: Any, *i: Any) -> Any:
        (*depth, k), tap = i[: len(inner)], i[len(inner) :]
        return w(m, k, *depth, *tap)

    def step(before: Callable[..., Any], axis: int) -> Operand:
        g, at = matrices(side(attrs.m, taps[axis]), taps[axis])[2], axis + 1 + len(inner)

        def value(m: Any, *i: Any) -> Any:
            values = [before(m, *i[:axis], *i[axis + 1 : at], tap, *i[at:]) for tap in range(taps[axis])]
            return _dot(c, g, i[axis], values)

        shape = (m, *tile[: axis + 1], *inner, *taps[axis + 1 :])
        return c.stage(outs[0] if axis + 1 == last else Type(w.type.dtype, shape), value, f"weights{axis}")

    first = step(read, 0)
    return first if last == 1 else step(first, 1)


winograd_weights = define(
    "winograd_weights",
    ("w",),
    attrs=WinogradAttrs,
    infer=_weights_infer,
    reference=lambda attrs, w: transform_weights(w, attrs.m),
    rowwise=True,
    no_grad=_NO_GRAD,
    compute=_weights_compute,
    samples=(
        Sample((Arg((4, 3, 3, 3)),), WinogradAttrs(4)),
        Sample((Arg((2, 2, 2, 3, 3)),), WinogradAttrs(2)),
        Sample((Arg((4, 3, 5)),), WinogradAttrs(2)),
        Sample((Arg((4, 3, 1, 7)),), WinogradAttrs(4)),
        Sample((Arg((4, 3, 7, 3)),), WinogradAttrs(2)),
        Sample((Arg((4, 3, 2, 2)),), WinogradAttrs(5)),
    ),
    doc="Weights of a convolution transformed for winograd_conv.",
)


def _conv_infer(attrs: WinogradAttrs, x: Type, u: Type) -> Type:
    """x [N, C, (D,) H, W], u [M, alpha, beta, (K,) C] --> [N, M, (D',) H + p - r + 1, W + p - s + 1]; in 1-D the same
    without H and alpha."""
    check_operands("x and u", x, u)
    if x.rank not in (3, 4, 5) or u.rank != x.rank or len(attrs.pads) != 2 * (x.rank - 2):
        raise GraphError(f"x and u must both be of 1 to 3 spatial axes, with two pads each, got {x}, {u}, {attrs.pads}")
    if u.shape[-1] != x.shape[1]:
        raise GraphError(f"channels of u must be {x.shape[1]}, got {u.shape[-1]}")
    geometry = attrs.geometry([int(d) for d in u.shape])
    for taps in geometry.kernel[-axes(x.rank - 2) :]:
        matrices(side(attrs.m, taps), taps)
    return Type(x.dtype, (x.shape[0], u.shape[0], *geometry.out(x.shape[2:])))


def _geometry(attrs: WinogradAttrs, u: Type) -> Geometry:
    return attrs.geometry([int(d) for d in u.shape])


def _conv_reference(attrs: WinogradAttrs, x: np.ndarray, u: np.ndarray) -> np.ndarray:
    if x.ndim == 3:
        return _plane_reference(attrs.m, (0, attrs.pads[0], 0, attrs.pads[1]), x[:, :, None], u[:, None])[:, :, 0]
    if x.ndim == 4:
        return _plane_reference(attrs.m, attrs.pads, x, u)
    (stride, step), (before, _, _, after, _, _), taps = attrs.depth, attrs.pads, u.shape[3]
    planes = np.pad(x, [(0, 0), (0, 0), (before, after), (0, 0), (0, 0)])
    depths = range(0, planes.shape[2] - step * (taps - 1), stride)
    pads = (*attrs.pads[1:3], *attrs.pads[4:])
    made = [
        sum(_plane_reference(attrs.m, pads, planes[:, :, d + step * k], u[:, :, :, k]) for k in range(taps))
        for d in depths
    ]
    return np.stack([np.asarray(m) for m in made], axis=2)


def _plane_reference(m: int, pads: Sequence[int], x: np.ndarray, u: np.ndarray) -> np.ndarray:
    alpha = u.shape[1:3]
    taps = [a - m + 1 if a > 1 else 1 for a in alpha]
    tile = [side(m, r) for r in taps]
    (at, bt), (at2, bt2) = (
        [as_array(matrix).astype(x.dtype) for matrix in matrices(k, r)[:2]] for k, r in zip(tile, taps, strict=True)
    )
    out = [d + pads[k] + pads[k + 2] - taps[k] + 1 for k, d in enumerate(x.shape[2:])]
    tiles = [-(-d // k) for d, k in zip(out, tile, strict=True)]
    ends = [t * k + r - 1 for t, k, r in zip(tiles, tile, taps, strict=True)]
    xp = np.pad(x, [(0, 0), (0, 0), *((pads[k], ends[k] - x.shape[2 + k] - pads[k]) for k in range(2))])
    windows = np.lib.stride_tricks.sliding_window_view(xp, alpha, axis=(2, 3))[:, :, :: tile[0], :: tile[1]]
    v = np.einsum("ai,bj,nctsij->abncts", bt, bt2, windows, optimize=True)
    product = np.einsum("abncts,mabc->abnmts", v, u, optimize=True)
    y = np.einsum("oa,pb,abnmts->nmtosp", at, at2, product, optimize=True)
    whole = y.reshape(x.shape[0], u.shape[0], tiles[0] * tile[0], tiles[1] * tile[1])
    return np.ascontiguousarray(whole[:, :, : out[0], : out[1]])


def _conv_compute(c: Lowering, attrs: WinogradAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    """Planes of the depth axis are computed one by one. Indices of the stages: within the tile, image, channel, plane,
    tile."""
    from tvm import te, tirx

    x, u = xs
    g = _geometry(attrs, u.type)
    last = axes(x.type.rank - 2)
    taps, alpha = g.kernel[-last:], u.type.shape[1 : last + 1]
    tile = [side(attrs.m, r) for r in taps]
    at, bt = zip(*(matrices(m, r)[:2] for m, r in zip(tile, taps, strict=True)), strict=True)
    n, oc, *depth = outs[0].shape[:-last]
    tiles = [-(-d // m) for d, m in zip(outs[0].shape[-last:], tile, strict=True)]
    dtype, ic, deep = x.type.dtype, x.type.shape[1], g.kernel[:-last]

    def read(*i: Any) -> Any:
        within, (b, k, *planes), at_tile = i[:last], i[last:-last], i[-last:]
        place = [*planes, *(t * m + w for t, m, w in zip(at_tile, tile, within, strict=True))]
        where = [p - before for p, before in zip(place, g.begin, strict=True)]
        ends = [c.dim(d) for d in x.type.shape[2:]]
        inside = tirx.all(*(bound for p, end in zip(where, ends, strict=True) for bound in (p >= 0, p < end)))
        return c.guard(inside, x(b, k, *where), c.const(0, dtype))

    def along(before: Callable[..., Any], matrix: Matrix, axis: int, shape: tuple[Any, ...], name: str) -> Operand:
        """matrix @ (what is before, along an axis of the tile)."""

        def value(*i: Any) -> Any:
            values = [before(*i[:axis], j, *i[axis + 1 :]) for j in range(len(matrix[0]))]
            return _dot(c, matrix, i[axis], values)

        return c.stage(Type(dtype, shape), value, f"{name}{axis}")

    v: Callable[..., Any] = read
    for axis in range(last):
        v = along(v, bt[axis], axis, (*alpha, n, ic, *_planes(x.type, g, last), *tiles), "input")
    rc, rd = c.axis(ic, "ic"), [c.axis(k, "kd") for k in deep]

    def summed(*i: Any) -> Any:
        within, (b, o, *d), at_tile = i[:last], i[last:-last], i[-last:]
        plane = [p * attrs.depth[0] + k * attrs.depth[1] for p, k in zip(d, rd, strict=True)]
        return te.sum(v(*within, b, rc, *plane, *at_tile) * u(o, *within, *rd, rc), axis=[*rd, rc])

    y = c.stage(Type(dtype, (*alpha, n, oc, *depth, *tiles)), summed, "product")
    for axis in range(last):
        y = along(y, at[axis], axis, (*tile[: axis + 1], *alpha[axis + 1 :], n, oc, *depth, *tiles), "result")

    def result(*i: Any) -> Any:
        place = list(zip(i[-last:], tile, strict=True))
        return y(*(p % m for p, m in place), *i[:-last], *(p // m for p, m in place))

    return c.stage(outs[0], result, "output")


def _planes(x: Type, g: Geometry, last: int) -> tuple[Any, ...]:
    """Extents of the padded axes in front of the transformed ones."""
    return tuple(d + a + b for d, a, b in zip(x.shape[2:-last], g.begin, g.end, strict=False))


winograd_conv = define(
    "winograd_conv",
    ("x", "u"),
    attrs=WinogradAttrs,
    infer=_conv_infer,
    reference=_conv_reference,
    no_grad=_NO_GRAD,
    compute=_conv_compute,
    samples=(
        Sample((Arg((2, 3, 7, 6)), Arg((4, 6, 6, 3))), WinogradAttrs(4, (1, 1, 1, 1))),
        Sample((Arg((1, 2, 5, 4)), Arg((3, 4, 4, 2))), WinogradAttrs(2, (1, 0, 0, 1))),
        Sample((Arg((2, 3, 4, 7, 6)), Arg((4, 6, 6, 3, 3))), WinogradAttrs(4, (1, 1, 1, 1, 1, 1))),
        Sample((Arg((1, 2, 7, 5, 4)), Arg((3, 4, 4, 2, 2))), WinogradAttrs(2, (0, 1, 0, 1, 0, 1), (2, 3))),
        Sample((Arg((2, 3, 9)), Arg((4, 6, 3))), WinogradAttrs(4, (1, 2))),
        Sample((Arg((1, 2, 4, 9)), Arg((3, 1, 10, 2))), WinogradAttrs(4, (0, 3, 0, 3))),
        Sample((Arg((1, 2, 7, 6)), Arg((3, 6, 4, 2))), WinogradAttrs(2, (2, 1, 2, 1))),
        Sample((Arg((1, 2, 7, 6)), Arg((3, 4, 4, 2))), WinogradAttrs(3, (1, 1, 1, 1))),
    ),
    doc="Convolution of stride 1 in its last two axes, with weights transformed by winograd_weights.",
)
