"""Operations on small tensors known at import: what shape subgraphs compute, with integers and symbolic sizes.

Each function takes the node and the elements of its inputs and returns the elements of its result (numpy arrays, of
dtype object where symbols occur). UndecidedError makes the importer emit the operation instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.edges.onnx_import import symbolic as s
from cnncc.ir.dims import normal
from cnncc.ops.math import NumpyMath

if TYPE_CHECKING:
    from cnncc.edges.onnx_import.context import Call

Array = np.ndarray
HostFunction = Callable[..., Any]  # (n, *arrays) -> array, or a tuple of arrays
LIMIT = 4096  # elements


def _each(function: Callable[..., Any], *arrays: Array) -> Array:
    """A Python function element by element, with broadcasting."""
    grid = np.broadcast_arrays(*map(s.objects, arrays))
    result = np.empty(grid[0].shape, object)
    for index in np.ndindex(*grid[0].shape):
        result[index] = function(*(g[index] for g in grid))
    return result


def _arithmetic(plain: Callable[..., Any], symbolic: Callable[..., Any]) -> HostFunction:
    """numpy's function, or another element by element where a symbol occurs."""

    def run(n: Call, *arrays: Array) -> Array:
        if any(a.dtype == object for a in arrays):
            return _each(lambda *xs: normal_or_number(symbolic(*map(s.rational, xs))), *arrays)
        return np.asarray(plain(*arrays))

    return run


def normal_or_number(x: Any) -> Any:
    """The normal form of a symbolic element; numbers and truth values unchanged."""
    return x if isinstance(x, (bool, int, float)) else _normal_rational(x)


def _normal_rational(x: Any) -> Any:
    return normal(x) if x.is_integer or not x.is_number else x


