"""Adaptive pooling: to a given output size, and its gradients.

Output o of n over an input of m elements covers the inputs floor(o m / n) up to (without) ceil((o + 1) m / n); windows
may overlap. Seen from the input the same holds with m and n exchanged: input i lies in the windows floor(i n / m) up to
ceil((i + 1) n / m). (PyTorch's definition.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, normal, product, shape_text
from cnncc.ir.types import Type
from cnncc.ops.common import Gradients, check_float, check_rank, check_shape, known
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.plain import adaptive as plain
from cnncc.ops.reducers import is_extreme, maximum, smallest
from cnncc.ops.registry import Arg, Sample, define
from cnncc.ops.written import written


@dataclass(frozen=True)
class AdaptiveAttrs:
    """size: spatial sizes of the result; in Python a number stands for every axis."""

    size: tuple[Dim, ...] = ()


@dataclass(frozen=True)
class Spans:
    """The windows along one axis: `n` of them over `m` elements."""

    m: int
    n: int

    def start(self, o: Any) -> Any:
        """First element of window o (a number or an expression)."""
        return o * self.m // self.n

    def end(self, o: Any) -> Any:
        """One past the last element of window o."""
        return ((o + 1) * self.m + (self.n - 1)) // self.n

    @property
    def longest(self) -> int:
        """Elements of the longest window."""
        return max(int(self.end(o) - self.start(o)) for o in range(self.n))

    @property
    def even(self) -> bool:
        """Whether all windows are equally long (and do not overlap)."""
        return self.m % self.n == 0


def _canonical(attrs: AdaptiveAttrs, x: Type, *rest: Type) -> AdaptiveAttrs:
    given: Any = attrs.size
    return replace(attrs, size=(given,) * (x.rank - 2) if isinstance(given, int) else tuple(given))


def _infer(attrs: AdaptiveAttrs, x: Type) -> Type:
    """x [N, C, *in] --> [N, C, *size]."""
    check_float(x=x)
    check_rank("x", x, 3, 5)
    if len(attrs.size) != x.rank - 2 or any(isinstance(d, int) and d < 1 for d in (*attrs.size, *x.shape[2:])):
        raise GraphError(f"size must be {x.rank - 2} positive numbers, got {shape_text(attrs.size)} for {x}")
    return x.with_(shape=(*x.shape[:2], *(normal(d) for d in attrs.size)))


def _spans(large: Sequence[Dim], small: Sequence[Dim]) -> list[Spans]:
    """Windows over sizes `large`, as many as `small`, per axis."""
    return [Spans(m, n) for m, n in zip(known(large, "sizes"), known(small, "sizes"), strict=True)]


def _taps(c: Lowering, spans: Sequence[Spans], o: Sequence[Any], k: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Where tap k of window o lies, and the tests that the window is that long."""
    at = [s.start(i) + j for s, i, j in zip(spans, o, k, strict=True)]
    return at, [p < s.end(i) for p, s, i in zip(at, spans, o, strict=True) if not s.even]


def _guarded(c: Lowering, tests: list[Any], value: Any, otherwise: Any) -> Any:
    from tvm import tirx

    return c.guard(tirx.all(*tests), value, otherwise) if tests else value


def _axes(c: Lowering, spans: Sequence[Spans], name: str) -> list[Any]:
    return [c.axis(s.longest, f"{name}{i}") for i, s in enumerate(spans)]


