"""Reductions over axes, the places of extremes, and running sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, product
from cnncc.ir.graph import Value
from cnncc.ir.types import Type
from cnncc.ops import reducers
from cnncc.ops.common import Gradients, check_float, inverse_count, resolve_axes, resolve_axis
from cnncc.ops.elementwise import no_gradient
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.plain import index as plain
from cnncc.ops.registry import Arg, Op, Sample, define
from cnncc.ops.written import written


@dataclass(frozen=True)
class ReduceAttrs:
    """axes: which vanish, none means all; canonically in ascending order from the start. keepdims: as size 1."""

    axes: tuple[int, ...] = ()
    keepdims: bool = True


@dataclass(frozen=True)
class ArgAttrs:
    """axis: along which to look. select_last: the last of equal elements instead of the first."""

    axis: int = 0
    keepdims: bool = True
    select_last: bool = False


@dataclass(frozen=True)
class CumsumAttrs:
    """exclusive: without the element itself. reverse: from the end."""

    axis: int = 0
    exclusive: bool = False
    reverse: bool = False


@dataclass(frozen=True)
class SizeAttrs:
    """axes: which are counted, none means all."""

    axes: tuple[int, ...] = ()


def _shape(shape: Sequence[Dim], axes: Sequence[int], keepdims: bool) -> tuple[Dim, ...]:
    return tuple(1 if a in axes else d for a, d in enumerate(shape) if keepdims or a not in axes)


def _infer(attrs: ReduceAttrs, x: Type) -> Type:
    """The axes vanish, or become 1."""
    if x.dtype == "bool":
        raise GraphError("x must be a number type, got bool; insert a cast")
    return x.with_(shape=_shape(x.shape, resolve_axes(attrs.axes, x.rank), attrs.keepdims))


def _infer_float(attrs: ReduceAttrs, x: Type) -> Type:
    """The axes vanish, or become 1; floating point."""
    check_float(x=x)
    return _infer(attrs, x)


def _infer_extreme(attrs: ReduceAttrs, x: Type) -> Type:
    """The axes vanish, or become 1; they must not be empty."""
    empty = [a for a in resolve_axes(attrs.axes, x.rank) if x.shape[a] == 0]
    if empty:
        raise GraphError(f"an empty axis has no largest or smallest element, got axis {empty[0]} of {x}")
    return _infer(attrs, x)


def _canonical(attrs: ReduceAttrs, x: Type) -> ReduceAttrs:
    axes = resolve_axes(attrs.axes, x.rank)
    return replace(attrs, axes=() if len(axes) == x.rank else axes)


def _full_index(rank: int, axes: Sequence[int], keepdims: bool, index: Sequence[Any], r: Sequence[Any]) -> list[Any]:
    """The operand's index from a result's index and the reduction axes."""
    inner = iter(r)
    outer = iter(i for a, i in enumerate(index) if not keepdims or a not in axes)
    return [next(inner) if a in axes else next(outer) for a in range(rank)]


def reduce_stage(
    c: Lowering, x: Operand, axes: Sequence[int], keepdims: bool, reducer: Callable[..., Any], out: Type, name: str,
    value: Callable[[Any], Any] = lambda v: v,
) -> Operand:  # fmt: skip
    """A stage that reduces value(x) over axes."""
    r = [c.axis(x.type.shape[a], f"r{a}") for a in axes]

    def element(*index: Any) -> Any:
        at = _full_index(x.type.rank, axes, keepdims, index, r)
        return reducer(value(x(*at)), axis=r)

    if not axes:  # a scalar: nothing to reduce
        return c.stage(out, lambda *index: value(x(*index)), name)
    return c.stage(out, element, name)


def _numpy(method: str) -> Callable[[Any], str]:
    """x.sum(axis=1), x.sum(axis=(2, 3), keepdims=True)."""

    def line(s: Any) -> str:
        axes = s.attrs.axes
        words = [f"axis={s.text(axes if len(axes) > 1 else axes[0])}"] if axes else []
        words += ["keepdims=True"] if s.attrs.keepdims else []
        whole = method in ("sum", "prod") and s.out.dtype[0] in "iu"
        words += [f"dtype=np.{s.out.numpy.name}"] if whole else []
        return f"{s[0]}.{method}({', '.join(words)})"

    return line


def _reduction(
    name: str, reference: Callable[..., Any], grad: Callable[[Any], Gradients], reducer: Callable[[str], Any], doc: str,
    infer: Callable[..., Type] = _infer,
) -> Op:  # fmt: skip
    def run(attrs: ReduceAttrs, x: np.ndarray) -> np.ndarray:
        axes = resolve_axes(attrs.axes, x.ndim)
        return np.asarray(reference(x, axis=axes, keepdims=attrs.keepdims), dtype=x.dtype)

    def compute(c: Lowering, attrs: ReduceAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
        axes = resolve_axes(attrs.axes, xs[0].type.rank)
        return reduce_stage(c, xs[0], axes, attrs.keepdims, reducer(outs[0].dtype), outs[0], name)

    arg = Arg((2, 3, 4))
    samples = (
        Sample((arg,), ReduceAttrs((1,))),
        Sample((arg,), ReduceAttrs((0, 2), keepdims=False)),
        Sample((arg,), ReduceAttrs()),
        Sample((Arg((5,)),), ReduceAttrs(keepdims=False)),
        Sample((Arg((3, 4), "i32", -3, 3),), ReduceAttrs((1,)), smooth=False),
    )
    return define(name, ("x",), attrs=ReduceAttrs, infer=infer, reference=run, grad=grad, compute=compute,
                  numpy=_numpy(name.removeprefix("reduce_")),
                  normalise=_canonical, samples=samples, doc=doc)  # fmt: skip


def _te_sum(dtype: str) -> Any:
    from tvm import te

    return te.sum


def _kept(g: Any, v: Value) -> Value:
    """A value of the result's shape with the reduced axes as 1, so that it broadcasts against x."""
    x, a = g.inputs[0], g.attrs
    if a.keepdims:
        return v
    result: Value = g.b.reshape(v, shape=_shape(x.type.shape, resolve_axes(a.axes, x.type.rank), True))
    return result


