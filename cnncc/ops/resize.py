"""Resizing by interpolation along each axis: nearest, linear, cubic, with the coordinates of ONNX and PyTorch.

Output i along an axis reads the input around the coordinate (a i + b) / d, a ratio of whole numbers, so that rounding
is exact and the same everywhere:

    half_pixel            (i + 1/2) / s - 1/2          s = out / in, or the scale given
    pytorch_half_pixel    the same, but 0 where out = 1
    half_pixel_symmetric  the same, moved so that the centres meet where s is not out / in
    asymmetric            i / s
    align_corners         i (in - 1) / (out - 1)

Neighbours outside the input are the nearest edge. cubic: Keys 1981 with a = -0.75.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import lcm
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, normal, product
from cnncc.ir.graph import Value
from cnncc.ir.types import Type
from cnncc.ops.common import Gradients, check_float, known
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.plain import resize as plain
from cnncc.ops.registry import Arg, Sample, define

COORDINATES = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "asymmetric", "align_corners")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
TAPS = {"nearest": 1, "linear": 2, "cubic": 4}
_A = -0.75


@dataclass(frozen=True)
class ResizeAttrs:
    """size: of the trailing axes. mode: "nearest", "linear" or "cubic". coordinates, nearest (rounding): see above.

    scales: per axis of `size` the factor that coordinates use, none or 0 for out / in.
    """

    size: tuple[Dim, ...] = ()
    mode: str = "nearest"
    coordinates: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    scales: tuple[float, ...] = ()


@dataclass(frozen=True)
class AxisMap:
    """Coordinates along one axis: (a i + b) / d of an input of `size` elements."""

    a: int
    b: int
    d: int
    size: int
    out: int

    @property
    def identity(self) -> bool:
        """Whether every output is its own input."""
        return self.size == self.out and self.a == self.d and self.b == 0


def axis_map(attrs: ResizeAttrs, axis: int, size: int, out: int) -> AxisMap:
    """The coordinates along axis `axis` of `attrs.size`."""
    given = attrs.scales[axis] if attrs.scales else 0.0
    scale = Fraction(given).limit_denominator(1 << 16) if given else Fraction(out, max(size, 1))
    kind = attrs.coordinates
    slope, offset = 1 / scale, Fraction(0)
    if kind == "align_corners":
        slope = Fraction(size - 1, out - 1) if out > 1 else Fraction(0)
    elif kind == "pytorch_half_pixel" and out == 1:
        slope = Fraction(0)
    elif kind != "asymmetric":
        offset = slope / 2 - Fraction(1, 2)
        if kind == "half_pixel_symmetric":
            offset += Fraction(size, 2) - out * slope / 2
    d = lcm(slope.denominator, offset.denominator)
    return AxisMap(int(slope * d), int(offset * d), d, size, out)


def nearest_index(m: AxisMap, rounding: str, i: Any) -> Any:
    """The element nearest to the coordinate of output i, before clamping; i is a number, an array or an expression."""
    n = i * m.a + m.b
    if rounding == "floor":
        return n // m.d
    if rounding == "ceil":
        return -((-n) // m.d)
    if rounding == "round_prefer_ceil":
        return (n * 2 + m.d) // (2 * m.d)
    return -((-(n * 2 - m.d)) // (2 * m.d))


def _weights(mode: str, t: Any, one: Any) -> list[Any]:
    """Weights of the neighbours for the fraction t in [0, 1) behind the element on the left."""
    if mode == "linear":
        return [one - t, t]

    def near(x: Any) -> Any:
        return ((one * (_A + 2)) * x - one * (_A + 3)) * x * x + one

    def far(x: Any) -> Any:
        return (((one * _A) * x - one * (5 * _A)) * x + one * (8 * _A)) * x - one * (4 * _A)

    return [far(t + one), near(t), near(one - t), far(one + one - t)]


def axis_taps(attrs: ResizeAttrs, m: AxisMap) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per neighbour: which element each output reads, and its weight (float64)."""
    i = np.arange(m.out)
    if attrs.mode == "nearest":
        return [(np.clip(nearest_index(m, attrs.nearest, i), 0, m.size - 1), np.ones(m.out))]
    n = i * m.a + m.b
    left = n // m.d
    first = 0 if attrs.mode == "linear" else -1
    weights = _weights(attrs.mode, (n - left * m.d) / m.d, 1.0)
    return [(np.clip(left + first + k, 0, m.size - 1), w) for k, w in enumerate(weights)]


