"""3x3 convolution by Winograd's minimal filtering, split at the transformed weights so that they become constants.

`choose` rewrites conv(x, w) --> winograd_conv(x, winograd_weights(w)) where the algorithm pays.
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
    """m: outputs per tile and axis (2, 4 or 6). pads: begin and end per spatial axis."""

    m: int = 4
    pads: tuple[int, ...] = (0, 0, 0, 0)


def _weights_infer(attrs: WinogradAttrs, w: Type) -> Type:
    """w [M, C, 3, 3] --> [alpha, alpha, M, C], alpha = m + 2."""
    if w.rank != 4 or w.shape[2:] != (TAPS, TAPS):
        raise GraphError(f"weights must be [M, C, 3, 3], got {w}")
    alpha = len(matrices(attrs.m)[1])
    return w.with_(shape=(alpha, alpha, *w.shape[:2]))


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
    alpha = len(g)
    half = Type(w.type.dtype, (alpha, TAPS, *outs[0].shape[2:]))
    rows = c.stage(half, lambda a, j, m, k: _dot(c, g, a, [w(m, k, i, j) for i in range(TAPS)]), "rows")
    return c.stage(outs[0], lambda a, b, m, k: _dot(c, g, b, [rows(a, j, m, k) for j in range(TAPS)]), "weights")


winograd_weights = define(
    "winograd_weights",
    ("w",),
    attrs=WinogradAttrs,
    infer=_weights_infer,
    reference=lambda attrs, w: transform_weights(w, attrs.m),
    no_grad=_NO_GRAD,
    compute=_weights_compute,
    samples=(Sample((Arg((4, 3, 3, 3)),), WinogradAttrs(4)), Sample((Arg((2, 2, 3, 3)),), WinogradAttrs(2))),
    doc="Weights of a 3x3 convolution transformed for winograd_conv.",
)


def _conv_infer(attrs: WinogradAttrs, x: Type, u: Type) -> Type:
    """x [N, C, H, W], u [alpha, alpha, M, C] --> [N, M, H + p - 2, W + p - 2]."""
    check_operands("x and u", x, u)
    if u.shape[3] != x.shape[1]:
        raise GraphError(f"channels of u must be {x.shape[1]}, got {u.shape[3]}")
    return Type(x.dtype, (x.shape[0], u.shape[2], *_geometry(attrs).out(x.shape[2:])))


def _geometry(attrs: WinogradAttrs) -> Geometry:
    return Geometry((TAPS, TAPS), (1, 1), attrs.pads[:2], attrs.pads[2:], (1, 1))


def _conv_reference(attrs: WinogradAttrs, x: np.ndarray, u: np.ndarray) -> np.ndarray:
    at, bt, _ = (as_array(matrix).astype(x.dtype) for matrix in matrices(attrs.m))
    m, alpha = attrs.m, attrs.m + TAPS - 1
    h, w = (int(d) for d in _geometry(attrs).out(x.shape[2:]))
    th, tw = -(-h // m), -(-w // m)
    p = attrs.pads
    xp = np.pad(x, [(0, 0), (0, 0), (p[0], th * m + 2 - x.shape[2] - p[0]), (p[1], tw * m + 2 - x.shape[3] - p[1])])
    tiles = np.lib.stride_tricks.sliding_window_view(xp, (alpha, alpha), axis=(2, 3))[:, :, ::m, ::m]
    v = np.einsum("ai,bj,nctsij->abncts", bt, bt, tiles, optimize=True)
    product = np.einsum("abncts,abmc->abnmts", v, u, optimize=True)
    y = np.einsum("oa,pb,abnmts->nmtosp", at, at, product, optimize=True)
    return np.ascontiguousarray(y.reshape(x.shape[0], u.shape[2], th * m, tw * m)[:, :, :h, :w])


def _conv_compute(c: Lowering, attrs: WinogradAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import te, tirx

    x, u = xs
    at, bt, _ = matrices(attrs.m)
    m, alpha = attrs.m, attrs.m + TAPS - 1
    n, oc, h, w = outs[0].shape
    th, tw = -(-h // m), -(-w // m)
    dtype = x.type.dtype
    ic = x.type.shape[1]

    def read(b: Any, k: Any, y: Any, z: Any) -> Any:
        py, pz = y - attrs.pads[0], z - attrs.pads[1]
        inside = tirx.all(py >= 0, py < c.dim(x.type.shape[2]), pz >= 0, pz < c.dim(x.type.shape[3]))
        return c.guard(inside, x(b, k, py, pz), c.const(0, dtype))

    tiles = (n, ic, th, tw)
    rows = c.stage(
        Type(dtype, (alpha, alpha, *tiles)),
        lambda a, j, b, k, t, s: _dot(c, bt, a, [read(b, k, t * m + i, s * m + j) for i in range(alpha)]),
        "input_rows",
    )
    v = c.stage(
        Type(dtype, (alpha, alpha, *tiles)),
        lambda a, q, b, k, t, s: _dot(c, bt, q, [rows(a, j, b, k, t, s) for j in range(alpha)]),
        "input_tiles",
    )
    rc = c.axis(ic, "ic")
    product = c.stage(
        Type(dtype, (alpha, alpha, n, oc, th, tw)),
        lambda a, q, b, o, t, s: te.sum(v(a, q, b, rc, t, s) * u(a, q, o, rc), axis=[rc]),
        "product",
    )
    half = c.stage(
        Type(dtype, (m, alpha, n, oc, th, tw)),
        lambda r, q, b, o, t, s: _dot(c, at, r, [product(a, q, b, o, t, s) for a in range(alpha)]),
        "output_rows",
    )
    return c.stage(
        outs[0],
        lambda b, o, y, z: _dot(c, at, z % m, [half(y % m, q, b, o, y // m, z // m) for q in range(alpha)]),
        "output",
    )


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
    ),
    doc="3x3 convolution of stride 1 with weights transformed by winograd_weights.",
)
