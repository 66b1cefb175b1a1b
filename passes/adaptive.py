"""Rules of canonicalize: adaptive pooling whose windows are equally long is pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cnncc.builder import Builder
from cnncc.ir.dims import Dim
from cnncc.ir.graph import Node, Value
from cnncc.passes.rules import Decline, Rule, rule


def _window(large: Sequence[Dim], small: Sequence[Dim]) -> dict[str, Any] | Decline:
    """kernel and strides of the pool from sizes `large` to sizes `small`."""
    pairs = list(zip(large, small, strict=True))
    if not all(isinstance(d, int) for pair in pairs for d in pair):
        return Decline("sizes are symbolic")
    if any(m % n for m, n in pairs):
        return Decline(f"windows differ in length: {[m for m, _ in pairs]} elements, {[n for _, n in pairs]} windows")
    kernel = tuple(int(m // n) for m, n in pairs)
    return {"kernel": kernel, "strides": kernel}


def _pool(b: Builder, root: Node, x: Value, op: str) -> Value | Decline:
    window = _window(x.type.shape[2:], root.attrs.size)
    return window if isinstance(window, Decline) else b.op(op, x, **window)


@rule("adaptive_average_pool(x)")
def even_average(b: Builder, root: Node, x: Value) -> Value | Decline:
    """adaptive_average_pool(x [m], n) --> average_pool(x, kernel m / n, strides m / n)."""
    return _pool(b, root, x, "average_pool")


@rule("adaptive_max_pool(x)")
def even_max(b: Builder, root: Node, x: Value) -> Value | Decline:
    """adaptive_max_pool(x [m], n) --> max_pool(x, kernel m / n, strides m / n)."""
    return _pool(b, root, x, "max_pool")


@rule("adaptive_max_pool_indices(x)")
def even_indices(b: Builder, root: Node, x: Value) -> Value | Decline:
    """adaptive_max_pool_indices(x [m], n) --> max_pool_indices(x, kernel m / n, strides m / n)."""
    return _pool(b, root, x, "max_pool_indices")


@rule("adaptive_average_pool_dx(dy)")
def even_average_dx(b: Builder, root: Node, dy: Value) -> Value | Decline:
    """adaptive_average_pool_dx(dy [n], m) --> average_pool_dx(dy, kernel m / n, strides m / n)."""
    window = _window(root.attrs.size, dy.type.shape[2:])
    if isinstance(window, Decline):
        return window
    return b.average_pool_dx(dy, size=root.attrs.size, **window)


@rule("adaptive_max_pool_dx(x, dy)")
def even_max_dx(b: Builder, x: Value, dy: Value) -> Value | Decline:
    """adaptive_max_pool_dx(x [m], dy [n]) --> max_pool_dx(x, dy, kernel m / n, strides m / n)."""
    window = _window(x.type.shape[2:], dy.type.shape[2:])
    return window if isinstance(window, Decline) else b.max_pool_dx(x, dy, **window)


RULES: tuple[Rule, ...] = (even_average, even_max, even_indices, even_average_dx, even_max_dx)
