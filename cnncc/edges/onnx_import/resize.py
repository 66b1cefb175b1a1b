"""Resize and Upsample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnncc.edges.onnx_import.context import Call, Results
from cnncc.edges.onnx_import.symbolic import floor, rational
from cnncc.ir.dims import Dim
from cnncc.ir.graph import Value


def upsample(n: Call) -> Results:
    """Upsample (before opset 10): floor(size * scale), corners at 0."""
    scales = n.numbers(1, "scales").reshape(-1).tolist() if n.version >= 9 else list(n.attr_floats("scales") or ())
    mode = n.attr_str("mode", "nearest")
    return _resize(n, _scaled(n, scales), scales, tuple(range(n.rank(0))), mode, "asymmetric", "floor")


def resize(n: Call) -> Results:
    """Resize by scales or to sizes."""
    rank = n.rank(0)
    mode = n.attr_str("mode", "nearest")
    if n.version < 11:
        scales = n.numbers(1, "scales").reshape(-1).tolist()
        return _resize(n, _scaled(n, scales), scales, tuple(range(rank)), mode, "asymmetric", "floor")
    if n.attr_int("antialias"):
        n.unsupported("antialias=1")
    if n.attr_int("exclude_outside"):
        n.unsupported("exclude_outside=1")
    if n.attr_float("cubic_coeff_a", -0.75) != -0.75:
        n.unsupported(f"cubic_coeff_a={n.attr_float('cubic_coeff_a')}")
    axes = n.attr_ints("axes")
    axes = tuple(range(rank)) if axes is None else n.axes(axes, rank)
    coordinates = n.attr_str("coordinate_transformation_mode", "half_pixel")
    rounding = n.attr_str("nearest_mode", "round_prefer_floor")
    shape = n.shape(0)
    scales_given = n.has(2) and n.shape(2) != (0,)
    if scales_given:
        scales = n.elements(2, "scales")
        _check_count(n, "scales", scales, axes)
        sizes = [_floor_scaled(n, shape[a], s) for a, s in zip(axes, scales, strict=True)]
    else:
        if not n.has(3):
            n.fail("needs scales or sizes, got neither")
        sizes = list(n.dims(3, "sizes"))
        _check_count(n, "sizes", sizes, axes)
        sizes, scales = _policy(n, sizes, axes)
    target = list(shape)
    full: list[Any] = [1.0] * rank
    for axis, size, scale in zip(axes, sizes, scales, strict=True):
        target[axis], full[axis] = size, scale
    return _resize(n, target, full, tuple(range(rank)), mode, coordinates, rounding)


def _check_count(n: Call, name: str, values: Sequence[Any], axes: Sequence[int]) -> None:
    if len(values) != len(axes):
        n.fail(f"{name} must be {len(axes)} numbers, got {len(values)}")


def _policy(n: Call, sizes: list[Dim], axes: Sequence[int]) -> tuple[list[Dim], list[Any]]:
    """Sizes after keep_aspect_ratio_policy, and the scales they mean (None: size / input size)."""
    policy = n.attr_str("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return sizes, [None] * len(sizes)
    shape = n.shape(0)
    ratios = [
        s / shape[a] for s, a in zip(sizes, axes, strict=True) if isinstance(s, int) and isinstance(shape[a], int)
    ]
    if len(ratios) != len(sizes):
        n.unsupported(f"keep_aspect_ratio_policy={policy} with symbolic sizes; fix the shapes (shapes=...)")
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [int(np.floor(shape[a] * scale + 0.5)) for a in axes], [scale] * len(sizes)


def _scaled(n: Call, scales: Sequence[Any]) -> list[Dim]:
    shape = n.shape(0)
    _check_count(n, "scales", scales, shape)
    return [_floor_scaled(n, d, s) for d, s in zip(shape, scales, strict=True)]


def _floor_scaled(n: Call, d: Dim, scale: Any) -> Dim:
    if isinstance(d, int) and isinstance(scale, (int, float)):
        return int(np.floor(np.float32(d) * np.float32(scale)))
    if isinstance(scale, float) and scale == 1.0:
        return d
    return floor(d * rational(scale))


def _resize(
    n: Call,
    target: Sequence[Dim],
    scales: Sequence[Any],
    axes: Sequence[int],
    mode: str,
    coordinates: str,
    rounding: str,
) -> Results:
    """The trailing axes from the first that changes."""
    x: Value = n.value(0)
    if coordinates == "tf_crop_and_resize":
        n.unsupported("coordinate_transformation_mode=tf_crop_and_resize")
    if tuple(target) == x.type.shape and all(s is None or s == 1 for s in scales):
        return n.tensor(0)
    first = next((a for a in axes if target[a] != x.type.shape[a] or scales[a] not in (None, 1)), 0)
    first = min(first, 2)
    used = tuple(float(s) if isinstance(s, (int, float)) else 0.0 for s in scales[first:])
    return n.op(
        "resize", x, size=tuple(target[first:]), mode={"bilinear": "linear"}.get(mode, mode),
        coordinates=coordinates, nearest=rounding, scales=used if any(used) else (),
    )  # fmt: skip


TABLE: dict[str, Callable[[Call], Results]] = {"Resize": resize, "Upsample": upsample}