def _sum_grad(g: Any) -> Gradients:
    """dx = dy, spread over the axes."""
    return (g.b.expand(_kept(g, g.dy), shape=g.inputs[0].type.shape),)


def _mean_grad(g: Any) -> Gradients:
    """dx = dy / count, spread over the axes."""
    x = g.inputs[0]
    share = g.b.mul(_kept(g, g.dy), inverse_count(g.b, x, resolve_axes(g.attrs.axes, x.type.rank)))
    return (g.b.expand(share, shape=x.type.shape),)


def _extreme_grad(g: Any) -> Gradients:
    """dx = dy / (number of equal elements) where x is the extreme, else 0 (as in torch.amax)."""
    x, b = g.inputs[0], g.b
    hit = b.cast(b.equal(x, _kept(g, g.outputs[0])), dtype=x.type.dtype)
    count = b.reduce_sum(hit, axes=resolve_axes(g.attrs.axes, x.type.rank), keepdims=True)
    return (b.mul(hit, b.div(_kept(g, g.dy), count)),)


def _prod_grad(g: Any) -> Gradients:
    """dx = dy times the product of the other elements: y / x, or where x is 0 the product of the rest."""
    x, b = g.inputs[0], g.b
    axes = resolve_axes(g.attrs.axes, x.type.rank)
    zero = b.equal(x, 0.0)
    zeros = b.reduce_sum(b.cast(zero, dtype=x.type.dtype), axes=axes, keepdims=True)
    nonzero = b.where(zero, b.constant(np.ones((), x.type.numpy)), x)
    rest = b.reduce_prod(nonzero, axes=axes, keepdims=True)
    nothing = b.zeros_like(x)
    others = b.where(zero, b.where(b.less(zeros, 1.5), rest, nothing),
                     b.where(b.less(zeros, 0.5), b.div(rest, nonzero), nothing))  # fmt: skip
    return (b.mul(_kept(g, g.dy), others),)


reduce_sum = _reduction("reduce_sum", np.sum, _sum_grad, _te_sum, "The sum over axes.")
reduce_max = _reduction(
    "reduce_max", np.max, _extreme_grad, reducers.maximum, "The largest element; NaN wins.", _infer_extreme
)
reduce_min = _reduction(
    "reduce_min", np.min, _extreme_grad, reducers.minimum, "The smallest element; NaN wins.", _infer_extreme
)
reduce_prod = _reduction("reduce_prod", np.prod, _prod_grad, reducers.product, "The product over axes.")