def axis_matrix(attrs: ResizeAttrs, m: AxisMap) -> np.ndarray:
    """The interpolation along one axis as a matrix [out, in]."""
    matrix = np.zeros((m.out, m.size))
    for index, weight in axis_taps(attrs, m):
        np.add.at(matrix, (np.arange(m.out), index), weight)
    return matrix


def axis_maps(attrs: ResizeAttrs, x: Type, out: Type) -> list[tuple[int, AxisMap]]:
    """Axes of x that change, with their coordinates."""
    first = x.rank - len(attrs.size)
    sizes = known(x.shape[first:], "sizes to resize"), known(out.shape[first:], "sizes to resize to")
    maps = [axis_map(attrs, k, i, o) for k, (i, o) in enumerate(zip(*sizes, strict=True))]
    return [(first + k, m) for k, m in enumerate(maps) if not m.identity]


def _infer(attrs: ResizeAttrs, x: Type) -> Type:
    """The trailing axes get the given sizes."""
    count = len(attrs.size)
    if not 0 < count <= x.rank or (attrs.scales and len(attrs.scales) != count):
        raise GraphError(
            f"size must have up to {x.rank} numbers, scales none or as many, got {attrs.size} and {attrs.scales}"
        )
    for name, value, allowed in (
        ("mode", attrs.mode, tuple(TAPS)),
        ("coordinates", attrs.coordinates, COORDINATES),
        ("nearest", attrs.nearest, ROUNDINGS),
    ):
        if value not in allowed:
            raise GraphError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    if attrs.mode != "nearest":
        check_float(x=x)
    if any(isinstance(d, int) and d < 1 for d in (*attrs.size, *x.shape[x.rank - count :])):
        raise GraphError(f"sizes must be positive, got {attrs.size} from {x}")
    return x.with_(shape=(*x.shape[: x.rank - count], *(normal(d) for d in attrs.size)))


def _reference(attrs: ResizeAttrs, x: np.ndarray) -> np.ndarray:
    type_ = Type.of(x)
    for axis, m in axis_maps(attrs, type_, _infer(attrs, type_)):
        taps = axis_taps(attrs, m)
        shape = (-1, *(1,) * (x.ndim - 1 - axis))
        parts = [np.take(x, index, axis) for index, _ in taps]
        x = parts[0] if attrs.mode == "nearest" else _summed(parts, [w.reshape(shape) for _, w in taps], x.dtype)
    return x


