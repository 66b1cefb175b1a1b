"""Formulas on TVM expressions: what is bound, what is repeated, and types. Values are tested with the ops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te, tirx

from cnncc.ops.math import Math, NumpyMath
from cnncc.ops.registry import lookup
from cnncc.targets.tir_math import TirMath, dtype_of
from tests.ops.harness import aligned
from tests.tolerances import assert_close

N = 64
M = TirMath()


def _element() -> Any:
    x = te.placeholder((tirx.const(N, "int64"),), "float32", name="x")
    return x(tirx.const(0, "int64"))


def test_both_namespaces_have_every_function():
    names = {n for n in vars(Math) if not n.startswith("_")}
    for namespace in (NumpyMath(), M):
        assert {n for n in names if not hasattr(namespace, n)} == set()


def test_small_expressions_are_repeated_and_large_ones_bound():
    x = _element()
    assert isinstance(M.let(x, lambda v: v * v), tirx.Mul)
    assert isinstance(M.let(x * x + x, lambda v: v * v), tirx.Mul)
    assert isinstance(M.let(tirx.exp(x), lambda v: v * v), tirx.Let)
    assert isinstance(M.let(M.where(x > x, x, x), lambda v: v * v), tirx.Let)


def test_maximum_with_a_constant_is_one_comparison():
    x = _element()
    value = M.maximum(x, M.like(0, x))
    assert isinstance(value, tirx.Select)
    assert isinstance(value.condition, tirx.LT)
    assert isinstance(M.maximum(M.like(0, x), x).condition, tirx.LT)


@pytest.mark.parametrize("op", ["silu", "hard_swish", "gelu", "mish", "leaky_relu", "clip", "max"])
def test_chains_grow_linearly(op: str):
    """An operand used several times is not repeated: 12 formulas are not much longer than 6."""

    def size(count: int) -> int:
        x = te.placeholder((tirx.const(N, "int64"),), "float32", name="x")
        o = lookup(op)
        attrs = o.attrs(0.0, 6.0) if op == "clip" else o.attrs()

        def chain(i: Any) -> Any:
            value = x(i)
            for _ in range(count):
                value = o.formula(M, attrs, value, tirx.exp(x(i))) if op == "max" else o.formula(M, attrs, value)
            return value

        return len(str(te.create_prim_func([x, te.compute(x.shape, chain, name="y")])))

    assert size(12) < 3 * size(6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    "op", ["gelu", "softplus", "elu", "sigmoid", "hard_swish", "mish", "softsign", "sign", "asinh"]
)
def test_formulas_keep_the_dtype(op: str, dtype: str):
    x = te.placeholder((tirx.const(N, "int64"),), dtype, name="x")
    o = lookup(op)
    assert dtype_of(o.formula(M, o.attrs(), x(tirx.const(0, "int64")))) == dtype


@pytest.mark.parametrize("op", ["gelu", "softplus", "elu", "sigmoid", "relu", "tanh"])
def test_half_precision(op: str):
    x = te.placeholder((tirx.const(N, "int64"),), "float16", name="x")
    o = lookup(op)
    y = te.compute(x.shape, lambda i: o.formula(M, o.attrs(), x(i)), name="y")
    run = tvm.compile(tvm.IRModule({"main": te.create_prim_func([x, y])}), target="llvm")["main"]
    data = np.linspace(-4, 4, N).astype(np.float16)
    actual = aligned(np.zeros_like(data))
    run(tvm.runtime.from_dlpack(aligned(data)), tvm.runtime.from_dlpack(actual))
    assert_close(actual, o.run(o.attrs(), [data.astype(np.float32)])[0].astype(np.float16), "reduction", "f16")
