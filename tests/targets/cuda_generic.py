"""te functions for `schedule_generic`: expected recipe, input shapes, definition, reference, row of tolerances."""

from __future__ import annotations

from typing import Any

import numpy as np


def _i(value: int) -> Any:
    from tvm import tirx

    return tirx.const(value, "int64")


def _f(value: float) -> Any:
    from tvm import tirx

    return tirx.const(value, "float32")


def _axis(extent: Any) -> Any:
    from tvm import te

    return te.reduce_axis((_i(0), extent), name="r")


def relu_bias(x: Any, b: Any) -> Any:
    from tvm import te, tirx

    return te.compute(x.shape, lambda n, c, h, w: tirx.max(x[n, c, h, w] + b[c], _f(0)), name="out")


def relu(x: Any) -> Any:
    from tvm import te, tirx

    return te.compute(x.shape, lambda *i: tirx.max(x(*i), _f(0)), name="out")


def chain(x: Any) -> Any:
    from tvm import te, tirx

    t = te.compute(x.shape, lambda *i: tirx.exp(x(*i)) + _f(1), name="t")
    u = te.compute(x.shape, lambda *i: tirx.log(t(*i)) * t(*i), name="u")
    return te.compute(x.shape, lambda *i: tirx.tanh(u(*i) * _f(0.1)), name="out")


def softmax(x: Any, axis: int) -> Any:
    from tvm import te, tirx

    from cnncc.targets.cuda.reducers import maximum

    outer = tuple(d for i, d in enumerate(x.shape) if i != axis)

    def at(rest: tuple[Any, ...], k: Any) -> Any:
        return x(*rest[:axis], k, *rest[axis:])

    k, j = _axis(x.shape[axis]), _axis(x.shape[axis])
    top = te.compute(outer, lambda *i: maximum(at(i, k), [k]), name="top")
    e = te.compute(x.shape, lambda *i: tirx.exp(x(*i) - top(*i[:axis], *i[axis + 1 :])), name="e")
    total = te.compute(outer, lambda *i: te.sum(e(*i[:axis], j, *i[axis:]), axis=[j]), name="total")
    return te.compute(x.shape, lambda *i: e(*i) / total(*i[:axis], *i[axis + 1 :]), name="out")


