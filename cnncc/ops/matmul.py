"""Matrix multiplication with numpy's rules for ranks and batches. Bias and scales are ops of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, broadcast, product, same_or_unknown, shape_text
from cnncc.ir.graph import Value
from cnncc.ir.types import Type
from cnncc.ops.common import Gradients, check_float
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.registry import Arg, Sample, define


@dataclass(frozen=True)
class MatmulAttrs:
    """Whether the last two axes of an operand are swapped first."""

    transpose_x: bool = False
    transpose_w: bool = False


def _matrix(shape: Sequence[Dim], transposed: bool, right: bool) -> tuple[tuple[Dim, ...], Dim, Dim]:
    """Batch axes, rows and columns of an operand; a vector is a row on the left, a column on the right."""
    if len(shape) == 1:
        return ((), shape[0], 1) if right else ((), 1, shape[0])
    rows, columns = (shape[-1], shape[-2]) if transposed else (shape[-2], shape[-1])
    return tuple(shape[:-2]), rows, columns


def _infer(attrs: MatmulAttrs, x: Type, w: Type) -> Type:
    """x [..., M, K], w [..., K, N] --> [..., M, N]; the axis of a vector vanishes."""
    check_float(x=x, w=w)
    for name, operand, transposed in (("x", x, attrs.transpose_x), ("w", w, attrs.transpose_w)):
        if operand.rank == 0 or (operand.rank == 1 and transposed):
            raise GraphError(f"{name} must be a vector or matrices (a vector cannot be transposed), got {operand}")
    batch_x, m, k = _matrix(x.shape, attrs.transpose_x, False)
    batch_w, k2, n = _matrix(w.shape, attrs.transpose_w, True)
    if not same_or_unknown(k, k2):
        raise GraphError(
            f"columns of x must equal rows of w, got {k} and {k2} ({shape_text(x.shape)} and {shape_text(w.shape)})"
        )
    tail = (*(() if x.rank == 1 else (m,)), *(() if w.rank == 1 else (n,)))
    return x.with_(shape=(*broadcast([batch_x, batch_w]), *tail))


def _reference(attrs: MatmulAttrs, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return np.asarray(
        np.matmul(x.swapaxes(-1, -2) if attrs.transpose_x else x, w.swapaxes(-1, -2) if attrs.transpose_w else w)
    )


def _grad(g: Any) -> Gradients:
    """Y = X W; dX = dY W^T, dW = X^T dY, with every ^T in the flags. Batches that were broadcast are summed over."""
    x, w = g.inputs
    dy, b, a = g.dy, g.b, g.attrs
    if x.type.rank == 1 or w.type.rank == 1:
        return _vector_grad(g)
    dx = dw = None
    if g.needs(0):
        if a.transpose_x:
            dx = b.matmul(w, dy, transpose_x=a.transpose_w, transpose_w=True)
        else:
            dx = b.matmul(dy, w, transpose_w=not a.transpose_w)
    if g.needs(1):
        if (
            w.type.rank == 2 and x.type.rank > 2 and not a.transpose_x
        ):  # one long product instead of a sum of short ones
            x, dy = _rows(b, x), _rows(b, dy)
        if a.transpose_w:
            dw = b.matmul(dy, x, transpose_x=True, transpose_w=a.transpose_x)
        else:
            dw = b.matmul(x, dy, transpose_x=not a.transpose_x)
    return dx, dw


def _rows(b: Any, v: Value) -> Value:
    """[..., M, K] --> [... M, K]."""
    result: Value = b.reshape(v, shape=(product(v.type.shape[:-1]), v.type.shape[-1]))
    return result


def _vector_grad(g: Any) -> Gradients:
    """With a vector x: dx = sum dY W^T, dW = x^T dY as an outer product; with a vector w likewise."""
    x, w = g.inputs
    b, a = g.b, g.attrs
    row = b.reshape(x, shape=(1, *x.type.shape)) if x.type.rank == 1 else x
    column = b.reshape(w, shape=(*w.type.shape, 1)) if w.type.rank == 1 else w
    shape = list(g.dy.type.shape)
    if w.type.rank == 1:
        shape.append(1)
    if x.type.rank == 1:
        shape.insert(len(shape) - 1, 1)
    dy = b.reshape(g.dy, shape=tuple(shape))
    dx = dw = None
    if g.needs(0):
        if a.transpose_x:
            dx = b.matmul(column, dy, transpose_x=a.transpose_w, transpose_w=True)
        else:
            dx = b.matmul(dy, column, transpose_w=not a.transpose_w)
        if x.type.rank == 1:
            dx = _summed(b, dx, -2)
    if g.needs(1):
        if a.transpose_w:
            dw = b.matmul(dy, row, transpose_x=True, transpose_w=a.transpose_x)
        else:
            dw = b.matmul(row, dy, transpose_x=not a.transpose_x)
        if w.type.rank == 1:
            dw = _summed(b, dw, -1)
    return dx, dw


def _summed(b: Any, v: Value, axis: int) -> Value:
    """The axis of size 1 removed; the driver sums over the batch axes that remain."""
    shape = list(v.type.shape)
    del shape[axis]
    result: Value = b.reshape(v, shape=tuple(shape))
    return result


def _numpy(s: Any) -> str:
    """x @ w, with the last two axes of an operand swapped where it is transposed."""
    texts = []
    for name, type_, transposed in zip(s.x, s.types, (s.attrs.transpose_x, s.attrs.transpose_w), strict=True):
        swapped = f"{name}.T" if type_.rank == 2 else f"{name}.swapaxes(-1, -2)"
        texts.append(swapped if transposed and type_.rank > 1 else name)
    return " @ ".join(texts)


def _compute(c: Lowering, attrs: MatmulAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import te

    x, w = xs
    _, _, k = _matrix(x.type.shape, attrs.transpose_x, False)
    r = c.axis(k, "k")

    def batch(operand: Operand, index: Sequence[Any]) -> tuple[Any, ...]:
        dims = operand.type.shape[:-2]
        own = index[len(index) - len(dims) :] if dims else ()
        return tuple(c.dim(0) if d == 1 else i for d, i in zip(dims, own, strict=True))

    def element(*index: Any) -> Any:
        tail = list(index)
        n = tail.pop() if w.type.rank > 1 else None
        m = tail.pop() if x.type.rank > 1 else None
        left = (r,) if m is None else (*batch(x, tail), r, m) if attrs.transpose_x else (*batch(x, tail), m, r)
        right = (r,) if n is None else (*batch(w, tail), n, r) if attrs.transpose_w else (*batch(w, tail), r, n)
        return te.sum(x(*left) * w(*right), axis=r)

    return c.stage(outs[0], element, "matmul")


def _sample(x: tuple[int, ...], w: tuple[int, ...], tx: bool = False, tw: bool = False) -> Sample:
    return Sample((Arg(x), Arg(w)), MatmulAttrs(tx, tw))


matmul = define(
    "matmul",
    ("x", "w"),
    attrs=MatmulAttrs,
    infer=_infer,
    reference=_reference,
    numpy=_numpy,
    grad=_grad,
    compute=_compute,
    samples=(
        _sample((3, 4), (4, 5)),
        _sample((3, 4), (5, 4), tw=True),
        _sample((4, 3), (4, 5), tx=True),
        _sample((4, 3), (5, 4), True, True),
        _sample((2, 3, 4), (4, 5)),
        _sample((2, 3, 4), (5, 4), tw=True),
        _sample((2, 4, 3), (4, 5), tx=True),
        _sample((4, 5), (2, 5, 3)),
        _sample((2, 1, 3, 4), (3, 4, 2)),
        _sample((2, 3, 4), (2, 5, 4), tw=True),
        _sample((4,), (4,)),
        _sample((4,), (2, 4, 3)),
        _sample((4,), (3, 4), tw=True),
        _sample((2, 3, 4), (4,)),
        _sample((4, 3), (4,), tx=True),
    ),
    doc="numpy.matmul(x, w)",
)
