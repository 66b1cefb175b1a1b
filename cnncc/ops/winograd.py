"""3x3 and d x 3x3 convolution by Winograd's minimal filtering in the last two axes, split at the transformed weights
so that they become constants.

`lay-out` rewrites conv(x, w) --> winograd_conv(x, winograd_weights(w)) where `choose` found that the algorithm pays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.types import Type
from cnncc.ops.conv import check_operands
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.registry import Arg, Sample, define
from cnncc.ops.window import Geometry
from cnncc.ops.winograd_matrices import TAPS, Matrix, as_array, matrices, transform_weights

_NO_GRAD = "made after differentiation, by the choice of algorithms"


@dataclass(frozen=True)
class WinogradAttrs:
    """m: outputs per tile and axis (2, 4 or 6). pads: begin and end per spatial axis. depth: stride and dilation of
    the depth axis, where there are three axes."""

    m: int = 4
    pads: tuple[int, ...] = (0, 0, 0, 0)
    depth: tuple[int, int] = (1, 1)

    def geometry(self, taps: Sequence[int]) -> Geometry:
        """The window, given the taps in depth (none in 2-D)."""
        r, lead = len(self.pads) // 2, len(taps)
        strides, dilations = (self.depth[0],) * lead + (1, 1), (self.depth[1],) * lead + (1, 1)
        return Geometry((*taps, TAPS, TAPS), strides, self.pads[:r], self.pads[r:], dilations)


def _weights_infer(attrs: WinogradAttrs, w: Type) -> Type:
    """w [M, C, (D,) 3, 3] --> [alpha, alpha, M, (D,) C], alpha = m + 2."""
    if w.rank not in (4, 5) or w.shape[-2:] != (TAPS, TAPS):
        raise GraphError(f"weights must be [M, C, 3, 3] or [M, C, D, 3, 3], got {w}")
    alpha = len(matrices(attrs.m)[1])
    return w.with_(shape=(alpha, alpha, w.shape[0], *w.shape[2:-2], w.shape[1]))


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
    (w,) = xs
    g = matrices(attrs.m)[2]
    half = Type(w.type.dtype, (len(g), TAPS, *outs[0].shape[2:]))

    def row(a: Any, j: Any, m: Any, *rest: Any) -> Any:
        *lead, k = rest
        return _dot(c, g, a, [w(m, k, *lead, i, j) for i in range(TAPS)])

    rows = c.stage(half, row, "rows")
    return c.stage(outs[0], lambda a, b, *rest: _dot(c, g, b, [rows(a, j, *rest) for j in range(TAPS)]), "weights")


winograd_weights = define(
    "winograd_weights",
    ("w",),
    attrs=WinogradAttrs,
    infer=_weights_infer,
    reference=lambda attrs, w: transform_weights(w, attrs.m),
    no_grad=_NO_GRAD,
    compute=_weights_compute,
    samples=(Sample((Arg((4, 3, 3, 3)),), WinogradAttrs(4)), Sample((Arg((2, 2, 2, 3, 3)),), WinogradAttrs(2))),
    doc="Weights of a 3x3 or d x 3x3 convolution transformed for winograd_conv.",
)


def _conv_infer(attrs: WinogradAttrs, x: Type, u: Type) -> Type:
    """x [N, C, (D,) H, W], u [alpha, alpha, M, (K,) C] --> [N, M, (D',) H + p - 2, W + p - 2]."""
    check_operands("x and u", x, u)
    if x.rank not in (4, 5) or u.rank != x.rank or len(attrs.pads) != 2 * (x.rank - 2):
        raise GraphError(f"x and u must both be of 2 or 3 spatial axes, with two pads each, got {x}, {u}, {attrs.pads}")
    if u.shape[-1] != x.shape[1]:
        raise GraphError(f"channels of u must be {x.shape[1]}, got {u.shape[-1]}")
    return Type(x.dtype, (x.shape[0], u.shape[2], *_geometry(attrs, u).out(x.shape[2:])))


def _geometry(attrs: WinogradAttrs, u: Type) -> Geometry:
    return attrs.geometry([int(d) for d in u.shape[3:-1]])


def _conv_reference(attrs: WinogradAttrs, x: np.ndarray, u: np.ndarray) -> np.ndarray:
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
    at, bt, _ = (as_array(matrix).astype(x.dtype) for matrix in matrices(m))
    alpha = m + TAPS - 1
    h, w = (d + pads[k] + pads[k + 2] - TAPS + 1 for k, d in enumerate(x.shape[2:]))
    th, tw = -(-h // m), -(-w // m)
    ends = (th * m + 2 - x.shape[2] - pads[0], tw * m + 2 - x.shape[3] - pads[1])
    xp = np.pad(x, [(0, 0), (0, 0), (pads[0], ends[0]), (pads[1], ends[1])])
    tiles = np.lib.stride_tricks.sliding_window_view(xp, (alpha, alpha), axis=(2, 3))[:, :, ::m, ::m]
    v = np.einsum("ai,bj,nctsij->abncts", bt, bt, tiles, optimize=True)
    product = np.einsum("abncts,abmc->abnmts", v, u, optimize=True)
    y = np.einsum("oa,pb,abnmts->nmtosp", at, at, product, optimize=True)
    return np.ascontiguousarray(y.reshape(x.shape[0], u.shape[2], th * m, tw * m)[:, :, :h, :w])


def _conv_compute(c: Lowering, attrs: WinogradAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    """Planes of the depth axis are computed one by one; `o` are the channel and, in 3-D, the plane of a result."""
    from tvm import te, tirx

    x, u = xs
    at, bt, _ = matrices(attrs.m)
    m, alpha = attrs.m, attrs.m + TAPS - 1
    g = _geometry(attrs, u.type)
    n, oc, *depth, h, w = outs[0].shape
    th, tw = -(-h // m), -(-w // m)
    dtype, ic, taps = x.type.dtype, x.type.shape[1], u.type.shape[3:-1]

    def read(b: Any, k: Any, *place: Any) -> Any:
        at_ = [p - before for p, before in zip(place, g.begin, strict=True)]
        ends = [c.dim(d) for d in x.type.shape[2:]]
        inside = tirx.all(*(bound for p, end in zip(at_, ends, strict=True) for bound in (p >= 0, p < end)))
        return c.guard(inside, x(b, k, *at_), c.const(0, dtype))

    tiles = (n, ic, *_planes(x.type, g), th, tw)
    rows = c.stage(
        Type(dtype, (alpha, alpha, *tiles)),
        lambda a, j, *i: _dot(c, bt, a, [read(*i[:-2], i[-2] * m + r, i[-1] * m + j) for r in range(alpha)]),
        "input_rows",
    )
    v = c.stage(
        Type(dtype, (alpha, alpha, *tiles)),
        lambda a, q, *i: _dot(c, bt, q, [rows(a, j, *i) for j in range(alpha)]),
        "input_tiles",
    )
    rc, rd = c.axis(ic, "ic"), [c.axis(k, "kd") for k in taps]

    def plane(d: Sequence[Any]) -> list[Any]:
        return [p * attrs.depth[0] + k * attrs.depth[1] for p, k in zip(d, rd, strict=True)]

    product = c.stage(
        Type(dtype, (alpha, alpha, n, oc, *depth, th, tw)),
        lambda a, q, b, o, *d: te.sum(v(a, q, b, rc, *plane(d[:-2]), *d[-2:]) * u(a, q, o, *rd, rc), axis=[*rd, rc]),
        "product",
    )
    half = c.stage(
        Type(dtype, (m, alpha, n, oc, *depth, th, tw)),
        lambda r, q, *i: _dot(c, at, r, [product(a, q, *i) for a in range(alpha)]),
        "output_rows",
    )
    return c.stage(
        outs[0],
        lambda *i: _dot(c, at, i[-1] % m, [half(i[-2] % m, q, *i[:-2], i[-2] // m, i[-1] // m) for q in range(alpha)]),
        "output",
    )


def _planes(x: Type, g: Geometry) -> tuple[Any, ...]:
    """Extents of the padded axes in front of the last two."""
    return tuple(d + a + b for d, a, b in zip(x.shape[2:-2], g.begin, g.end, strict=False))


winograd_conv = define(
    "winograd_conv",
    ("x", "u"),
    attrs=WinogradAttrs,
    infer=_conv_infer,
    reference=_conv_reference,
    no_grad=_NO_GRAD,
    compute=_conv_compute,
    samples=(
        Sample((Arg((2, 3, 7, 6)), Arg((6, 6, 4, 3))), WinogradAttrs(4, (1, 1, 1, 1))),
        Sample((Arg((1, 2, 5, 4)), Arg((4, 4, 3, 2))), WinogradAttrs(2, (1, 0, 0, 1))),
        Sample((Arg((2, 3, 4, 7, 6)), Arg((6, 6, 4, 3, 3))), WinogradAttrs(4, (1, 1, 1, 1, 1, 1))),
        Sample((Arg((1, 2, 7, 5, 4)), Arg((4, 4, 3, 2, 2))), WinogradAttrs(2, (0, 1, 0, 1, 0, 1), (2, 3))),
    ),
    doc="3x3 or d x 3x3 convolution, of stride 1 in the last two axes, with weights transformed by winograd_weights.",
)