def softmax_reference(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def sum_over(x: Any, axes: tuple[int, ...]) -> Any:
    from tvm import te

    reduced = [_axis(x.shape[a]) for a in axes]

    def element(*index: Any) -> Any:
        rest, inner = iter(index), iter(reduced)
        return te.sum(x(*(next(inner) if a in axes else next(rest) for a in range(len(x.shape)))), axis=reduced)

    return te.compute(tuple(d for a, d in enumerate(x.shape) if a not in axes), element, name="sum")


def mean_over(x: Any, axes: tuple[int, ...]) -> Any:
    from tvm import te

    total, count = sum_over(x, axes), float(np.prod([x.shape[a].value for a in axes]))
    return te.compute(total.shape, lambda *i: total(*i) / _f(count), name="out")


def layer_norm(x: Any) -> Any:
    from tvm import te, tirx

    n, count = x.shape, _f(float(x.shape[1].value))
    k, j = _axis(n[1]), _axis(n[1])
    total = te.compute((n[0],), lambda i: te.sum(x[i, k], axis=[k]), name="total")
    square = te.compute((n[0],), lambda i: te.sum(x[i, j] * x[i, j], axis=[j]), name="square")

    def out(i: Any, c: Any) -> Any:
        mean = total[i] / count
        return (x[i, c] - mean) / tirx.sqrt(square[i] / count - mean * mean + _f(1e-5))

    return te.compute(n, out, name="out")


def statistics(x: Any) -> list[Any]:
    from tvm import te

    squares = te.compute(x.shape, lambda *i: x(*i) * x(*i), name="squares")
    return [sum_over(x, (0, 2, 3)), sum_over(squares, (0, 2, 3))]


def transpose(x: Any) -> Any:
    from tvm import te

    n, c, h, w = x.shape
    return te.compute((n, h, w, c), lambda i, y, z, k: x[i, k, y, z], name="out")


def concat(x: Any, y: Any) -> Any:
    from tvm import te, tirx

    split = x.shape[1]
    shape = (x.shape[0], split + y.shape[1], x.shape[2])
    return te.compute(shape, lambda n, c, h: tirx.if_then_else(c < split, x[n, c, h], y[n, c - split, h]), name="out")


def arg_max(x: Any) -> Any:
    from tvm import te, tirx

    def combine(a: Any, b: Any) -> Any:
        return tirx.Select(a[1] >= b[1], a[0], b[0]), tirx.Select(a[1] >= b[1], a[1], b[1])

    reducer = te.comm_reducer(combine, lambda i, v: (tirx.const(-1, i), tirx.min_value(v)), name="arg")
    k = _axis(x.shape[1])
    place, _ = te.compute((x.shape[0],), lambda i: reducer((k.var, x[i, k]), axis=[k]), name="arg")
    return te.compute((x.shape[0],), lambda i: place[i], name="out")


def weight_gradient(x: Any, d: Any) -> Any:
    from tvm import te

    n, h, w = _axis(x.shape[0]), _axis(d.shape[2]), _axis(d.shape[3])
    shape = (d.shape[1], x.shape[1], _i(3), _i(3))
    return te.compute(
        shape, lambda o, i, a, b: te.sum(x[n, i, h + a, w + b] * d[n, o, h, w], axis=[n, h, w]), name="out"
    )


def weight_gradient_reference(x: np.ndarray, d: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(x, d.shape[2:], (2, 3))
    return np.einsum("niabhw,nohw->oiab", windows, d)


def two_steps(x: Any) -> Any:
    from tvm import te, tirx

    inner = sum_over(x, (2,))
    e = te.compute(inner.shape, lambda *i: tirx.tanh(inner(*i)), name="e")
    return sum_over(e, (1,))


def scaled(x: Any) -> Any:
    from tvm import te

    return te.compute((), lambda: x[_i(0)] * _f(2), name="out")


GENERIC: dict[str, tuple[str, list[tuple[Any, ...]], Any, Any, str]] = {
    "relu bias": (
        *("elementwise", [("n", 8, 6, 6), (8,)], relu_bias),
        *(lambda x, b: np.maximum(x + b[:, None, None], 0), "elementwise"),
    ),
    "relu float4": ("elementwise", [("n", 8, 6, 8)], relu, lambda x: np.maximum(x, 0), "exact"),
    "chain": (
        *("elementwise", [(2, 64)], chain),
        *(lambda x: np.tanh(np.log(np.exp(x) + 1) * (np.exp(x) + 1) * np.float32(0.1)), "elementwise"),
    ),
    "transpose": ("elementwise", [("n", 6, 7, 8)], transpose, lambda x: x.transpose(0, 2, 3, 1), "exact"),
    "concat": ("elementwise", [("n", 3, 4), ("n", 5, 4)], concat, lambda x, y: np.concatenate([x, y], 1), "exact"),
    "scalar": ("elementwise", [(1,)], scaled, lambda x: np.asarray(x[0] * 2), "exact"),
    "softmax": ("row-per-block", [("n", 10)], lambda x: softmax(x, 1), lambda x: softmax_reference(x, 1), "softmax"),
    "softmax long": (
        *("row-per-block", [(2, 1000)], lambda x: softmax(x, 1)),
        *(lambda x: softmax_reference(x, 1), "softmax"),
    ),
    "softmax channels": (
        *("row-per-thread", [("n", 10, 4, 5)], lambda x: softmax(x, 1)),
        *(lambda x: softmax_reference(x, 1), "softmax"),
    ),
    "layer norm": (
        *("row-per-block", [("n", 48)], layer_norm),
        *(lambda x: (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5), "reduction"),
    ),
    "sum rows": ("row-per-block", [(5, 300)], lambda x: sum_over(x, (1,)), lambda x: x.sum(1), "reduction"),
    "mean of one": (
        *("row-per-thread", [("n", 5, 1, 1)], lambda x: mean_over(x, (2, 3))),
        *(lambda x: x.mean((2, 3)), "exact"),
    ),
    "sum columns": ("row-per-thread", [("n", 300)], lambda x: sum_over(x, (0,)), lambda x: x.sum(0), "reduction"),
    "sum all": ("row-per-block", [(4, 6, 7)], lambda x: sum_over(x, (0, 1, 2)), lambda x: x.sum(), "reduction"),
    "bias gradient": (
        *("row-per-block", [("n", 6, 7, 7)], lambda x: sum_over(x, (0, 2, 3))),
        *(lambda x: x.sum((0, 2, 3)), "reduction"),
    ),
    "statistics": (
        *("stages", [(4, 6, 5, 5)], statistics),
        *(lambda x: [x.sum((0, 2, 3)), (x * x).sum((0, 2, 3))], "reduction"),
    ),
    "two steps": ("stages", [("n", 12, 9)], two_steps, lambda x: np.tanh(x.sum(2)).sum(1), "reduction"),
    "arg max": ("row-per-block", [(4, 33)], arg_max, lambda x: x.argmax(1), "exact"),
    "weight gradient": (
        *("row-per-block", [(2, 3, 8, 8), (2, 4, 6, 6)], weight_gradient),
        *(weight_gradient_reference, "conv"),
    ),
}
