"""Convolution by Fourier transforms of tiles (overlap-save), split at the filters' spectra, which become constants.

`lay-out` rewrites conv(x, w) --> fft_conv(x, fft_weights(w)) where `choose` found that the algorithm pays. Stride 1,
any pads and dilations, one group or a group for every channel.

Spectra are those of real numbers, so half of the columns are kept. They are conjugated (correlation), turned by the
shift of `Axis`, and divided by `FftAttrs.scale`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.types import Type
from cnncc.ops.fft_tiles import Axis, axis
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.registry import Arg, Sample, define

_NO_GRAD = "made after differentiation, by the choice of algorithms"


@dataclass(frozen=True)
class FftAttrs:
    """lengths: points of a transform per axis. size: of the input; kernel, pads and dilations: as in conv; groups: 1,
    or the number of channels."""

    lengths: tuple[int, ...] = (8, 8)
    size: tuple[int, ...] = (1, 1)
    kernel: tuple[int, ...] = (1, 1)
    pads: tuple[int, ...] = (0, 0, 0, 0)
    dilations: tuple[int, ...] = (1, 1)
    groups: int = 1

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Where tiles lie, per axis. Raises GraphError where a transform has too few points."""
        found = []
        for k, length in enumerate(self.lengths):
            extent = self.dilations[k] * (self.kernel[k] - 1) + 1
            tiles = axis(length, self.size[k], extent, self.pads[k], self.pads[len(self.lengths) + k])
            if tiles is None:
                raise GraphError(
                    f"a transform must have at least as many points as the taps, got {length} for {extent}"
                )
            found.append(tiles)
        return tuple(found)

    @property
    def scale(self) -> int:
        """What transforms forth and back multiply by: the points, and 2, as two rows of real numbers are one line."""
        return 2 * math.prod(self.lengths)

    @property
    def half(self) -> int:
        """Columns of a spectrum that are kept."""
        return self.lengths[1] // 2 + 1

    def spectra(self, outputs: Any, inputs: Any) -> tuple[Any, ...]:
        """The shape of the prepared weights."""
        if self.groups > 1:
            return (outputs, self.half, self.lengths[0], 2)
        return (self.half, self.lengths[0], 2, outputs, inputs)


def _weights_infer(attrs: FftAttrs, w: Type) -> Type:
    """w [M, C / groups, kh, kw] --> [C, Tx / 2 + 1, Ty, 2] of groups of one channel, else [Tx / 2 + 1, Ty, 2, M, C]."""
    if w.rank != 4 or w.shape[2:] != attrs.kernel or (attrs.groups > 1 and w.shape[1] != 1):
        raise GraphError(f"weights must be [M, C, {', '.join(map(str, attrs.kernel))}], got {w}")
    _ = attrs.axes
    return w.with_(shape=attrs.spectra(w.shape[0], w.shape[1]))


def transform_filters(attrs: FftAttrs, w: np.ndarray) -> np.ndarray:
    """The filters' spectra, computed in double precision."""
    spread = np.zeros((*w.shape[:2], *(d * (k - 1) + 1 for k, d in zip(attrs.kernel, attrs.dilations, strict=True))))
    spread[:, :, :: attrs.dilations[0], :: attrs.dilations[1]] = w
    high, wide = attrs.axes
    circle = np.zeros((*w.shape[:2], *attrs.lengths))
    circle[:, :, : high.taps, : wide.taps] = spread[
        :, :, high.first : high.first + high.taps, wide.first : wide.first + wide.taps
    ]
    circle = np.roll(circle, (-high.shift, -wide.shift), axis=(2, 3))
    found = np.conj(np.fft.rfft2(circle)) / attrs.scale
    parts = np.stack([found.real, found.imag]).transpose(4, 3, 0, 1, 2)  # column, row, part, output, input
    if attrs.groups > 1:
        parts = parts[..., 0].transpose(3, 0, 1, 2)
    return np.ascontiguousarray(parts.astype(w.dtype))