def _summed(parts: Sequence[np.ndarray], weights: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    return np.asarray(sum(p * w.astype(dtype) for p, w in zip(parts, weights, strict=True)))


def _numpy(s: Any) -> str:
    """One call for each axis that changes, one inside of the other."""
    text: str = s[0]
    for axis, m in axis_maps(s.attrs, s.types[0], s.out):
        numbers: dict[str, Any] = {"axis": axis, "n": m.out, "a": m.a, "b": m.b, "d": m.d}
        if s.attrs.mode == "nearest":
            text = s.call(plain.nearest_axis, text, **numbers, rounding=s.attrs.nearest)
        else:
            text = s.call(plain.linear_axis if s.attrs.mode == "linear" else plain.cubic_axis, text, **numbers)
    return text


def _grad(g: Any) -> Gradients:
    """Along each axis y = W x; dx = W^T dy. Where every element is repeated n times, dx is the sum of n elements."""
    (x,), dx, b = g.inputs, g.dy, g.b
    for axis, m in axis_maps(g.attrs, x.type, g.outputs[0].type):
        matrix = axis_matrix(g.attrs, m)
        repeats = m.out // m.size
        if m.out == repeats * m.size and np.array_equal(matrix, np.repeat(np.eye(m.size), repeats, 0)):
            before, after = dx.type.shape[:axis], dx.type.shape[axis + 1 :]
            dx = b.reduce_sum(b.reshape(dx, shape=(*before, m.size, repeats, *after)), axes=(axis + 1,), keepdims=False)
        else:
            dx = _transposed(b, dx, axis, matrix.astype(x.type.numpy))
    return (dx,)


def _transposed(b: Any, dy: Value, axis: int, matrix: np.ndarray) -> Value:
    """W^T along one axis, as a matrix product."""
    shape = dy.type.shape
    before, after = shape[:axis], shape[axis + 1 :]
    if after:
        flat = b.reshape(dy, shape=(product(before), shape[axis], product(after)))
        dx = b.matmul(b.constant(matrix), flat, transpose_x=True)
    else:
        dx = b.matmul(dy, b.constant(matrix))
    result: Value = b.reshape(dx, shape=(*before, matrix.shape[1], *after))
    return result


def _element(c: Lowering, attrs: ResizeAttrs, out: Type, xs: Sequence[Operand], index: tuple[Any, ...]) -> Any:
    (x,) = xs
    maps = axis_maps(attrs, x.type, out)
    if attrs.mode == "nearest":
        at = list(index)
        for axis, m in maps:
            at[axis] = _clamped(c, nearest_index(m, attrs.nearest, index[axis]), m.size)
        return x(*at)
    return _interpolated(c, attrs, x, out.dtype, list(index), maps)


def _interpolated(
    c: Lowering, attrs: ResizeAttrs, x: Operand, dtype: str, at: list[Any], maps: Sequence[tuple[int, AxisMap]]
) -> Any:
    """The sum over neighbours along the first of the axes, of sums over the others."""
    if not maps:
        return x(*at)
    (axis, m), *rest = maps
    n = at[axis] * m.a + m.b
    left = n // m.d
    t = c.math.cast(n - left * m.d, dtype) * c.const(1.0 / m.d, dtype)
    first = 0 if attrs.mode == "linear" else -1
    total = None
    for k, weight in enumerate(_weights(attrs.mode, t, c.const(1.0, dtype))):
        there = list(at)
        there[axis] = _clamped(c, left + (first + k), m.size)
        term = _interpolated(c, attrs, x, dtype, there, rest) * weight
        total = term if total is None else total + term
    return total


def _clamped(c: Lowering, i: Any, size: int) -> Any:
    from tvm import tirx

    return tirx.max(tirx.min(i, c.dim(size - 1)), c.dim(0))


def _canonical(attrs: ResizeAttrs, x: Type) -> ResizeAttrs:
    scales = tuple(float(s) for s in attrs.scales)
    return replace(attrs, size=tuple(attrs.size), scales=scales if any(scales) else ())


_X = Arg((1, 2, 4, 5))
_MODES = (("nearest", "asymmetric", "floor"), ("nearest", "half_pixel", "round_prefer_floor"),
          ("nearest", "align_corners", "round_prefer_ceil"), ("nearest", "pytorch_half_pixel", "ceil"),
          *(("linear", c, "floor") for c in COORDINATES), ("cubic", "half_pixel", "floor"),
          ("cubic", "align_corners", "floor"))  # fmt: skip

resize = define(
    "resize",
    ("x",),
    attrs=ResizeAttrs,
    infer=_infer,
    reference=_reference,
    numpy=_numpy,
    grad=_grad,
    element=_element,
    moves=False,
    normalise=_canonical,
    samples=(
        *(Sample((_X,), ResizeAttrs(size, *mode)) for mode in _MODES for size in ((7, 3),)),
        Sample((_X,), ResizeAttrs((8, 10), "nearest", "asymmetric", "floor")),
        Sample((_X,), ResizeAttrs((8, 10), "linear")),
        Sample((_X,), ResizeAttrs((1, 1), "linear", "pytorch_half_pixel")),
        Sample((_X,), ResizeAttrs((6, 7), "linear", "half_pixel", scales=(1.6, 1.5))),
        Sample((_X,), ResizeAttrs((6, 7), "linear", "half_pixel_symmetric", scales=(1.6, 1.5))),
        Sample((Arg((1, 2, 3, 4, 3)),), ResizeAttrs((2, 6, 4), "linear", "align_corners")),
        Sample((Arg((2, 3, 5), "i32", -9, 9),), ResizeAttrs((8,), "nearest"), smooth=False),
    ),
    doc="Interpolation of the trailing axes to given sizes.",
)
