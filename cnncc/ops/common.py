"""Checks and small helpers that several op families share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, is_static, product, shape_text
from cnncc.ir.dtype import is_float
from cnncc.ir.graph import Value
from cnncc.ir.types import Type

Gradients = Sequence["Value | None"]


def check_float(**types: Type | None) -> None:
    """Operands (by name; absent ones None) must be floating point, all of one dtype."""
    dtypes = {t.dtype for t in types.values() if t is not None}
    if len(dtypes) != 1 or not is_float(next(iter(dtypes))):
        raise GraphError(
            f"{', '.join(types)} must have one floating-point dtype, got {' and '.join(sorted(dtypes))}; insert a cast"
        )


def check_shape(what: str, have: Sequence[Dim], wanted: Sequence[Dim]) -> None:
    """A shape must be the expected one (symbols by name)."""
    if tuple(have) != tuple(wanted):
        raise GraphError(f"{what} must have shape {shape_text(wanted)}, got {shape_text(have)}")


def check_rank(what: str, x: Type, low: int, high: int | None = None) -> None:
    """The rank must lie in a range."""
    if x.rank < low or (high is not None and x.rank > high):
        span = f"at least {low}" if high is None else f"{low} to {high}" if high > low else str(low)
        raise GraphError(f"{what} must have rank {span}, got {x.rank}: {shape_text(x.shape)}")


def known(dims: Sequence[Dim], what: str) -> tuple[int, ...]:
    """Dimensions as numbers. Raises GraphError where one is symbolic."""
    if not is_static(dims):
        raise GraphError(f"{what} must be known, got {shape_text(dims)}; fix the shapes (shapes=...)")
    return tuple(int(d) for d in dims)


def resolve_axis(axis: int, rank: int) -> int:
    """An axis counted from the end --> from the start. Raises GraphError where there is none such."""
    if not -rank <= axis < rank:
        raise GraphError(f"axis must be from {-rank} to {rank - 1} for rank {rank}, got {axis}")
    return axis % rank


def resolve_axes(axes: Sequence[int] | int, rank: int) -> tuple[int, ...]:
    """Axes in ascending order, counted from the start; none means all."""
    given = (axes,) if isinstance(axes, int) else tuple(axes)
    resolved = sorted(resolve_axis(a, rank) for a in given) if given else range(rank)
    if len(set(resolved)) != len(resolved):
        raise GraphError(f"axes must differ, got {given} for rank {rank}")
    return tuple(resolved)


def per_channel(b: Any, v: Value, rank: int) -> Value:
    """[C] --> [C, 1, ..., 1], which broadcasts along axis 1 of a value of that rank."""
    result: Value = v if rank == 2 else b.reshape(v, shape=(*v.type.shape, *(1,) * (rank - 2)))
    return result


def inverse_count(b: Any, x: Value, axes: Sequence[int]) -> Any:
    """1 / (number of elements of x along some axes): a number, or a value where the shape is symbolic."""
    count = product(x.type.shape[a] for a in axes)
    if isinstance(count, int):
        return 1.0 / max(count, 1)
    return b.reciprocal(b.size(x, axes=tuple(axes)))
