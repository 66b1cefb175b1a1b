"""Max pooling of spatial rank 1 to 3 with its gradient, and what all pooling shares; global pooling is a reduction.

A window of n elements at output o covers the positions o s + k d - p. Positions outside the input never count for the
maximum; for the average they count as zeros where `count_include_pad`, but never beyond the padding (ceil mode).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, same_or_unknown, shape_text
from cnncc.ir.types import Type
from cnncc.ops.common import Gradients, check_float, check_rank, known
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.plain import pool as plain
from cnncc.ops.reducers import is_extreme, maximum, smallest
from cnncc.ops.registry import Arg, Sample, define
from cnncc.ops.window import Geometry, Window, canonical, geometry
from cnncc.ops.written import written


@dataclass(frozen=True)
class PoolAttrs(Window):
    """kernel: sizes of the window. ceil: the last, partial window counts too."""

    kernel: tuple[int, ...] = ()
    ceil: bool = False


def pool_geometry(attrs: PoolAttrs, rank: int) -> Geometry:
    """The window's numbers written out. Raises GraphError where the kernel does not fit the rank."""
    if len(attrs.kernel) != rank:
        raise GraphError(f"kernel must have {rank} numbers for {rank} spatial axes, got {attrs.kernel}")
    return geometry(attrs, attrs.kernel)


def canonical_pool(attrs: Any, x: Type, *rest: Type) -> Any:
    kernel: Any = attrs.kernel
    kernel = (kernel,) * (x.rank - 2) if isinstance(kernel, int) else tuple(kernel)
    return canonical(replace(attrs, kernel=kernel), getattr(attrs, "size", x.shape[2:]), kernel)


def pool_out(attrs: PoolAttrs, x: Type) -> tuple[Dim, ...]:
    check_rank("x", x, 3, 5)
    if x.dtype == "bool":
        raise GraphError("x must be a number type, got bool")
    return pool_geometry(attrs, x.rank - 2).out(x.shape[2:], attrs.ceil)


def infer_pool(attrs: PoolAttrs, x: Type) -> Type:
    """x [N, C, *size] --> [N, C, *out]."""
    return x.with_(shape=(*x.shape[:2], *pool_out(attrs, x)))


def pool_numbers(attrs: PoolAttrs, size: Sequence[Dim]) -> dict[str, Any]:
    """The window as functions of cnncc/ops/plain take it: in ceil mode padded up to the end of the last window."""
    g = pool_geometry(attrs, len(size))
    end = g.end
    if attrs.ceil:
        sizes = known(size, "sizes of a pool in ceil mode")
        out = g.out(sizes, ceil=True)
        spans = zip(out, g.strides, g.extent, sizes, g.begin, strict=True)
        end = tuple(max(0, (int(o) - 1) * s + e - i - b) for o, s, e, i, b in spans)
    return {"kernel": g.kernel, "strides": g.strides, "pads": (*g.begin, *end), "dilations": g.dilations}


def positions(g: Geometry, o: Sequence[Any], k: Sequence[Any]) -> list[Any]:
    """Where tap k of the window at output o lies in the input."""
    return [o[i] * g.strides[i] + k[i] * g.dilations[i] - g.begin[i] for i in range(g.rank)]


def conditions(c: Lowering, g: Geometry, at: Sequence[Any], size: Sequence[Dim], ceil: bool) -> list[Any]:
    """Tests that positions lie in the input, where the geometry does not say so."""
    tests = []
    for i in range(g.rank):
        if g.begin[i]:
            tests.append(at[i] >= 0)
        if g.end[i] or ceil:
            tests.append(at[i] < c.dim(size[i]))
    return tests


def guarded(c: Lowering, tests: list[Any], value: Any, otherwise: Any) -> Any:
    from tvm import tirx

    return c.guard(tirx.all(*tests), value, otherwise) if tests else value


# -- max_pool --------------------------------------------------------------------------------------------------------


def _max_grad(g: Any) -> Gradients:
    """dx: each dy goes to the first largest element of its window."""
    a = g.attrs
    return (
        g.b.max_pool_dx(g.inputs[0], g.dy, kernel=a.kernel, strides=a.strides, pads=a.pads, dilations=a.dilations,
                        ceil=a.ceil),
    )  # fmt: skip


