"""Sliding windows: the geometry that convolution and pooling share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, normal, shape_text

T = TypeVar("T", bound="Window")


@dataclass(frozen=True)
class Window:
    """Steps, padding and spacing of a window. Canonical form: the empty tuple where every axis has the default.

    pads: begin per spatial axis, then end per spatial axis. In Python an integer stands for every axis, r numbers for
    the same padding at both ends; "valid", "full", "same_upper" and "same_lower" are resolved from the shapes.
    """

    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()


@dataclass(frozen=True)
class Geometry:
    """A window with every number written out, per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    dilations: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def extent(self) -> tuple[int, ...]:
        """The span of a dilated window: d (k - 1) + 1."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def out(self, size: Sequence[Dim], ceil: bool = False) -> tuple[Dim, ...]:
        """Output sizes, floor((i + p - e) / s) + 1 (Dumoulin and Visin 2016). Raises GraphError where none fits.

        With `ceil` the last, partial window counts too, unless it would start in the padding at the end.
        """
        result: list[Dim] = []
        for axis, i in enumerate(size):
            e, s = self.extent[axis], self.strides[axis]
            room = normal(i + self.begin[axis] + self.end[axis] - e)
            if isinstance(room, int) and room < 0:
                raise GraphError(
                    f"the window must fit into the padded input: axis {axis} has {shape_text([i])} + "
                    f"{self.begin[axis]} + {self.end[axis]} < {e}"
                )
            o = normal(-(-room // s) + 1 if ceil else room // s + 1)
            if ceil and e - self.end[axis] < s:  # the last window may start behind the input
                o = _without_last(o, normal(-(-(i + self.begin[axis]) // s)))
            result.append(o)
        return tuple(result)


def _without_last(count: Dim, inside: Dim) -> Dim:
    """The number of windows without the last, where fewer than all start inside (before the padding at the end)."""
    if isinstance(count, int) and isinstance(inside, int):
        return count - (count > inside)
    import sympy

    return normal(sympy.Max(sympy.Min(count, inside), count - 1))


def geometry(attrs: Window, kernel: Sequence[Dim]) -> Geometry:
    """The full geometry of a window with a kernel of the given sizes. Raises GraphError on impossible numbers."""
    r = len(kernel)
    if not all(isinstance(k, int) and k > 0 for k in kernel):
        raise GraphError(f"kernel sizes must be positive numbers, got {shape_text(kernel)}")
    strides = attrs.strides or (1,) * r
    dilations = attrs.dilations or (1,) * r
    pads = attrs.pads or (0,) * (2 * r)
    for name, value, count in (("strides", strides, r), ("dilations", dilations, r), ("pads", pads, 2 * r)):
        if len(value) != count:
            raise GraphError(f"{name} must have {count} numbers for {r} spatial axes, got {value}")
        if any(v < (0 if name == "pads" else 1) for v in value):
            raise GraphError(f"{name} must be {'at least 0' if name == 'pads' else 'positive'}, got {value}")
    return Geometry(tuple(int(k) for k in kernel), strides, pads[:r], pads[r:], dilations)


def window_numbers(attrs: Window, kernel: Sequence[Dim]) -> dict[str, tuple[int, ...]]:
    """strides, pads and dilations written out, as functions of cnncc/ops/plain take them."""
    g = geometry(attrs, kernel)
    return {"strides": g.strides, "pads": (*g.begin, *g.end), "dilations": g.dilations}


def canonical(attrs: T, size: Sequence[Dim], kernel: Sequence[Any]) -> T:
    """What a user wrote (integers, r pads, mode names) --> the canonical form."""
    r = len(kernel)
    values: dict[str, Any] = {f.name: getattr(attrs, f.name) for f in fields(attrs)}
    for name in ("strides", "dilations"):
        value = values[name]
        values[name] = (value,) * r if isinstance(value, int) else tuple(value)
    pads = values["pads"]
    if isinstance(pads, str):
        pads = _named(pads, size, kernel, values["strides"] or (1,) * r, values["dilations"] or (1,) * r)
    pads = (pads,) * (2 * r) if isinstance(pads, int) else tuple(pads)
    values["pads"] = pads * 2 if len(pads) == r else pads
    for name, default in (("strides", 1), ("dilations", 1), ("pads", 0)):
        if all(v == default for v in values[name]):
            values[name] = ()
    return replace(attrs, **{name: values[name] for name in ("strides", "pads", "dilations")})


def _named(
    mode: str, size: Sequence[Dim], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...]:
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    mode = mode.lower()
    if mode == "valid":
        return (0,) * (2 * len(extents))
    if mode == "full":
        return tuple(e - 1 for e in extents) * 2
    if mode not in ("same", "same_upper", "same_lower"):
        raise GraphError(f"pads must be numbers, 'valid', 'full', 'same_upper' or 'same_lower', got {mode!r}")
    begin, end = [], []
    for i, e, s in zip(size, extents, strides, strict=True):
        if s == 1:
            total = e - 1
        elif isinstance(i, int):
            total = max((-(-i // s) - 1) * s + e - i, 0)
        else:
            raise GraphError(f"'{mode}' padding with stride {s} needs a known size, got {i}; fix it (shapes=...)")
        small = total // 2
        begin.append(total - small if mode == "same_lower" else small)
        end.append(small if mode == "same_lower" else total - small)
    return (*begin, *end)


def last(where: Sequence[Any]) -> Any:
    """An index into the last axes of an array."""
    return (..., *where)


def padded(x: np.ndarray, g: Geometry, value: Any = 0, extra: Sequence[int] = ()) -> np.ndarray:
    """An array [N, C, *size] with the geometry's padding; `extra` more rows at the end of each axis."""
    more = extra or (0,) * g.rank
    widths = [(0, 0), (0, 0), *((b, e + m) for b, e, m in zip(g.begin, g.end, more, strict=True))]
    return np.pad(x, widths, constant_values=value)


def taps(g: Geometry, out: Sequence[int]) -> list[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """For each position in the kernel: its index, and the slices of the padded input that it meets."""
    result = []
    for k in np.ndindex(*g.kernel):
        where = tuple(
            slice(i * d, i * d + (o - 1) * s + 1, s) for i, d, o, s in zip(k, g.dilations, out, g.strides, strict=True)
        )
        result.append((tuple(k), where))
    return result
