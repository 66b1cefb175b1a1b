"""Locally connected layers: convolution with a filter of its own at every place. Closed under differentiation.

All three ops are the trilinear form  L(x, w, y) = sum x[n, c, o s + k d - p] w[o, m, c, k] y[n, m, o]  with one
argument taken away, as conv, conv_transpose and conv_dw are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, same_or_unknown, shape_text
from cnncc.ir.types import Type
from cnncc.ops.common import Gradients, check_float, check_rank
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.plain import conv as plain
from cnncc.ops.registry import Arg, Sample, define
from cnncc.ops.window import Geometry, Window, canonical, geometry, window_numbers
from cnncc.ops.written import written


@dataclass(frozen=True)
class LocalDxAttrs(Window):
    """size: spatial sizes of x."""

    size: tuple[Dim, ...] = ()


@dataclass(frozen=True)
class LocalDwAttrs(Window):
    """kernel: spatial sizes of the filters."""

    kernel: tuple[int, ...] = ()


def _parts(w: Type) -> tuple[tuple[Dim, ...], Dim, Dim, tuple[Dim, ...]]:
    """w [*out, M, C, *kernel] --> out, M, C, kernel."""
    r = (w.rank - 2) // 2
    if w.rank not in (4, 6, 8):
        raise GraphError(f"w must be [*out, M, C, *kernel] with 1 to 3 spatial axes, got {w}")
    return w.shape[:r], w.shape[r], w.shape[r + 1], w.shape[r + 2 :]


def _window(attrs: Window) -> dict[str, tuple[int, ...]]:
    return {"strides": attrs.strides, "pads": attrs.pads, "dilations": attrs.dilations}


def _check_out(g: Geometry, size: Sequence[Dim], out: Sequence[Dim]) -> None:
    wanted = g.out(size)
    if len(wanted) != len(out) or not all(map(same_or_unknown, wanted, out)):
        raise GraphError(f"there must be filters for {shape_text(wanted)} places, got {shape_text(out)}")


def _tests(c: Lowering, g: Geometry, at: Sequence[Any], size: Sequence[Dim]) -> list[Any]:
    low = [at[i] >= 0 for i in range(g.rank) if g.begin[i]]
    return low + [at[i] < c.dim(size[i]) for i in range(g.rank) if g.end[i]]


def _guarded(c: Lowering, tests: list[Any], value: Any, dtype: str) -> Any:
    from tvm import tirx

    return c.guard(tirx.all(*tests), value, c.const(0, dtype)) if tests else value


def _reads(g: Geometry, o: Sequence[Any], k: Sequence[Any]) -> list[Any]:
    return [o[i] * g.strides[i] + k[i] * g.dilations[i] - g.begin[i] for i in range(g.rank)]


# -- locally_connected -----------------------------------------------------------------------------------------------


def _infer(attrs: Window, x: Type, w: Type) -> Type:
    """x [N, C, *size], w [*out, M, C, *kernel] --> [N, M, *out]."""
    check_float(x=x, w=w)
    check_rank("x", x, 3, 5)
    out, m, channels, kernel = _parts(w)
    if len(kernel) != x.rank - 2 or not same_or_unknown(channels, x.shape[1]):
        raise GraphError(f"w must have {x.rank - 2} spatial axes and {x.shape[1]} channels, got {w}")
    _check_out(geometry(attrs, kernel), x.shape[2:], out)
    return x.with_(shape=(x.shape[0], m, *out))


def _grad(g: Any) -> Gradients:
    """y = local(x, w); dx = local_dx(w, dy), dw = local_dw(x, dy)."""
    x, w = g.inputs
    kernel = _parts(w.type)[3]
    dx = g.b.locally_connected_dx(w, g.dy, size=x.type.shape[2:], **_window(g.attrs)) if g.needs(0) else None
    return dx, g.b.locally_connected_dw(x, g.dy, kernel=kernel, **_window(g.attrs)) if g.needs(1) else None


def _compute(c: Lowering, attrs: Window, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import te

    x, w = xs
    _, _, channels, kernel = _parts(w.type)
    g = geometry(attrs, kernel)
    rc = c.axis(channels, "c")
    rk = [c.axis(k, f"k{i}") for i, k in enumerate(g.kernel)]

    def element(n: Any, m: Any, *o: Any) -> Any:
        at = _reads(g, o, rk)
        value = _guarded(c, _tests(c, g, at, x.type.shape[2:]), x(n, rc, *at), x.type.dtype)
        return te.sum(value * w(*o, m, rc, *rk), axis=[rc, *rk])

    return c.stage(outs[0], element, "locally_connected")


_CASES: tuple[tuple[tuple[int, ...], tuple[int, ...], Window], ...] = (
    ((2, 3, 5, 4), (5, 4, 2, 3, 3, 3), Window(pads=(1, 1, 1, 1))),
    ((2, 2, 7), (3, 4, 2, 3), Window((2,))),
    ((1, 2, 6, 5), (3, 5, 3, 2, 2, 3), Window((2, 1), (1, 2, 0, 2), (1, 2))),
)


def _y_shape(x: tuple[int, ...], w: tuple[int, ...]) -> tuple[int, ...]:
    r = len(x) - 2
    return (x[0], w[r], *w[:r])


locally_connected = define(
    "locally_connected",
    ("x", "w"),
    attrs=Window,
    infer=_infer,
    **written(plain.locally_connected, lambda a, x, w: window_numbers(a, _parts(w)[3])),
    grad=_grad,
    compute=_compute,
    normalise=lambda attrs, x, w: canonical(attrs, x.shape[2:], _parts(w)[3]),
    samples=tuple(Sample((Arg(x), Arg(w)), a) for x, w, a in _CASES),
    doc="Unshared convolution: x [N, C, *size] with a filter per place, w [*out, M, C, *kernel].",
)

# -- locally_connected_dx --------------------------------------------------------------------------------------------


def _dx_infer(attrs: LocalDxAttrs, w: Type, dy: Type) -> Type:
    """w [*out, M, C, *kernel], dy [N, M, *out] --> [N, C, *size]."""
    check_float(w=w, dy=dy)
    out, m, channels, kernel = _parts(w)
    _check_out(geometry(attrs, kernel), attrs.size, out)
    if dy.shape[1:] != (m, *out):
        raise GraphError(f"dy must be [N, {m}, {shape_text(out)}], got {dy}")
    return dy.with_(shape=(dy.shape[0], channels, *attrs.size))


def _dx_grad(g: Any) -> Gradients:
    """x = local_dx(w, y); dw = local_dw(dx, y), dy = local(dx, w)."""
    w, y = g.inputs
    window = _window(g.attrs)
    dw = g.b.locally_connected_dw(g.dy, y, kernel=_parts(w.type)[3], **window) if g.needs(0) else None
    return dw, g.b.locally_connected(g.dy, w, **window) if g.needs(1) else None


def _dx_compute(c: Lowering, attrs: LocalDxAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import te, tirx

    w, dy = xs
    out, m, _, kernel = _parts(w.type)
    g = geometry(attrs, kernel)
    rm = c.axis(m, "m")
    rk = [c.axis(k, f"k{i}") for i, k in enumerate(g.kernel)]

    def element(n: Any, ch: Any, *i: Any) -> Any:
        at, tests = [], []
        for a in range(g.rank):
            shifted = i[a] + g.begin[a] - rk[a] * g.dilations[a]
            s = g.strides[a]
            if s > 1:
                tests.append(tirx.EQ(shifted % s, c.dim(0)))
            place = shifted // s if s > 1 else shifted
            tests += [place >= 0, place < c.dim(out[a])]
            at.append(place)
        return te.sum(_guarded(c, tests, dy(n, rm, *at) * w(*at, rm, ch, *rk), dy.type.dtype), axis=[rm, *rk])

    return c.stage(outs[0], element, "locally_connected_dx")


locally_connected_dx = define(
    "locally_connected_dx",
    ("w", "dy"),
    attrs=LocalDxAttrs,
    infer=_dx_infer,
    **written(plain.locally_connected_dx, lambda a, w, dy: {"size": a.size, **window_numbers(a, _parts(w)[3])}),
    grad=_dx_grad,
    compute=_dx_compute,
    normalise=lambda attrs, w, dy: canonical(attrs, attrs.size, _parts(w)[3]),
    samples=tuple(
        Sample((Arg(w), Arg(_y_shape(x, w))), LocalDxAttrs(a.strides, a.pads, a.dilations, x[2:])) for x, w, a in _CASES
    ),
    doc="The data gradient of locally_connected.",
)

# -- locally_connected_dw --------------------------------------------------------------------------------------------


def _dw_infer(attrs: LocalDwAttrs, x: Type, dy: Type) -> Type:
    """x [N, C, *size], dy [N, M, *out] --> [*out, M, C, *kernel]."""
    check_float(x=x, dy=dy)
    check_rank("x", x, 3, 5)
    _check_out(geometry(attrs, attrs.kernel), x.shape[2:], dy.shape[2:])
    if not same_or_unknown(x.shape[0], dy.shape[0]):
        raise GraphError(f"x and dy must have one batch, got {x.shape[0]} and {dy.shape[0]}")
    return x.with_(shape=(*dy.shape[2:], dy.shape[1], x.shape[1], *attrs.kernel))


def _dw_grad(g: Any) -> Gradients:
    """w = local_dw(x, y); dx = local_dx(dw, y), dy = local(x, dw)."""
    x, y = g.inputs
    window = _window(g.attrs)
    dx = g.b.locally_connected_dx(g.dy, y, size=x.type.shape[2:], **window) if g.needs(0) else None
    return dx, g.b.locally_connected(x, g.dy, **window) if g.needs(1) else None


def _dw_compute(c: Lowering, attrs: LocalDwAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import te

    x, dy = xs
    g = geometry(attrs, attrs.kernel)
    rn = c.axis(x.type.shape[0], "n")

    def element(*index: Any) -> Any:
        o, m, ch, k = index[: g.rank], index[g.rank], index[g.rank + 1], index[g.rank + 2 :]
        at = _reads(g, o, k)
        value = _guarded(c, _tests(c, g, at, x.type.shape[2:]), x(rn, ch, *at), x.type.dtype)
        return te.sum(value * dy(rn, m, *o), axis=[rn])

    return c.stage(outs[0], element, "locally_connected_dw")


locally_connected_dw = define(
    "locally_connected_dw",
    ("x", "dy"),
    attrs=LocalDwAttrs,
    infer=_dw_infer,
    **written(plain.locally_connected_dw, lambda a, x, dy: {"kernel": a.kernel, **window_numbers(a, a.kernel)}),
    grad=_dw_grad,
    compute=_dw_compute,
    normalise=lambda attrs, x, dy: canonical(attrs, x.shape[2:], attrs.kernel),
    samples=tuple(
        Sample((Arg(x), Arg(_y_shape(x, w))), LocalDwAttrs(a.strides, a.pads, a.dilations, w[len(x) :]))
        for x, w, a in _CASES
    ),
    doc="The weight gradient of locally_connected.",
)