def _max_compute(c: Lowering, attrs: PoolAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    (x,) = xs
    g = pool_geometry(attrs, x.type.rank - 2)
    rk = [c.axis(k, f"k{i}") for i, k in enumerate(g.kernel)]
    low = smallest(x.type.dtype)

    def element(n: Any, ch: Any, *o: Any) -> Any:
        at = positions(g, o, rk)
        value = guarded(c, conditions(c, g, at, x.type.shape[2:], attrs.ceil), x(n, ch, *at), low)
        return maximum(x.type.dtype)(value, axis=rk)

    return c.stage(outs[0], element, "max_pool")


X4 = Arg((2, 3, 7, 6))
_WINDOWS = (
    {"kernel": (2, 2), "strides": (2, 2)},
    {"kernel": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)},
    {"kernel": (3, 2), "strides": (2, 3), "pads": (1, 0, 0, 1), "ceil": True},
    {"kernel": (2, 3), "pads": (0, 2, 1, 1), "dilations": (3, 2)},
)
_LINE = {"kernel": (3,), "strides": (2,), "pads": (1, 1), "ceil": True}
_CUBE = {"kernel": (2, 2, 1), "strides": (2, 1, 1), "pads": (0, 1, 0, 0, 0, 0)}
SHAPES = (*((X4, w) for w in _WINDOWS), (Arg((1, 2, 8)), _LINE), (Arg((1, 2, 4, 3, 3)), _CUBE))

max_pool = define(
    "max_pool",
    ("x",),
    attrs=PoolAttrs,
    infer=infer_pool,
    **written(plain.max_pool, lambda a, x: pool_numbers(a, x.shape[2:])),
    grad=_max_grad,
    compute=_max_compute,
    normalise=canonical_pool,
    samples=(
        *(Sample((x,), PoolAttrs(**w)) for x, w in SHAPES),
        Sample((Arg((1, 2, 5, 5), "i8", -128, 127),), PoolAttrs(kernel=(2, 2), pads=(1, 1, 1, 1)), smooth=False),
    ),
    doc="The largest element of each window.",
)

# -- max_pool_indices ------------------------------------------------------------------------------------------------


def _tap_number(g: Geometry, k: Sequence[Any]) -> Any:
    """The row-major number of a tap as i32."""
    from tvm import tirx

    number: Any = k[0]
    for i in range(1, g.rank):
        number = number * g.kernel[i] + k[i]
    return tirx.Cast("int32", number)


def _first_stage(c: Lowering, attrs: PoolAttrs, x: Operand, out: Sequence[Dim]) -> Operand:
    """Per window the number of its first largest tap (the largest i32 where it has none), as an i32 stage."""
    from tvm import te, tirx

    g = pool_geometry(attrs, x.type.rank - 2)
    shape = (*x.type.shape[:2], *out)
    top = _max_compute(c, attrs, [Type(x.type.dtype, shape)], [x])
    rk = [c.axis(k, f"t{i}") for i, k in enumerate(g.kernel)]

    def element(n: Any, ch: Any, *o: Any) -> Any:
        at = positions(g, o, rk)
        none = tirx.max_value("int32")
        found = tirx.Select(is_extreme(x(n, ch, *at), top(n, ch, *o)), _tap_number(g, rk), none)
        return te.min(guarded(c, conditions(c, g, at, x.type.shape[2:], attrs.ceil), found, none), axis=rk)

    return c.stage(Type("i32", shape), element, "first")


