"""Vector functions of float32 against float64: largest errors over all arguments, special values, code."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.targets.cpu_records import WIDEST, needs_x86

pytestmark = needs_x86

_COUNT = 1 << 20
_SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 2, -2, 3, -3, 0.5, -0.5, 1e-45, -1e-45, 1.1e-38, -1.1e-38, 3e38, -3e38,
     88.72283, 88.72284, 89, -87.4, -88, -103.9, -103.98, -104, -110, 9, 9.1, -9.1, 3.9, 4, 0.70710677, 1.4142135],
    np.float32,
)  # fmt: skip


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def _erf(x: np.ndarray) -> np.ndarray:
    import torch

    return torch.erf(torch.from_numpy(x)).numpy()


# function: (largest error in units of the last place, as math.py states it; float64 reference)
FUNCTIONS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "exp": (1.1, np.exp),
    "expm1": (1.7, np.expm1),
    "log": (0.9, np.log),
    "log1p": (2.5, np.log1p),
    "tanh": (5.5, np.tanh),
    "erf": (5.5, _erf),
    "sigmoid": (2.5, _sigmoid),
}
POWERS = (0.75, -3.5, 5.0, -2.0, 0.0, 2.0**-10, 100.0)


def _kernel(formula: Callable[[Any], Any], dtype: str = "float32") -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """A vector kernel of the formula, and its LLVM text."""
    import tvm
    from tvm import te

    from cnncc.kernels.build import kernel_llvm
    from cnncc.targets.cpu.generic import schedule_generic
    from cnncc.targets.cpu.llvm import to_tvm
    from cnncc.targets.cpu.stack import pipeline
    from tests.ops.harness import aligned
    from tests.targets.cpu_generic import compute, tensor

    x = tensor("x", _COUNT, dtype=dtype)
    func, _, _ = schedule_generic(te.create_prim_func([x, compute((_COUNT,), lambda i: formula(x[i]))]), WIDEST)
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    built = tvm.compile(module, target=to_tvm(WIDEST), tir_pipeline=pipeline())

    def run(a: np.ndarray) -> np.ndarray:
        whole = np.zeros(_COUNT, dtype)
        whole[: a.size] = a
        operand, result = aligned(whole), aligned(whole)
        built["main"](tvm.runtime.from_dlpack(operand), tvm.runtime.from_dlpack(result))
        return result[: a.size]

    return run, kernel_llvm(func, WIDEST, "kernel")


def _every(step: int = 4099) -> np.ndarray:
    """Floats of every sign and exponent, denormals and NaNs among them."""
    bits = np.arange(_COUNT, dtype=np.uint64) * step % (1 << 32)
    return bits.astype(np.uint32).view(np.float32)


def _errors(actual: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """In units of the last place of the exact result; infinite where special values differ."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float32)
        error = np.abs(actual.astype(np.float64) - exact) / np.spacing(np.abs(rounded)).astype(np.float64)
    same = (actual == rounded) | (np.isnan(actual) & np.isnan(rounded))
    return np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))


def _formula(name: str) -> Callable[[Any], Any]:
    from cnncc.targets.cpu import math

    return getattr(math, name)


def _check(
    run: Callable[[np.ndarray], np.ndarray], reference: Callable[[np.ndarray], np.ndarray], bound: float
) -> None:
    for x in (_every(), np.linspace(-20, 20, _COUNT).astype(np.float32), _SPECIAL):
        with np.errstate(all="ignore"):
            exact = reference(x.astype(np.float64))
        errors = _errors(run(x), exact)
        worst = errors.argmax()
        assert errors[worst] <= bound, f"at {x[worst]!r}: {run(x)[worst]!r}, exact {exact[worst]!r}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors_are_within_the_stated_bounds(name: str) -> None:
    bound, reference = FUNCTIONS[name]
    run, _ = _kernel(_formula(name))
    _check(run, reference, bound)


@pytest.mark.parametrize("exponent", POWERS)
def test_powers(exponent: float) -> None:
    from tvm import tirx

    run, _ = _kernel(lambda x: _formula("pow")(x, tirx.const(exponent, "float32")))
    _check(run, lambda x: np.power(x, exponent), 0.51)


def test_powers_of_special_values() -> None:
    from cnncc.targets.cpu import math
    from tests.targets.cpu_generic import Kernel, compute, tensor

    x, y = np.meshgrid(_SPECIAL, np.append(_SPECIAL, [5, -5, 1e10, 4.5]).astype(np.float32))
    a, b = tensor("a", *x.shape), tensor("b", *x.shape)
    (actual,) = Kernel([a, b], [compute(x.shape, lambda i, j: math.pow(a[i, j], b[i, j]))], WIDEST)(x, y)
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.float64), y.astype(np.float64))
    assert _errors(actual, exact).max() <= 0.51


@pytest.mark.parametrize("name", [*FUNCTIONS, "pow"])
def test_code_is_vectors_without_library_calls(name: str) -> None:
    from tvm import tirx

    extra = [tirx.const(0.75, "float32")] if name == "pow" else []
    _, text = _kernel(lambda x: _formula(name)(x, *extra))
    called = set(re.findall(r"call [^@\n]*@([\w.]+)", text))
    assert not {c for c in called if re.match(r"(llvm\.)?(exp|log|tanh|erf|pow)", c)}
    assert re.search(
        rf"fmul (contract )?<{WIDEST.lanes()} x float>|fmuladd\.v{WIDEST.lanes()}f32|<[0-9]+ x double>", text
    )


@pytest.mark.parametrize("name", ["exp", "log", "log1p", "tanh", "erf", "sigmoid"])
def test_calls_of_tvm_functions_are_replaced(name: str) -> None:
    from tvm import tirx

    bound, reference = FUNCTIONS[name]
    run, text = _kernel(lambda x: getattr(tirx, name)(x))
    _check(run, reference, bound)
    assert not re.search(rf"call [^@\n]*@(llvm\.)?{name}", text)


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
def test_small_powers_are_products(exponent: float) -> None:
    from tvm import tirx

    run, text = _kernel(lambda x: tirx.power(x, tirx.const(exponent, "float32")))
    x = np.linspace(-3, 3, 1000).astype(np.float32)
    np.testing.assert_allclose(run(x), x**exponent, rtol=3e-7)
    assert "double" not in text


def test_other_types() -> None:
    x = np.linspace(-4, 4, 1000)
    run, _ = _kernel(_formula("tanh"), "float64")
    np.testing.assert_allclose(run(x), np.tanh(x), rtol=1e-14)
    run, _ = _kernel(_formula("tanh"), "float16")
    np.testing.assert_allclose(run(x.astype(np.float16)), np.tanh(x), rtol=2e-3)


@pytest.mark.parametrize("guarded", [False, True])
def test_long_chains_compile_in_linear_time(guarded: bool) -> None:
    """Nested lets take TVM exponential time; 24 functions would never finish."""

    def chain(x: Any) -> Any:
        from tvm import tirx

        from cnncc.targets.cpu import math

        (index,) = x.indices
        for _ in range(6):
            x = math.tanh(math.log1p(math.exp(math.sigmoid(x))))
        return tirx.if_then_else(index < _COUNT // 2, x, tirx.const(0, "float32")) if guarded else x

    run, _ = _kernel(chain)
    x = np.linspace(-4, 4, 1000).astype(np.float32)
    expected = x.astype(np.float64)
    for _ in range(6):
        expected = np.tanh(np.log1p(np.exp(_sigmoid(expected))))
    np.testing.assert_allclose(run(x), expected, rtol=1e-5)