def _length(c: Lowering, spans: Sequence[Spans], o: Sequence[Any], dtype: str) -> Any:
    """Number of elements in window o."""
    total: Any = 1
    for s, i in zip(spans, o, strict=True):
        total = total * (s.m // s.n if s.even else s.end(i) - s.start(i))
    return c.const(total, dtype) if isinstance(total, int) else c.math.cast(total, dtype)


# -- average ---------------------------------------------------------------------------------------------------------


def _average_compute(c: Lowering, attrs: AdaptiveAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import te

    (x,) = xs
    dtype = x.type.dtype
    spans = _spans(x.type.shape[2:], attrs.size)
    rk = _axes(c, spans, "k")

    def total(n: Any, ch: Any, *o: Any) -> Any:
        at, tests = _taps(c, spans, o, rk)
        return te.sum(_guarded(c, tests, x(n, ch, *at), c.const(0, dtype)), axis=rk)

    sums = c.stage(outs[0].plain, total, "window_sum")
    return c.stage(outs[0], lambda n, ch, *o: sums(n, ch, *o) / _length(c, spans, o, dtype), "adaptive_average_pool")


_SHAPES = (((2, 3, 7, 5), (3, 5)), ((1, 2, 6, 4), (3, 2)), ((1, 2, 3), (5,)), ((1, 2, 4, 3, 5), (2, 2, 2)))

adaptive_average_pool = define(
    "adaptive_average_pool",
    ("x",),
    attrs=AdaptiveAttrs,
    infer=_infer,
    **written(plain.adaptive_average_pool, lambda a, x: {"out": a.size}),
    grad=lambda g: (g.b.adaptive_average_pool_dx(g.dy, size=g.inputs[0].type.shape[2:]),),
    compute=_average_compute,
    normalise=_canonical,
    samples=tuple(Sample((Arg(x),), AdaptiveAttrs(size)) for x, size in _SHAPES),
    doc="The mean of as many windows as the result has elements.",
)


def _average_dx_compute(c: Lowering, attrs: AdaptiveAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import te

    (dy,) = xs
    dtype = dy.type.dtype
    windows = _spans(attrs.size, dy.type.shape[2:])
    back = _spans(dy.type.shape[2:], attrs.size)
    rk = _axes(c, back, "o")

    def element(n: Any, ch: Any, *i: Any) -> Any:
        o, tests = _taps(c, back, i, rk)
        share = dy(n, ch, *o) / _length(c, windows, o, dtype)
        return te.sum(_guarded(c, tests, share, c.const(0, dtype)), axis=rk)

    return c.stage(outs[0], element, "adaptive_average_pool_dx")


adaptive_average_pool_dx = define(
    "adaptive_average_pool_dx",
    ("dy",),
    attrs=AdaptiveAttrs,
    infer=_infer,
    **written(plain.adaptive_average_pool_dx, lambda a, dy: {"size": a.size}),
    grad=lambda g: (g.b.adaptive_average_pool(g.dy, size=g.inputs[0].type.shape[2:]),),
    compute=_average_dx_compute,
    samples=tuple(Sample((Arg((*x[:2], *size)),), AdaptiveAttrs(x[2:])) for x, size in _SHAPES),
    doc="The data gradient of adaptive_average_pool; size is that of its operand.",
)

# -- max -------------------------------------------------------------------------------------------------------------


def _max_compute(c: Lowering, attrs: AdaptiveAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    (x,) = xs
    spans = _spans(x.type.shape[2:], attrs.size)
    rk = _axes(c, spans, "k")

    def element(n: Any, ch: Any, *o: Any) -> Any:
        at, tests = _taps(c, spans, o, rk)
        return maximum(x.type.dtype)(_guarded(c, tests, x(n, ch, *at), smallest(x.type.dtype)), axis=rk)

    return c.stage(outs[0], element, "adaptive_max_pool")


adaptive_max_pool = define(
    "adaptive_max_pool",
    ("x",),
    attrs=AdaptiveAttrs,
    infer=_infer,
    **written(plain.adaptive_max_pool, lambda a, x: {"out": a.size}),
    grad=lambda g: (g.b.adaptive_max_pool_dx(g.inputs[0], g.dy),),
    compute=_max_compute,
    normalise=_canonical,
    samples=tuple(Sample((Arg(x),), AdaptiveAttrs(size)) for x, size in _SHAPES),
    doc="The largest element of as many windows as the result has elements.",
)


def _flat(c: Lowering, x: Operand, at: Sequence[Any]) -> Any:
    """The row-major number of a position within its channel, as i32."""
    from tvm import tirx

    number: Any = at[0]
    for p, d in zip(at[1:], x.type.shape[3:], strict=True):
        number = number * c.dim(d) + p
    return tirx.Cast("int32", number)


def _first_stage(c: Lowering, x: Operand, size: Sequence[Dim]) -> Operand:
    """Where in its channel the first largest element of each window lies, as an i32 stage."""
    from tvm import te, tirx

    spans = _spans(x.type.shape[2:], size)
    shape = (*x.type.shape[:2], *size)
    top = _max_compute(c, AdaptiveAttrs(tuple(size)), [Type(x.type.dtype, shape)], [x])
    rk = _axes(c, spans, "t")
    none = tirx.max_value("int32")

    def place(n: Any, ch: Any, *o: Any) -> Any:
        at, tests = _taps(c, spans, o, rk)
        found = tirx.Select(is_extreme(x(n, ch, *at), top(n, ch, *o)), _flat(c, x, at), none)
        return te.min(_guarded(c, tests, found, none), axis=rk)

    return c.stage(Type("i32", shape), place, "first")


def _indices_compute(c: Lowering, attrs: AdaptiveAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import tirx

    (x,) = xs
    first = _first_stage(c, x, attrs.size)
    _, channels, *space = x.type.shape

    def element(n: Any, ch: Any, *o: Any) -> Any:
        return (n * c.dim(channels) + ch) * c.dim(product(space)) + tirx.Cast("int64", first(n, ch, *o))

    return c.stage(outs[0], element, "adaptive_max_pool_indices")


adaptive_max_pool_indices = define(
    "adaptive_max_pool_indices",
    ("x",),
    attrs=AdaptiveAttrs,
    infer=lambda attrs, x: _infer(attrs, x).with_(dtype="i64"),
    **written(plain.adaptive_max_pool_indices, lambda a, x: {"out": a.size}),
    no_grad="the result is an index",
    compute=_indices_compute,
    normalise=_canonical,
    samples=tuple(Sample((Arg(x),), AdaptiveAttrs(size)) for x, size in _SHAPES),
    doc="Row-major index into x of the first largest element of each window.",
)


@dataclass(frozen=True)
class AdaptiveMaxDxAttrs:
    """Both sizes are those of the operands."""


def _max_dx_infer(attrs: AdaptiveMaxDxAttrs, x: Type, dy: Type) -> Type:
    """x [N, C, *in], dy [N, C, *out] --> dx [N, C, *in]."""
    check_float(x=x, dy=dy)
    check_rank("x", x, 3, 5)
    check_shape("dy", dy.shape[:2], x.shape[:2])
    if dy.rank != x.rank:
        raise GraphError(f"dy must have the rank of x, {x.rank}, got {dy.rank}")
    return x


def _max_dx_grad(g: Any) -> Gradients:
    """dx is linear in dy: ddy takes the elements of ddx that were largest; almost nowhere does it depend on x."""
    if not g.needs(1):
        return None, None
    x, dy = g.inputs
    places = g.b.adaptive_max_pool_indices(x, size=dy.type.shape[2:])
    flat = g.b.reshape(g.dy, shape=(x.type.elements,))
    return None, g.b.gather(flat, places)


def _max_dx_compute(c: Lowering, attrs: AdaptiveMaxDxAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import te, tirx

    x, dy = xs
    size = dy.type.shape[2:]
    back = _spans(size, x.type.shape[2:])
    first = _first_stage(c, x, size)
    ro = _axes(c, back, "o")
    zero = c.const(0, x.type.dtype)

    def element(n: Any, ch: Any, *i: Any) -> Any:
        o, tests = _taps(c, back, i, ro)
        taken = tirx.Select(tirx.EQ(first(n, ch, *o), _flat(c, x, i)), dy(n, ch, *o), zero)
        return te.sum(_guarded(c, tests, taken, zero), axis=ro)

    return c.stage(outs[0], element, "adaptive_max_pool_dx")


adaptive_max_pool_dx = define(
    "adaptive_max_pool_dx",
    ("x", "dy"),
    attrs=AdaptiveMaxDxAttrs,
    infer=_max_dx_infer,
    **written(plain.adaptive_max_pool_dx),
    grad=_max_dx_grad,
    compute=_max_dx_compute,
    samples=tuple(Sample((Arg(x), Arg((*x[:2], *size)))) for x, size in _SHAPES),
    doc="The data gradient of adaptive_max_pool; ties go to the first element.",
)