def _indices_compute(c: Lowering, attrs: PoolAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import tirx

    (x,) = xs
    g = pool_geometry(attrs, x.type.rank - 2)
    first = _first_stage(c, attrs, x, outs[0].shape[2:])

    def element(n: Any, ch: Any, *o: Any) -> Any:
        tap = tirx.Cast("int64", first(n, ch, *o))
        flat = n * c.dim(x.type.shape[1]) + ch
        scale = int(np.prod(g.kernel))
        for i, at in enumerate(positions(g, o, [0] * g.rank)):
            scale //= g.kernel[i]
            flat = flat * c.dim(x.type.shape[2 + i]) + at + tap // scale % g.kernel[i] * g.dilations[i]
        return tirx.Select(tap >= np.iinfo(np.int32).max, tirx.const(0, "int64"), flat)

    return c.stage(outs[0], element, "max_pool_indices")


max_pool_indices = define(
    "max_pool_indices",
    ("x",),
    attrs=PoolAttrs,
    infer=lambda attrs, x: infer_pool(attrs, x).with_(dtype="i64"),
    **written(plain.max_pool_indices, lambda a, x: pool_numbers(a, x.shape[2:])),
    no_grad="the result is an index",
    compute=_indices_compute,
    normalise=canonical_pool,
    samples=tuple(Sample((x,), PoolAttrs(**w)) for x, w in SHAPES),
    doc="Row-major index into x of the first largest element of each window.",
)

# -- max_pool_dx -----------------------------------------------------------------------------------------------------


def _max_dx_infer(attrs: PoolAttrs, x: Type, dy: Type) -> Type:
    """x [N, C, *size], dy [N, C, *out] --> dx [N, C, *size]."""
    check_float(x=x, dy=dy)
    wanted = (*x.shape[:2], *pool_out(attrs, x))
    if dy.rank != x.rank or not all(map(same_or_unknown, dy.shape, wanted)):
        raise GraphError(f"dy must have shape {shape_text(wanted)}, got {shape_text(dy.shape)}")
    return x


def sources(c: Lowering, g: Geometry, i: Sequence[Any], k: Sequence[Any], out: Sequence[Dim]) -> tuple[Any, Any]:
    """The output whose tap k lies at input i, and the tests that there is one."""
    from tvm import tirx

    tests, at = [], []
    for a in range(g.rank):
        shifted = i[a] + g.begin[a] - k[a] * g.dilations[a]
        if g.strides[a] > 1:
            tests.append(tirx.EQ(tirx.floormod(shifted, tirx.const(g.strides[a], "int64")), tirx.const(0, "int64")))
        position = shifted // g.strides[a] if g.strides[a] > 1 else shifted
        tests += [position >= 0, position < c.dim(out[a])]
        at.append(position)
    return at, tests


def _max_dx_compute(c: Lowering, attrs: PoolAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import te, tirx

    x, dy = xs
    g = pool_geometry(attrs, x.type.rank - 2)
    out = dy.type.shape[2:]
    first = _first_stage(c, attrs, x, out)
    rk = [c.axis(k, f"t{i}") for i, k in enumerate(g.kernel)]

    def element(n: Any, ch: Any, *i: Any) -> Any:
        at, tests = sources(c, g, i, rk, out)
        zero = c.const(0, x.type.dtype)
        taken = tirx.Select(tirx.EQ(first(n, ch, *at), _tap_number(g, rk)), dy(n, ch, *at), zero)
        return te.sum(guarded(c, tests, taken, zero), axis=rk)

    return c.stage(outs[0], element, "max_pool_dx")


def _max_dx_grad(g: Any) -> Gradients:
    """dx is linear in dy: ddy takes the elements of ddx that were largest; almost nowhere does it depend on x."""
    ddy = None
    if g.needs(1):
        a, x = g.attrs, g.inputs[0]
        where = g.b.max_pool_indices(x, kernel=a.kernel, strides=a.strides, pads=a.pads, dilations=a.dilations,
                                     ceil=a.ceil)  # fmt: skip
        ddy = g.b.gather(g.b.reshape(g.dy, shape=(x.type.elements,)), where)
    return None, ddy


def dx_samples(make: Callable[[Arg, dict[str, Any], tuple[int, ...]], Sample]) -> tuple[Sample, ...]:
    samples = []
    for x, w in SHAPES:
        attrs = PoolAttrs(**w)
        out = infer_pool(attrs, Type("f32", x.shape)).shape
        samples.append(make(x, w, tuple(int(o) for o in out)))
    return tuple(samples)


max_pool_dx = define(
    "max_pool_dx",
    ("x", "dy"),
    attrs=PoolAttrs,
    infer=_max_dx_infer,
    **written(plain.max_pool_dx, lambda a, x, dy: pool_numbers(a, x.shape[2:])),
    grad=_max_dx_grad,
    compute=_max_dx_compute,
    normalise=canonical_pool,
    samples=dx_samples(lambda x, w, out: Sample((x, Arg(out)), PoolAttrs(**w))),
    doc="The data gradient of max_pool; ties go to the first element.",
)
