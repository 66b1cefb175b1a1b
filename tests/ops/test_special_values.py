"""NaN, infinities, zeros and ties, where a plain maximum, division or remainder would go wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm

from cnncc.ir.types import Type
from cnncc.ops.registry import lookup
from tests.ops.harness import aligned, canonical, prim_func
from tests.tolerances import assert_close

NAN, INF = np.nan, np.inf
SPECIAL = np.array([NAN, 1.0, -INF, INF, -0.0, 0.0, -2.5, 3.5, 0.5, -0.5, 1e-30, NAN], np.float32)


def _run(name: str, arrays: list[np.ndarray], **attributes: Any) -> tuple[np.ndarray, np.ndarray]:
    """The first result, compiled and by the reference."""
    op = lookup(name)
    types = [Type.of(a) for a in arrays]
    attrs = canonical(op, op.attrs(**attributes), types)
    outs = op.infer_types(attrs, types)
    function = tvm.compile(tvm.IRModule({"main": prim_func(op, attrs, types, outs)}), target="llvm")["main"]
    operands = [aligned(a) for a in arrays]
    results = [aligned(np.zeros([int(d) for d in t.shape], t.numpy)) for t in outs]
    function(*(tvm.runtime.from_dlpack(a) for a in (*operands, *results)))
    return results[0], op.run(attrs, arrays)[0]


@pytest.mark.parametrize("name", ["max", "min", "equal", "not_equal", "less", "greater_equal"])
def test_binary(name: str):
    x, y = np.broadcast_arrays(SPECIAL[:, None], SPECIAL)
    actual, expected = _run(name, [np.ascontiguousarray(x), np.ascontiguousarray(y)])
    assert_close(actual, expected, "exact")


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("relu", {}),
        ("clip", {"low": 0.0, "high": 2.0}),
        ("clip", {"low": -1.0}),
        ("abs", {}),
        ("sign", {}),
        ("isnan", {}),
        ("isinf", {}),
        ("round", {}),
        ("floor", {}),
        ("leaky_relu", {"alpha": 0.5}),
        ("hard_sigmoid", {"alpha": 0.25}),
        ("cast", {"dtype": "bool"}),
    ],
)
def test_unary(name: str, attributes: dict[str, Any]):
    actual, expected = _run(name, [SPECIAL], **attributes)
    assert_close(actual, expected, "exact")
    if expected.dtype == np.float32:
        assert np.isnan(expected).sum() == 2, "NaN in, NaN out"


@pytest.mark.parametrize(
    "name", ["sigmoid", "tanh", "softplus", "erf", "silu", "elu", "expm1", "log1p", "atan", "asinh"]
)
def test_functions_at_the_limits(name: str):
    x = np.array([-INF, -200.0, -20.0, -1e-8, 0.0, 1e-8, 20.0, 200.0, INF, NAN], np.float32)
    x = x[x > -1] if name == "log1p" else x
    actual, expected = _run(name, [x])
    assert_close(actual, expected, "reduction")


@pytest.mark.parametrize(
    "name",
    [
        "max_pool",
        "reduce_max",
        "reduce_min",
        "argmax",
        "argmin",
        "adaptive_max_pool",
        "max_pool_indices",
        "adaptive_max_pool_indices",
    ],
)
def test_nan_wins_every_extreme(name: str):
    x = np.random.default_rng(0).standard_normal((1, 2, 6, 6)).astype(np.float32)
    x[0, 0, 2, 3] = x[0, 1, 0, 0] = NAN
    x[0, 1, 5, 5] = INF
    attributes = {
        "max_pool": {"kernel": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)},
        "max_pool_indices": {"kernel": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)},
        "adaptive_max_pool": {"size": (4, 4)},
        "adaptive_max_pool_indices": {"size": (4, 4)},
        "argmax": {"axis": 3},
        "argmin": {"axis": 2},
    }.get(name, {"axes": (2, 3)})
    actual, expected = _run(name, [x], **attributes)
    assert_close(actual, expected, "exact")
    if expected.dtype == np.float32:
        assert np.isnan(expected).any()


def test_max_pool_of_minus_infinity():
    x = np.full((1, 1, 4, 4), -INF, np.float32)
    attributes = {"kernel": (2, 2), "strides": (2, 2), "pads": (1, 1, 1, 1)}
    assert_close(*_run("max_pool", [x], **attributes), "exact")
    dy = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    actual, expected = _run("max_pool_dx", [x, dy], **attributes)
    assert_close(actual, expected, "exact")
    assert expected.sum() == dy.sum(), "every gradient goes somewhere"


def test_ties_go_to_the_first():
    x = np.zeros((1, 1, 4, 4), np.float32)
    dy = np.ones((1, 1, 2, 2), np.float32)
    actual, expected = _run("max_pool_dx", [x, dy], kernel=(2, 2), strides=(2, 2))
    assert_close(actual, expected, "exact")
    assert_close(expected[0, 0, ::2, ::2], np.ones((2, 2)), "exact")


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.int64, np.float32])
@pytest.mark.parametrize(("name", "attributes"), [("div", {}), ("mod", {}), ("mod", {"fmod": True})])
def test_division_of_all_signs(name: str, attributes: dict[str, Any], dtype: type):
    x, y = np.meshgrid(np.arange(-7, 8), np.array([-3, -2, -1, 1, 2, 5]), indexing="ij")
    actual, expected = _run(name, [x.astype(dtype), y.astype(dtype)], **attributes)
    assert_close(actual, expected, "elementwise")
    if name == "div" and dtype is not np.float32:
        assert_close(expected, np.trunc(x / y), "exact")


@pytest.mark.parametrize("name", ["div", "mod"])
def test_integers_by_zero_do_not_trap(name: str):
    actual, expected = _run(name, [np.array([1, -2, 0], np.int32), np.zeros(3, np.int32)])
    assert_close(actual, expected, "exact")


def test_softmax_of_large_numbers():
    x = np.array([[1000.0, 999.0, -1000.0], [-INF, 0.0, -INF]], np.float32)
    for name in ("softmax", "log_softmax"):
        actual, expected = _run(name, [x])
        assert_close(actual, expected, "softmax")
        assert np.isfinite(expected[0]).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.float64, np.bool_])
def test_casts_between_all_kinds(dtype: type):
    for name in ("f32", "f64", "i8", "i32", "i64", "u8", "bool"):
        x = np.array([0, 1, 2, 3, 100]).astype(dtype)
        assert_close(*_run("cast", [x], dtype=name), "exact")


def test_float_to_integer_rounds_towards_zero():
    actual, expected = _run("cast", [np.array([-2.7, -0.5, 0.5, 2.7], np.float32)], dtype="i32")
    assert actual.tolist() == expected.tolist() == [-2, 0, 0, 2]