def _weights_compute(c: Lowering, attrs: FftAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import te, tirx

    (w,) = xs
    dtype = outs[0].dtype
    taps = [c.axis(k, "k") for k in attrs.kernel]
    places = [
        k * d - a.first - a.shift for k, d, a in zip(taps, attrs.dilations, attrs.axes, strict=True)
    ]  # around the circle
    met = tirx.all(
        *(
            bound
            for k, d, a in zip(taps, attrs.dilations, attrs.axes, strict=True)
            for bound in (k * d >= a.first, k * d < a.first + a.taps)
        )
    )

    def element(*index: Any) -> Any:
        o, i, row, column, part = (
            (index[0], c.dim(0), index[2], index[1], index[3]) if attrs.groups > 1 else
            (index[3], index[4], index[1], index[0], index[2])
        )  # fmt: skip
        angle = _angle(c, dtype, [(row, places[0], attrs.lengths[0]), (column, places[1], attrs.lengths[1])])
        wave = tirx.Select(part.equal(0), tirx.cos(angle), tirx.sin(angle))
        scale = c.const(1 / attrs.scale, dtype)
        return te.sum(tirx.Select(met, w(o, i, *taps) * wave * scale, c.const(0, dtype)), axis=taps)

    return c.stage(outs[0], element, "spectra")


def _angle(c: Lowering, dtype: str, turns: Sequence[tuple[Any, Any, int]]) -> Any:
    """2 pi sum j k / n of terms (j, k, n)."""
    from tvm import tirx

    total = c.const(0, dtype)
    for j, k, n in turns:
        total = total + tirx.Cast(total.ty.dtype, tirx.floormod(j * k, n)) * c.const(2 * math.pi / n, dtype)
    return total


fft_weights = define(
    "fft_weights",
    ("w",),
    attrs=FftAttrs,
    infer=_weights_infer,
    reference=transform_filters,
    no_grad=_NO_GRAD,
    compute=_weights_compute,
    samples=(
        Sample((Arg((3, 1, 3, 4)),), FftAttrs((8, 6), (9, 5), (3, 4), (1, 1, 1, 2), groups=3)),
        Sample((Arg((3, 2, 3, 3)),), FftAttrs((8, 9), (4, 5), (3, 3), (2, 2, 2, 2), (1, 2))),
    ),
    doc="Spectra of filters, for fft_conv.",
)


def _conv_infer(attrs: FftAttrs, x: Type, u: Type) -> Type:
    """x [N, C, H, W], u as fft_weights makes it --> [N, M, H + p - kh + 1, W + p - kw + 1]."""
    if x.rank != 4 or x.shape[2:] != attrs.size or x.dtype != u.dtype:
        raise GraphError(f"x must be [N, C, {', '.join(map(str, attrs.size))}] of the dtype of u, got {x} and {u}")
    outputs = u.shape[0] if attrs.groups > 1 else u.shape[3]
    if u.shape != attrs.spectra(outputs, x.shape[1]) or (attrs.groups > 1 and outputs != x.shape[1]):
        raise GraphError(f"u must have the shape {attrs.spectra(outputs, x.shape[1])}, got {u}")
    return Type(x.dtype, (x.shape[0], outputs, *(a.out for a in attrs.axes)))


def _conv_reference(attrs: FftAttrs, x: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The taps from their spectra, then the sum over them."""
    high, wide = attrs.axes
    depthwise = attrs.groups > 1
    parts = u.transpose(3, 0, 2, 1)[:, :, None] if depthwise else u.transpose(2, 3, 4, 1, 0)
    circle = np.fft.irfft2(parts[0] - 1j * parts[1], attrs.lengths) * attrs.scale
    w = np.roll(circle, (high.shift, wide.shift), axis=(2, 3)).astype(x.dtype)
    ends = [max(0, a.out + a.taps - 1 - a.pad - a.size) for a in attrs.axes]
    xp = np.pad(x, [(0, 0), (0, 0), (high.pad, ends[0]), (wide.pad, ends[1])])
    out = np.zeros((x.shape[0], w.shape[0], high.out, wide.out), x.dtype)
    for j in range(high.taps):
        for k in range(wide.taps):
            part = xp[:, :, j : j + high.out, k : k + wide.out]
            out += part * w[:, 0, j, k, None, None] if depthwise else np.einsum("ncyx,mc->nmyx", part, w[:, :, j, k])
    return out


def _conv_compute(c: Lowering, attrs: FftAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    """The filters around the circle from their spectra, then the convolution with them."""
    from tvm import te, tirx

    x, u = xs
    dtype, half = x.type.dtype, attrs.half
    ty, tx = attrs.lengths
    inputs = 1 if attrs.groups > 1 else u.type.shape[4]
    row, column = c.axis(ty, "row"), c.axis(half, "column")
    axes = attrs.axes

    def tap(m: Any, i: Any, *taps: Any) -> Any:
        turns = [(j, k - a.shift, a.length) for j, k, a in zip((row, column), taps, axes, strict=True)]
        angle = _angle(c, dtype, turns)
        at = [(m, column, row, part) if attrs.groups > 1 else (column, row, part, m, i) for part in (0, 1)]
        re, im = (u(*(c.dim(k) if isinstance(k, int) else k for k in index)) for index in at)
        once = tirx.any(column.equal(0), (column * 2).equal(tx))
        weight = tirx.Select(once, c.const(2, dtype), c.const(4, dtype))
        return te.sum(weight * (re * tirx.cos(angle) + im * tirx.sin(angle)), axis=[row, column])

    w = c.stage(Type(dtype, (outs[0].shape[1], inputs, *(a.taps for a in axes))), tap, "taps")
    ic, taps = c.axis(inputs, "ic"), [c.axis(a.taps, "k") for a in axes]

    def result(n: Any, m: Any, *at: Any) -> Any:
        place = [o + k - a.pad for o, k, a in zip(at, taps, axes, strict=True)]
        inside = tirx.all(*(b for p, a in zip(place, axes, strict=True) for b in (p >= 0, p < a.size)))
        value = x(n, m if attrs.groups > 1 else ic, *place)
        return te.sum(c.guard(inside, value, c.const(0, dtype)) * w(m, ic, *taps), axis=[ic, *taps])

    return c.stage(outs[0], result, "output")


fft_conv = define(
    "fft_conv",
    ("x", "u"),
    attrs=FftAttrs,
    infer=_conv_infer,
    reference=_conv_reference,
    no_grad=_NO_GRAD,
    compute=_conv_compute,
    samples=(
        Sample((Arg((2, 3, 9, 5)), Arg((3, 4, 8, 2))), FftAttrs((8, 6), (9, 5), (3, 4), (1, 1, 1, 2), groups=3)),
        Sample((Arg((2, 2, 4, 5)), Arg((5, 8, 2, 3, 2))), FftAttrs((8, 9), (4, 5), (3, 3), (2, 2, 2, 2), (1, 2))),
    ),
    doc="Convolution of stride 1 by Fourier transforms of tiles, with filters transformed by fft_weights.",
)