# -- reduce_mean, size -----------------------------------------------------------------------------------------------


def _mean_reference(attrs: ReduceAttrs, x: np.ndarray) -> np.ndarray:
    return np.asarray(x.mean(resolve_axes(attrs.axes, x.ndim), keepdims=attrs.keepdims), dtype=x.dtype)


def mean_stage(
    c: Lowering, x: Operand, axes: Sequence[int], keepdims: bool, out: Type, name: str,
    value: Callable[[Any], Any] = lambda v: v,
) -> Operand:  # fmt: skip
    """Two stages: the sum of value(x) over axes, and the sum divided by the count."""
    from tvm import te

    total = reduce_stage(c, x, axes, keepdims, te.sum, out.plain, name + "_sum", value)
    count = product(x.type.shape[a] for a in axes)
    number = c.const(count, out.dtype) if isinstance(count, int) else c.math.cast(c.dim(count), out.dtype)
    return c.stage(out, lambda *i: total(*i) / number, name)


def _mean_compute(c: Lowering, attrs: ReduceAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    axes = resolve_axes(attrs.axes, xs[0].type.rank)
    return mean_stage(c, xs[0], axes, attrs.keepdims, outs[0], "reduce_mean")


reduce_mean = define(
    "reduce_mean",
    ("x",),
    attrs=ReduceAttrs,
    infer=_infer_float,
    reference=_mean_reference,
    numpy=_numpy("mean"),
    grad=_mean_grad,
    compute=_mean_compute,
    normalise=_canonical,
    samples=(
        Sample((Arg((2, 3, 4, 5)),), ReduceAttrs((2, 3))),
        Sample((Arg((2, 3, 4)),), ReduceAttrs((0, 2), keepdims=False)),
        Sample((Arg((2, 3)),), ReduceAttrs()),
    ),
    doc="The mean over axes.",
)


def _size_element(c: Lowering, attrs: SizeAttrs, out: Type, xs: Sequence[Operand], index: tuple[Any, ...]) -> Any:
    shape = xs[0].type.shape
    return c.math.cast(c.dim(product(shape[a] for a in resolve_axes(attrs.axes, len(shape)))), out.dtype)


def _size_numpy(s: Any) -> str:
    """The product of sizes."""
    axes = s.attrs.axes or range(s.types[0].rank)
    sizes = " * ".join(f"{s[0]}.shape[{a}]" for a in axes) or "1"
    return f"np.{s.out.numpy.name}({sizes})"


size = define(
    "size",
    ("x",),
    attrs=SizeAttrs,
    infer=lambda attrs, x: x.with_(shape=()),
    reference=lambda attrs, x: np.asarray(
        np.prod([x.shape[a] for a in resolve_axes(attrs.axes, x.ndim)], dtype=np.int64), x.dtype
    ),
    numpy=_size_numpy,
    grad=no_gradient,
    element=_size_element,
    moves=False,
    normalise=_canonical,
    samples=(Sample((Arg((2, 3, 4)),), SizeAttrs((0, 2))), Sample((Arg((2, 3), "i64"),), SizeAttrs())),
    doc="The number of elements along axes, as a scalar of x's dtype; for symbolic shapes.",
)

# -- argmax, argmin --------------------------------------------------------------------------------------------------


def _arg_infer(attrs: ArgAttrs, x: Type) -> Type:
    """Indices along the axis, which vanishes or becomes 1."""
    axis = resolve_axis(attrs.axis, x.rank)
    if x.shape[axis] == 0 or x.dtype == "bool":
        raise GraphError(f"x must be numbers and not empty along axis {axis}, got {x}")
    return Type("i64", _shape(x.shape, (axis,), attrs.keepdims))


def _arg_op(name: str, function: Callable[..., Any], least: bool, doc: str) -> Op:
    def reference(attrs: ArgAttrs, x: np.ndarray) -> np.ndarray:
        axis = resolve_axis(attrs.axis, x.ndim)
        if not attrs.select_last:
            return np.asarray(function(x, axis=axis, keepdims=attrs.keepdims))
        found = function(np.flip(x, axis), axis=axis, keepdims=attrs.keepdims)
        return np.asarray(x.shape[axis] - 1 - found)

    def line(s: Any) -> str:
        a = s.attrs
        keep = ", keepdims=True" if a.keepdims else ""
        if not a.select_last:
            return f"{s[0]}.{name}({a.axis}{keep})"
        return f"{s[0]}.shape[{a.axis}] - 1 - np.flip({s[0]}, {a.axis}).{name}({a.axis}{keep})"

    def compute(c: Lowering, attrs: ArgAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
        from tvm import te, tirx

        (x,) = xs
        axis = resolve_axis(attrs.axis, x.type.rank)
        reducer = reducers.minimum if least else reducers.maximum
        kept = Type(x.type.dtype, outs[0].shape)
        extreme = reduce_stage(c, x, (axis,), attrs.keepdims, reducer(x.type.dtype), kept, "extreme")
        r = c.axis(x.type.shape[axis], "i")
        none = tirx.min_value("int64") if attrs.select_last else tirx.max_value("int64")

        def element(*index: Any) -> Any:
            at = _full_index(x.type.rank, (axis,), attrs.keepdims, index, [r])
            found = tirx.Select(reducers.is_extreme(x(*at), extreme(*index)), r + c.dim(0), none)
            return te.max(found, axis=[r]) if attrs.select_last else te.min(found, axis=[r])

        return c.stage(outs[0], element, name)

    samples = (
        Sample((Arg((3, 4, 5)),), ArgAttrs(1)),
        Sample((Arg((3, 6), "i32", 0, 2),), ArgAttrs(1, keepdims=False)),
        Sample((Arg((3, 6), "i32", 0, 2),), ArgAttrs(1, select_last=True)),
        Sample((Arg((5,)),), ArgAttrs(0, keepdims=False)),
    )
    return define(name, ("x",), attrs=ArgAttrs, infer=_arg_infer, reference=reference, compute=compute, samples=samples,
                  no_grad="the result is an index", numpy=line, doc=doc,
                  normalise=lambda attrs, x: replace(attrs, axis=resolve_axis(attrs.axis, x.rank)))  # fmt: skip


argmax = _arg_op("argmax", np.argmax, False, "Index of the largest element along an axis; NaN is largest.")
argmin = _arg_op("argmin", np.argmin, True, "Index of the smallest element along an axis; NaN is smallest.")

# -- cumsum ----------------------------------------------------------------------------------------------------------


def _cumsum_infer(attrs: CumsumAttrs, x: Type) -> Type:
    """The type of x."""
    resolve_axis(attrs.axis, x.rank)
    return x


def _cumsum_grad(g: Any) -> Gradients:
    """dx = the running sum of dy from the other end."""
    a = g.attrs
    return (g.b.cumsum(g.dy, axis=a.axis, exclusive=a.exclusive, reverse=not a.reverse),)


def _cumsum_compute(c: Lowering, attrs: CumsumAttrs, outs: Sequence[Type], xs: Sequence[Operand]) -> Operand:
    from tvm import te

    (x,) = xs
    axis = resolve_axis(attrs.axis, x.type.rank)
    r = c.axis(x.type.shape[axis], "r")

    def element(*index: Any) -> Any:
        i = index[axis]
        counted = (r > i if attrs.exclusive else r >= i) if attrs.reverse else (r < i if attrs.exclusive else r <= i)
        value = x(*index[:axis], r, *index[axis + 1 :])
        return te.sum(c.math.where(counted, value, c.const(0, x.type.dtype)), axis=r)

    return c.stage(outs[0], element, "cumsum")


cumsum = define(
    "cumsum",
    ("x",),
    attrs=CumsumAttrs,
    infer=_cumsum_infer,
    **written(
        plain.cumsum,
        lambda a, x: {"axis": resolve_axis(a.axis, x.rank), "exclusive": a.exclusive, "reverse": a.reverse},
    ),
    grad=_cumsum_grad,
    compute=_cumsum_compute,
    normalise=lambda attrs, x: replace(attrs, axis=resolve_axis(attrs.axis, x.rank)),
    samples=tuple(
        Sample((Arg((3, 5)),), CumsumAttrs(axis, exclusive, reverse))
        for axis, exclusive, reverse in ((0, False, False), (1, True, False), (1, False, True), (1, True, True))
    ),
    doc="Running sums along an axis.",
)