def _fold(pair: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def run(*xs: Any) -> Any:
        total = xs[0]
        for x in xs[1:]:
            total = pair(total, x)
        return total

    return run


def _div(n: Call, a: Array, b: Array) -> Any:
    whole = n.type(0).dtype[0] in "iu"
    return _arithmetic(NumpyMath.divide, s.floor_quotient if whole else s.true_quotient)(n, a, b)


def _mod(n: Call, a: Array, b: Array) -> Any:
    plain = np.fmod if n.attr_int("fmod") else np.mod
    return _arithmetic(plain, lambda x, y: x - y * s.floor_quotient(x, y))(n, a, b)


def _cast(n: Call, x: Array) -> Array:
    from cnncc.edges.onnx_tensors import element_type

    dtype = element_type(n.attr_int("to"))
    if x.dtype != object:
        return x.astype(dtype)
    if dtype.kind in "iu":
        return _each(lambda d: d if s.is_number(d) else s.floor(d), x)
    return _each(lambda d: not s.equal(d, 0), x) if dtype == np.bool_ else x


def _where(n: Call, c: Array, x: Array, y: Array) -> Array:
    if x.dtype == object or y.dtype == object:
        return _each(lambda t, a, b: a if t else b, c, x, y)
    return np.where(c, x, y)


def _whole(array: Array) -> tuple[int, ...]:
    """Parameters that must be numbers. Raises UndecidedError where they are symbolic."""
    elements = array.reshape(-1).tolist()
    if not all(isinstance(d, (int, float)) for d in elements):
        raise s.UndecidedError
    return tuple(int(d) for d in elements)


# -- structure ---------------------------------------------------------------------------------------------------------


def _axes(n: Call, inputs: tuple[Array, ...]) -> tuple[int, ...] | None:
    """axes as the second input (newer opsets) or as an attribute."""
    if inputs:
        return _whole(inputs[0])
    return n.attr_ints("axes")


def _unsqueeze(n: Call, x: Array, *rest: Array) -> Array:
    axes = _axes(n, rest) or ()
    return np.expand_dims(x, n.axes(axes, x.ndim + len(axes)))


def _squeeze(n: Call, x: Array, *rest: Array) -> Array:
    axes = _axes(n, rest)
    axes = tuple(i for i, d in enumerate(x.shape) if d == 1) if axes is None else n.axes(axes, x.ndim)
    if any(x.shape[a] != 1 for a in axes):
        n.fail(f"squeezed axes must have size 1, got axes {axes} of shape {x.shape}")
    return np.squeeze(x, axes)


def _gather(n: Call, x: Array, indices: Array) -> Array:
    axis = n.axis(n.attr_int("axis"), x.ndim)
    size = x.shape[axis]
    _whole(indices)
    if np.any(indices < -size) or np.any(indices >= size):
        n.fail(f"indices must be from {-size} to {size - 1}, got {indices.tolist()}")
    return np.take(x, indices, axis=axis)


def _slice(n: Call, x: Array, *rest: Array) -> Array:
    from cnncc.edges.onnx_import.slicing import slice_arguments

    where = [slice(None)] * x.ndim
    for start, end, axis, step in zip(*slice_arguments(n), strict=True):
        if not isinstance(start, int) or not isinstance(end, int):
            raise s.UndecidedError
        where[axis] = slice(start, end, step)
    return x[tuple(where)]


def _concat(n: Call, *xs: Array) -> Array:
    axis = n.axis(n.attr_int("axis"), xs[0].ndim)
    return np.concatenate([s.objects(x) for x in xs] if any(x.dtype == object for x in xs) else xs, axis)


def _reshape(n: Call, x: Array, shape: Array) -> Array:
    target = s.reshape_target(x.shape, _whole(shape), bool(n.attr_int("allowzero")))
    if isinstance(target, str) or np.prod(target, dtype=np.int64) != x.size:
        n.fail(target if isinstance(target, str) else f"the elements must fit, got {x.shape} to {target}")
    return x.reshape(target)


def _expand(n: Call, x: Array, shape: Array) -> Array:
    target = np.broadcast_shapes(x.shape, _whole(shape))
    if np.prod(target, dtype=np.int64) > LIMIT:
        raise s.UndecidedError
    return np.broadcast_to(x, target).copy()


def _tile(n: Call, x: Array, repeats: Array) -> Array:
    counts = _whole(repeats)
    if x.size * np.prod(counts, dtype=np.int64) > LIMIT:
        raise s.UndecidedError
    return np.tile(x, counts)


def _transpose(n: Call, x: Array) -> Array:
    return np.transpose(x, n.attr_ints("perm"))


def _split(n: Call, x: Array, *rest: Array) -> tuple[Array, ...]:
    from cnncc.edges.onnx_import.slicing import split_sizes

    axis, sizes = split_sizes(n)
    return tuple(np.split(x, np.cumsum(_whole(np.asarray(sizes)))[:-1], axis))


def _reduce(function: Callable[[Any, Any], Any]) -> HostFunction:
    def run(n: Call, x: Array, *rest: Array) -> Array:
        axes = _axes(n, rest)
        if not axes and n.attr_int("noop_with_empty_axes"):
            return x
        where = n.axes(axes, x.ndim) if axes else tuple(range(x.ndim))
        keep = bool(n.attr_int("keepdims", 1))
        if x.size == 0 or x.dtype.kind == "f":
            raise s.UndecidedError
        moved = np.moveaxis(s.objects(x), where, range(len(where)))
        rows = moved.reshape(-1, *moved.shape[len(where) :])
        total = rows[0] if len(rows) == 1 else _each(_fold(function), *(np.asarray(r, object) for r in rows))
        total = np.asarray(total)
        result = np.expand_dims(total, where) if keep else total
        return result if x.dtype == object else result.astype(x.dtype)

    return run


def _nonzero(n: Call, x: Array) -> Array:
    if x.dtype == object:
        x = _each(lambda d: not s.equal(d, 0), x).astype(np.bool_)
    return np.array(np.nonzero(x), np.int64)


def _scatter_nd(n: Call, x: Array, indices: Array, updates: Array) -> Array:
    if n.attr_str("reduction", "none") != "none":
        raise s.UndecidedError
    _whole(indices)
    result = s.objects(x).copy() if updates.dtype == object else x.copy()
    for index in np.ndindex(*indices.shape[:-1]):
        result[tuple(int(i) for i in indices[index])] = updates[index]
    return result


_SAME: dict[str, HostFunction] = {
    "Add": _arithmetic(np.add, lambda a, b: a + b),
    "Sub": _arithmetic(np.subtract, lambda a, b: a - b),
    "Mul": _arithmetic(np.multiply, lambda a, b: a * b),
    "Div": _div,
    "Mod": _mod,
    "Neg": _arithmetic(np.negative, lambda a: -a),
    "Abs": _arithmetic(np.abs, abs),
    "Max": _arithmetic(lambda *xs: _fold(np.maximum)(*xs), _fold(s.larger)),
    "Min": _arithmetic(lambda *xs: _fold(np.minimum)(*xs), _fold(s.smaller)),
    "Sum": _arithmetic(lambda *xs: _fold(np.add)(*xs), _fold(lambda a, b: a + b)),
    "Floor": _arithmetic(np.floor, s.floor),
    "Ceil": _arithmetic(np.ceil, s.ceil),
    "Identity": lambda n, x: x,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Reshape": _reshape,
    "Expand": _expand,
    "Tile": _tile,
    "Transpose": _transpose,
    "Split": _split,
    "ReduceProd": _reduce(lambda a, b: a * b),
    "ReduceSum": _reduce(lambda a, b: a + b),
    "ReduceMax": _reduce(s.larger),
    "ReduceMin": _reduce(s.smaller),
    "ScatterND": _scatter_nd,
}
_BOOL: dict[str, HostFunction] = {
    "Equal": _arithmetic(np.equal, s.equal),
    "Less": _arithmetic(np.less, s.less),
    "Greater": _arithmetic(np.greater, lambda a, b: s.less(b, a)),
    "LessOrEqual": _arithmetic(np.less_equal, lambda a, b: not s.less(b, a)),
    "GreaterOrEqual": _arithmetic(np.greater_equal, lambda a, b: not s.less(a, b)),
    "Not": _arithmetic(np.logical_not, lambda a: not a),
    "And": _arithmetic(np.logical_and, lambda a, b: bool(a and b)),
    "Or": _arithmetic(np.logical_or, lambda a, b: bool(a or b)),
}


def _dtype_of_cast(n: Call) -> str:
    from cnncc.edges.onnx_tensors import element_type
    from cnncc.ir.dtype import short_name

    return short_name(element_type(n.attr_int("to")))


# op --> (function, dtype of the result)
HOST: dict[str, tuple[HostFunction, Callable[[Call], str]]] = {
    **{op: (f, lambda n: n.type(0).dtype) for op, f in _SAME.items()},
    **{op: (f, lambda n: "bool") for op, f in _BOOL.items()},
    "Cast": (_cast, _dtype_of_cast),
    "Where": (_where, lambda n: n.type(1).dtype),
    "NonZero": (_nonzero, lambda n: "i64"),
}
