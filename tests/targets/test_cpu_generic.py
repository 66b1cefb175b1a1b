"""Kernels scheduled from their definition: recipes, results, and what must not be in their code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.ops.harness import Case, aligned, all_cases, blocked, prim_func, run_reference, symbolic
from tests.targets.cpu_records import AVX2, AVX512, SSE, WIDEST, needs_x86, normal, runs
from tests.tolerances import assert_close

pytestmark = needs_x86

ONE = replace(WIDEST, threads=1)


# -- elementwise: (operands as shapes, result shape, te body, numpy) --------------------------------------------------


def _relu(v: Any) -> Any:
    from tvm import tirx

    return tirx.max(tirx.const(0, "float32"), v)


def _guard(condition: Any, v: Any) -> Any:
    from tvm import tirx

    return tirx.if_then_else(condition, v, tirx.const(0, "float32"))


def _all(*conditions: Any) -> Any:
    from tvm import tirx

    return tirx.all(*conditions)


def _pack(x: np.ndarray, block: int) -> np.ndarray:
    from cnncc.ir.layout import channels

    return channels(block).pack(x)


def _unpack(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    from cnncc.ir.layout import channels

    return channels(x.shape[-1]).unpack(x, shape)


ELEMENTWISE: dict[str, tuple[list[tuple[int, ...]], tuple[int, ...], Callable[..., Any], Callable[..., Any]]] = {
    "bias": (
        [(2, 24, 7, 7), (24,)], (2, 24, 7, 7),
        lambda x, b: lambda n, c, h, w: _relu(x[n, c, h, w] + b[c]), lambda x, b: np.maximum(0, x + b[:, None, None]),
    ),
    "long": ([(50000,), (50000,)], (50000,), lambda x, y: lambda i: x[i] + y[i], lambda x, y: x + y),
    "prime": ([(50021,), (50021,)], (50021,), lambda x, y: lambda i: x[i] * y[i], lambda x, y: x * y),
    "row-100": ([(30, 100), (30,)], (30, 100), lambda x, b: lambda i, j: x[i, j] + b[i], lambda x, b: x + b[:, None]),
    "transpose": ([(48, 33)], (33, 48), lambda x: lambda i, j: x[j, i], lambda x: x.T),
    "transpose-even": ([(64, 128)], (128, 64), lambda x: lambda i, j: x[j, i], lambda x: x.T),
    "pack": (
        [(2, 32, 7, 7)], (2, 2, 7, 7, 16),
        lambda x: lambda n, c, h, w, i: x[n, c * 16 + i, h, w], lambda x: _pack(x, 16),
    ),
    "pack-ragged": (
        [(2, 20, 5, 5)], (2, 2, 5, 5, 16),
        lambda x: lambda n, c, h, w, i: _guard(c * 16 + i < 20, x[n, c * 16 + i, h, w]), lambda x: _pack(x, 16),
    ),
    "unpack": (
        [(2, 2, 7, 7, 16)], (2, 32, 7, 7),
        lambda x: lambda n, c, h, w: x[n, c // 16, h, w, c % 16], lambda x: _unpack(x, (2, 32, 7, 7)),
    ),
    "unpack-ragged": (
        [(2, 2, 5, 5, 16)], (2, 20, 5, 5),
        lambda x: lambda n, c, h, w: x[n, c // 16, h, w, c % 16], lambda x: _unpack(x, (2, 20, 5, 5)),
    ),
    "pad": (
        [(2, 3, 9, 20)], (2, 3, 11, 23),
        lambda x: lambda n, c, h, w: _guard(_all(h >= 1, h < 10, w >= 2, w < 22), x[n, c, h - 1, w - 2]),
        lambda x: np.pad(x, [(0, 0), (0, 0), (1, 1), (2, 1)]),
    ),
    "slice": ([(10, 40)], (4, 13), lambda x: lambda i, j: x[i + 3, j * 3], lambda x: x[3:7, :39:3]),
    "reverse": ([(10, 40)], (10, 40), lambda x: lambda i, j: x[i, 39 - j], lambda x: x[:, ::-1]),
    "one": ([(1,)], (1,), lambda x: lambda i: x[i] + x[i], lambda x: x + x),
}  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name: str, threads: int, eager: None) -> None:
    from tests.targets.cpu_generic import Kernel, compute, tensor

    shapes, result, body, expected = ELEMENTWISE[name]
    operands = [tensor(f"x{k}", *s) for k, s in enumerate(shapes)]
    kernel = Kernel(operands, [compute(result, body(*operands))], replace(WIDEST, threads=threads))
    arrays = [normal(*s) for s in shapes]
    (actual,) = kernel(*arrays)
    assert kernel.recipe == "elementwise"
    assert_close(actual, expected(*arrays), "exact", label=name)


def test_chains_are_inlined_and_outputs_may_depend_on_each_other() -> None:
    from tests.targets.cpu_generic import Kernel, compute, tensor

    p, g, m = (tensor(n, 1000) for n in "pgm")
    doubled = compute((1000,), lambda i: g[i] + g[i], "doubled")
    momentum = compute((1000,), lambda i: m[i] + doubled[i], "momentum")
    updated = compute((1000,), lambda i: p[i] - momentum[i], "updated")
    kernel = Kernel([p, g, m], [momentum, updated], ONE)
    a, b, c = (normal(1000) + k for k in range(3))
    first, second = kernel(a, b, c)
    assert_close(first, c + (b + b), "exact")
    assert_close(second, a - (c + (b + b)), "exact")
    assert not kernel.workspaces


@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("size", [10, 64])
def test_outputs_of_one_shape_share_a_loop_where_they_may(crossed: bool, size: int, eager: None) -> None:
    from tests.targets.cpu_generic import Kernel, compute, tensor

    x = tensor("x", size, size)
    twice = compute((size, size), lambda i, j: x[i, j] + x[i, j], "twice")
    more = compute((size, size), lambda i, j: (twice[j, i] if crossed else twice[i, j]) + x[i, j], "more")
    a = normal(size, size)
    first, second = Kernel([x], [twice, more], WIDEST)(a)
    assert_close(first, a + a, "exact")
    assert_close(second, (a + a).T + a if crossed else (a + a) + a, "exact")


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64", "uint8", "int8", "float16", "bool"])
def test_dtypes(dtype: str, eager: None) -> None:
    from tests.targets.cpu_generic import Kernel, compute, tensor

    x, y = tensor("x", 37, 64, dtype=dtype), tensor("y", 64, dtype=dtype)

    def body(i: Any, j: Any) -> Any:
        from tvm import tirx

        a, b = tirx.convert(x[i, j]), tirx.convert(y[j])
        return tirx.Or(a, b) if dtype == "bool" else tirx.Select(a > b, a, b)

    a = (np.random.default_rng(1).integers(0, 100, (37, 64)) % (2 if dtype == "bool" else 100)).astype(dtype)
    b = (np.random.default_rng(2).integers(0, 100, 64) % (2 if dtype == "bool" else 100)).astype(dtype)
    (actual,) = Kernel([x, y], [compute((37, 64), body)], WIDEST)(a, b)
    assert_close(actual, np.maximum(a, b), "exact")


@pytest.mark.parametrize("target", [AVX512, AVX2, SSE], ids=lambda t: t.name)
def test_each_vector_length(target: Any, eager: None) -> None:
    from tests.targets.cpu_generic import Kernel, compute, tensor

    runs(target)
    x, b = tensor("x", 3, 20, 49), tensor("b", 20)
    kernel = Kernel([x, b], [compute((3, 20, 49), lambda n, c, i: _relu(x[n, c, i] + b[c]))], target)
    a, c = normal(3, 20, 49), normal(20)
    assert_close(kernel(a, c)[0], np.maximum(0, a + c[:, None]), "exact")


# -- fallback ---------------------------------------------------------------------------------------------------------


def test_convolution_and_its_padding_as_a_workspace(eager: None) -> None:
    from tvm import te

    from tests.targets.cpu_generic import Kernel, axis, compute, tensor

    x, w = tensor("x", 2, 3, 9, 9), tensor("w", 5, 3, 3, 3)
    inside = lambda h, v: _all(h >= 1, h < 10, v >= 1, v < 10)  # noqa: E731
    padded = compute((2, 3, 11, 11), lambda n, c, h, v: _guard(inside(h, v), x[n, c, h - 1, v - 1]), "padded")
    r = [axis(3), axis(3), axis(3)]
    conv = compute(
        (2, 5, 9, 9), lambda n, o, h, v: te.sum(padded[n, r[0], h + r[1], v + r[2]] * w[o, r[0], r[1], r[2]], axis=r)
    )
    kernel = Kernel([x, w], [conv], WIDEST)
    a, b = normal(2, 3, 9, 9), normal(5, 3, 3, 3)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(a, [(0, 0), (0, 0), (1, 1), (1, 1)]), (3, 3), (2, 3))
    assert_close(kernel(a, b)[0], np.einsum("nchwij,ocij->nohw", windows, b), "conv")
    assert kernel.recipe == "fallback"
    assert kernel.workspaces == [((2, 3, 11, 11), "float32")]


@pytest.mark.parametrize("transposed", [False, True])
def test_matrix_product(transposed: bool, eager: None) -> None:
    from tvm import te

    from tests.targets.cpu_generic import Kernel, axis, compute, tensor

    x, w, k = tensor("x", 17, 50), tensor("w", *((33, 50) if transposed else (50, 33))), axis(50)
    body = lambda i, j: te.sum(x[i, k] * (w[j, k] if transposed else w[k, j]), axis=k)  # noqa: E731
    kernel = Kernel([x, w], [compute((17, 33), body)], WIDEST)
    a, b = normal(17, 50), normal(50, 33)
    assert_close(kernel(a, np.ascontiguousarray(b.T) if transposed else b)[0], a @ b, "conv")


def test_extern_operations_stay(eager: None) -> None:
    from tvm import te

    from tests.targets.cpu_generic import Kernel, tensor

    x = tensor("x", 8)

    def running(ins: Any, outs: Any) -> Any:
        from tvm import tirx

        a, b = ins[0], outs[0]
        i = tirx.Var("i", "int64")
        one = tirx.const(1, "int64")
        step = tirx.BufferStore(b, tirx.BufferLoad(b, [i - one]) + tirx.BufferLoad(a, [i]), [i])
        first = tirx.BufferStore(b, tirx.BufferLoad(a, [0]), [0])
        loop = tirx.For(i, one, tirx.const(7, "int64"), tirx.ForKind.SERIAL, step)
        return tirx.SeqStmt([first, loop])

    total = te.extern([(8,)], [x], running, name="running", dtype="float32")
    kernel = Kernel([x], [total], WIDEST)
    a = normal(8)
    assert kernel.recipe == "fallback"
    assert_close(kernel(a)[0], np.cumsum(a), "reduction")


# -- code -------------------------------------------------------------------------------------------------------------


def test_small_kernels_do_not_wake_threads() -> None:
    from tests.targets.cpu_generic import Kernel, compute, tensor

    x = tensor("x", 100)
    kernel = Kernel([x], [compute((100,), lambda i: x[i] + x[i])], WIDEST)
    assert "TVMBackendParallelLaunch" not in kernel.llvm


def _representative() -> list[Case]:
    """The first sample of every op that is more than a formula."""
    return [c for c in all_cases() if not c.op.fusible and c.number == 0]


@pytest.mark.parametrize("case", _representative(), ids=str)
def test_ops_of_the_table(case: Case, eager: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every op with stages: results, in blocks where the sample has channels, and no allocation in the code."""
    import tvm

    from cnncc.kernels.build import _compile
    from cnncc.targets.cpu.generic import schedule_generic

    arrays = case.arrays()
    in_blocks = blocked(case)
    types, outs = in_blocks or (case.types, case.op.infer_types(case.attrs, case.types))
    func, workspaces, _ = schedule_generic(prim_func(case.op, case.attrs, types, outs), WIDEST)
    module = _compile(func, WIDEST, "kernel")
    assert "TVMBackendAllocWorkspace" not in module.inspect_source("ll")
    operands = [
        aligned(t.layout.pack(a)) for t, a in zip(types, arrays, strict=True) if t is not None and a is not None
    ]
    results = [aligned(np.full([int(d) for d in t.physical], 7, t.numpy)) for t in outs]
    scratch = [aligned(np.full(s, 7, d)) for s, d in workspaces]
    module["kernel"](*(tvm.runtime.from_dlpack(a) for a in (*operands, *results, *scratch)))
    for result, type_, expected in zip(results, outs, run_reference(case, arrays), strict=True):
        actual = type_.layout.unpack(result, type_.shape)
        assert_close(actual, expected, case.kind, type_.dtype, str(case))


@pytest.mark.parametrize("case", [c for c in _representative() if symbolic(c)][::3], ids=str)
def test_ops_with_a_symbolic_batch_can_be_scheduled(case: Case, eager: None) -> None:
    from cnncc.kernels.build import kernel_llvm
    from cnncc.targets.cpu.generic import schedule_generic

    free = symbolic(case)
    assert free is not None
    func, _, _ = schedule_generic(prim_func(case.op, *free, case.op.infer_types(*free)), WIDEST)
    assert "TVMBackendAllocWorkspace" not in kernel_llvm(func, WIDEST, "kernel")
