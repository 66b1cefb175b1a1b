"""Convolution of spatial rank 1 to 3, its transpose and its weight gradient: closed under differentiation.

All three are the trilinear form  L(x, w, y) = sum x[n, g ic + c, o s + k d - p] w[g oc + m, c, k] y[n, g oc + m, o]
with one argument taken away: conv gives y from (x, w), conv_transpose x from (y, w), conv_dw w from (x, y). So each
gradient of one is another of the three (cross-correlation throughout, as in every deep-learning framework).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, normal, same_or_unknown, shape_text
from cnncc.ir.dtype import is_float
from cnncc.ir.graph import Value
from cnncc.ir.types import Type
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.plain import conv as plain
from cnncc.ops.registry import Arg, Sample, define
from cnncc.ops.window import Geometry, Window, canonical, geometry, window_numbers
from cnncc.ops.written import written

Gradients = Sequence["Value | None"]


@dataclass(frozen=True)
class ConvAttrs(Window):
    """groups: x and w are split into that many independent convolutions along their channels."""

    groups: int = 1


@dataclass(frozen=True)
class ConvTransposeAttrs(ConvAttrs):
    """output_padding: rows added at the end of each spatial axis, where several input sizes give one output size."""

    output_padding: tuple[int, ...] = ()


@dataclass(frozen=True)
class ConvDwAttrs(ConvAttrs):
    """kernel: spatial sizes of the weights."""

    kernel: tuple[int, ...] = ()


def check_operands(what: str, a: Type, b: Type) -> None:
    """Both operands floating point, of one dtype, and of one rank from 3 to 5."""
    if a.rank != b.rank or not 3 <= a.rank <= 5:
        raise GraphError(
            f"{what} must have one rank from 3 (N, C, W) to 5 (N, C, D, H, W), got {a.rank} and {b.rank}: "
            f"{shape_text(a.shape)} and {shape_text(b.shape)}"
        )
    if a.dtype != b.dtype or not is_float(a.dtype):
        raise GraphError(f"{what} must have one floating-point dtype, got {a.dtype} and {b.dtype}")


def check_channels(what: str, have: Dim, wanted: Dim) -> None:
    """The two numbers of channels must agree."""
    if not same_or_unknown(have, wanted):
        raise GraphError(f"{what} must be {wanted}, got {have}")


def check_groups(groups: int, **channels: Dim) -> None:
    """Groups must be positive and divide the channels."""
    for name, c in channels.items():
        if groups < 1 or (isinstance(c, int) and c % groups):
            raise GraphError(f"groups must divide the {name}, got {groups} groups and {c} {name}")


# -- conv ------------------------------------------------------------------------------------------------------------


def _conv_infer(attrs: ConvAttrs, x: Type, w: Type) -> Type:
    """x [N, C, *size], w [M, C / groups, *kernel] --> [N, M, *out]."""
    check_operands("x and w", x, w)
    check_groups(attrs.groups, **{"input channels": x.shape[1], "output channels": w.shape[0]})
    check_channels("channels of w (input channels / groups)", w.shape[1], x.shape[1] // attrs.groups)
    g = geometry(attrs, w.shape[2:])
    return Type(x.dtype, (x.shape[0], w.shape[0], *g.out(x.shape[2:])))


def _conv_grad(grad: Any) -> Gradients:
    """y = conv(x, w); dx = conv_transpose(dy, w), dw = conv_dw(x, dy)."""
    x, w = grad.inputs
    a = grad.attrs
    g = geometry(a, w.type.shape[2:])
    window = {"strides": a.strides, "pads": a.pads, "dilations": a.dilations, "groups": a.groups}
    dx = dw = None
    if grad.needs(0):
        rest = tuple(
            (i + b + e - extent) % s
            for i, b, e, extent, s in zip(x.type.shape[2:], g.begin, g.end, g.extent, g.strides, strict=True)
        )
        dx = grad.b.conv_transpose(grad.dy, w, output_padding=rest, **window)
    if grad.needs(1):
        dw = grad.b.conv_dw(x, grad.dy, kernel=g.kernel, **window)
    return dx, dw


def _inside(c: Lowering, position: Any, size: Dim, low: bool, high: bool) -> list[Any]:
    return ([position >= 0] if low else []) + ([position < c.dim(size)] if high else [])


def _guarded(c: Lowering, conditions: list[Any], value: Any) -> Any:
    from tvm import tirx

    return c.guard(tirx.all(*conditions), value, tirx.const(0, value.ty.dtype)) if conditions else value


def _conv_compute(c: Lowering, attrs: ConvAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import te

    x, w = xs
    g = geometry(attrs, w.type.shape[2:])
    ic = w.type.shape[1]
    per_group = normal(w.type.shape[0] // attrs.groups)
    rc = c.axis(ic, "ic")
    rk = [c.axis(k, f"k{i}") for i, k in enumerate(g.kernel)]

    def element(n: Any, m: Any, *o: Any) -> Any:
        at = [o[i] * g.strides[i] + rk[i] * g.dilations[i] - g.begin[i] for i in range(g.rank)]
        conditions = [
            test for i in range(g.rank) for test in _inside(c, at[i], x.type.shape[2 + i], g.begin[i] > 0, g.end[i] > 0)
        ]
        channel = rc if attrs.groups == 1 else m // per_group * ic + rc
        return te.sum(_guarded(c, conditions, x(n, channel, *at)) * w(m, rc, *rk), axis=[rc, *rk])

    return c.stage(outs[0], element, "conv")


conv = define(
    "conv",
    ("x", "w"),
    attrs=ConvAttrs,
    infer=_conv_infer,
    **written(plain.conv, lambda a, x, w: {**window_numbers(a, w.shape[2:]), "groups": a.groups}),
    grad=_conv_grad,
    compute=_conv_compute,
    normalise=lambda attrs, x, w: canonical(attrs, x.shape[2:], w.shape[2:]),
    samples=(
        Sample((Arg((2, 3, 6, 5)), Arg((4, 3, 3, 3))), ConvAttrs(pads=(1, 1, 1, 1))),
        Sample((Arg((1, 4, 7, 8)), Arg((6, 2, 3, 2))), ConvAttrs((2, 1), (1, 0, 2, 1), (1, 2), 2)),
        Sample((Arg((2, 3, 9)), Arg((2, 3, 4))), ConvAttrs((3,))),
        Sample((Arg((1, 2, 4, 5, 3)), Arg((3, 2, 2, 3, 1))), ConvAttrs(pads=(1, 0, 0, 0, 1, 0))),
        Sample((Arg((1, 4, 5, 5)), Arg((4, 1, 3, 3))), ConvAttrs(pads=(1, 1, 1, 1), groups=4)),
    ),
    doc="Cross-correlation of x [N, C, *size] with w [M, C / groups, *kernel].",
)

# -- conv_transpose --------------------------------------------------------------------------------------------------


def _transpose_size(attrs: ConvTransposeAttrs, g: Geometry, size: Sequence[Dim]) -> tuple[Dim, ...]:
    rest = attrs.output_padding or (0,) * g.rank
    if len(rest) != g.rank:
        raise GraphError(f"output_padding must have {g.rank} numbers, got {rest}")
    return tuple(
        normal((i - 1) * s - b - e + extent + r)
        for i, s, b, e, extent, r in zip(size, g.strides, g.begin, g.end, g.extent, rest, strict=True)
    )


def _transpose_infer(attrs: ConvTransposeAttrs, x: Type, w: Type) -> Type:
    """x [N, M, *size], w [M, C / groups, *kernel] --> [N, C, *out], out = (i - 1) s - p + d (k - 1) + 1 + rest."""
    check_operands("x and w", x, w)
    check_groups(attrs.groups, **{"input channels": x.shape[1]})
    check_channels("output channels of w (its first axis)", w.shape[0], x.shape[1])
    g = geometry(attrs, w.shape[2:])
    size = _transpose_size(attrs, g, x.shape[2:])
    if any(isinstance(d, int) and d < 1 for d in size):
        raise GraphError(f"the result must not be empty, got {shape_text(size)}; pads are larger than the result")
    return Type(x.dtype, (x.shape[0], normal(w.shape[1] * attrs.groups), *size))


def _transpose_numbers(attrs: ConvTransposeAttrs, x: Type, w: Type) -> dict[str, Any]:
    size = _transpose_size(attrs, geometry(attrs, w.shape[2:]), x.shape[2:])
    return {"size": size, **window_numbers(attrs, w.shape[2:]), "groups": attrs.groups}


def _transpose_grad(grad: Any) -> Gradients:
    """x = conv_transpose(y, w); dy = conv(dx, w), dw = conv_dw(dx, y)."""
    y, w = grad.inputs
    a = grad.attrs
    window = {"strides": a.strides, "pads": a.pads, "dilations": a.dilations, "groups": a.groups}
    dy = grad.b.conv(grad.dy, w, **window) if grad.needs(0) else None
    dw = grad.b.conv_dw(grad.dy, y, kernel=w.type.shape[2:], **window) if grad.needs(1) else None
    return dy, dw


def _transpose_compute(c: Lowering, attrs: ConvTransposeAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import te

    x, w = xs
    g = geometry(attrs, w.type.shape[2:])
    per_in = normal(x.type.shape[1] // attrs.groups)
    per_out = w.type.shape[1]
    rc = c.axis(per_in, "ic")
    rk = [c.axis(k, f"k{i}") for i, k in enumerate(g.kernel)]

    def element(n: Any, m: Any, *o: Any) -> Any:
        conditions, at = [], []
        for i in range(g.rank):
            shifted = o[i] + g.begin[i] - rk[i] * g.dilations[i]
            s = g.strides[i]
            if s > 1:
                conditions.append(te_mod(shifted, s).equal(0))
            position = shifted if s == 1 else shifted // s
            at.append(position)
            conditions += _inside(c, position, x.type.shape[2 + i], True, True)
        channel = rc if attrs.groups == 1 else m // per_out * per_in + rc
        within = m if attrs.groups == 1 else m % per_out
        return te.sum(_guarded(c, conditions, x(n, channel, *at)) * w(channel, within, *rk), axis=[rc, *rk])

    return c.stage(outs[0], element, "conv_transpose")


def te_mod(a: Any, b: int) -> Any:
    """Remainder that is never negative."""
    from tvm import tirx

    return tirx.floormod(a, tirx.const(b, "int64"))


def _transpose_canonical(attrs: ConvTransposeAttrs, x: Type, w: Type) -> ConvTransposeAttrs:
    attrs = canonical(attrs, x.shape[2:], w.shape[2:])
    rest: Any = attrs.output_padding
    rest = (rest,) * (w.rank - 2) if isinstance(rest, int) else tuple(rest)
    return ConvTransposeAttrs(attrs.strides, attrs.pads, attrs.dilations, attrs.groups, rest if any(rest) else ())


conv_transpose = define(
    "conv_transpose",
    ("x", "w"),
    attrs=ConvTransposeAttrs,
    infer=_transpose_infer,
    **written(plain.conv_transpose, _transpose_numbers),
    grad=_transpose_grad,
    compute=_transpose_compute,
    normalise=_transpose_canonical,
    samples=(
        Sample((Arg((2, 4, 3, 4)), Arg((4, 3, 3, 3))), ConvTransposeAttrs((2, 2), (1, 1, 1, 1), output_padding=(1, 0))),
        Sample((Arg((1, 4, 5)), Arg((4, 2, 3))), ConvTransposeAttrs(dilations=(2,), groups=2)),
        Sample((Arg((1, 2, 2, 3, 2)), Arg((2, 3, 2, 2, 2))), ConvTransposeAttrs((2, 2, 2))),
    ),
    doc="The data gradient of conv: x [N, M, *size], w [M, C / groups, *kernel] --> [N, C, *out].",
)

# -- conv_dw ---------------------------------------------------------------------------------------------------------


def _dw_infer(attrs: ConvDwAttrs, x: Type, y: Type) -> Type:
    """x [N, C, *size], dy [N, M, *out] --> dw [M, C / groups, *kernel]."""
    check_operands("x and dy", x, y)
    check_groups(attrs.groups, **{"input channels": x.shape[1], "output channels": y.shape[1]})
    g = geometry(attrs, attrs.kernel)
    out = g.out(x.shape[2:])
    if not all(map(same_or_unknown, (x.shape[0], *out), (y.shape[0], *y.shape[2:]))):
        raise GraphError(f"dy must have size {shape_text((x.shape[0], y.shape[1], *out))}, got {shape_text(y.shape)}")
    return Type(x.dtype, (y.shape[1], normal(x.shape[1] // attrs.groups), *g.kernel))


def _dw_grad(grad: Any) -> Gradients:
    """w = conv_dw(x, y); dx = conv_transpose(y, dw), dy = conv(x, dw)."""
    x, y = grad.inputs
    a = grad.attrs
    g = geometry(a, a.kernel)
    window = {"strides": a.strides, "pads": a.pads, "dilations": a.dilations, "groups": a.groups}
    rest = tuple(
        (i + b + e - extent) % s
        for i, b, e, extent, s in zip(x.type.shape[2:], g.begin, g.end, g.extent, g.strides, strict=True)
    )
    dx = grad.b.conv_transpose(y, grad.dy, output_padding=rest, **window) if grad.needs(0) else None
    return dx, grad.b.conv(x, grad.dy, **window) if grad.needs(1) else None


def _dw_compute(c: Lowering, attrs: ConvDwAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import te

    x, y = xs
    g = geometry(attrs, attrs.kernel)
    per_in = outs[0].shape[1]
    per_out = normal(y.type.shape[1] // attrs.groups)
    rn = c.axis(y.type.shape[0], "n")
    ro = [c.axis(o, f"o{i}") for i, o in enumerate(y.type.shape[2:])]

    def element(m: Any, ic: Any, *k: Any) -> Any:
        at = [ro[i] * g.strides[i] + k[i] * g.dilations[i] - g.begin[i] for i in range(g.rank)]
        conditions = [
            test for i in range(g.rank) for test in _inside(c, at[i], x.type.shape[2 + i], g.begin[i] > 0, g.end[i] > 0)
        ]
        channel = ic if attrs.groups == 1 else m // per_out * per_in + ic
        return te.sum(_guarded(c, conditions, x(rn, channel, *at)) * y(rn, m, *ro), axis=[rn, *ro])

    return c.stage(outs[0], element, "conv_dw")


def _dw_canonical(attrs: ConvDwAttrs, x: Type, y: Type) -> ConvDwAttrs:
    return canonical(attrs, x.shape[2:], attrs.kernel)


conv_dw = define(
    "conv_dw",
    ("x", "dy"),
    attrs=ConvDwAttrs,
    infer=_dw_infer,
    **written(plain.conv_dw, lambda a, x, dy: {"kernel": a.kernel, **window_numbers(a, a.kernel), "groups": a.groups}),
    grad=_dw_grad,
    compute=_dw_compute,
    normalise=_dw_canonical,
    samples=(
        Sample((Arg((2, 3, 6, 5)), Arg((2, 4, 6, 5))), ConvDwAttrs(pads=(1, 1, 1, 1), kernel=(3, 3))),
        Sample((Arg((1, 4, 7, 8)), Arg((1, 6, 4, 7))), ConvDwAttrs((2, 1), (1, 0, 1, 1), (1, 2), 2, (3, 2))),
        Sample((Arg((2, 3, 9)), Arg((2, 2, 2))), ConvDwAttrs((3,), kernel=(4,))),
        Sample((Arg((1, 2, 4, 5, 3)), Arg((1, 3, 3, 3, 3))), ConvDwAttrs(kernel=(2, 3, 1))),
    ),
    doc="The weight gradient of conv from x and the gradient of its result.",
)
