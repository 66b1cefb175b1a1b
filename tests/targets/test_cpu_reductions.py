"""Reductions, softmax and sums scheduled from their definition."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.targets.cpu_records import WIDEST, needs_x86, normal
from tests.tolerances import assert_close

pytestmark = needs_x86

ONE = replace(WIDEST, threads=1)


def _softmax(x: Any, n: Any, c: int, plane: tuple[int, ...] = ()) -> Any:
    """Softmax over axis 1 of (n, c, *plane), in its usual four stages."""
    from tvm import te, tirx

    from tests.targets.cpu_generic import axis, compute

    k, r = axis(c), axis(c)
    top = compute((n, *plane), lambda i, *p: te.max(x[(i, k, *p)], axis=k), "top")
    e = compute((n, c, *plane), lambda i, j, *p: tirx.exp(x[(i, j, *p)] - top[(i, *p)]), "e")
    total = compute((n, *plane), lambda i, *p: te.sum(e[(i, r, *p)], axis=r), "total")
    return compute((n, c, *plane), lambda i, j, *p: e[(i, j, *p)] / total[(i, *p)], "softmax")


def _softmax_reference(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    e = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


@pytest.mark.parametrize("shape", [(7, 1000), (1, 1003), (5, 3), (2, 19, 6, 7), (1, 4, 3, 200)], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_softmax(shape: tuple[int, ...], threads: int, eager: None) -> None:
    from tests.targets.cpu_generic import Kernel, tensor

    x = tensor("x", *shape)
    kernel = Kernel([x], [_softmax(x, shape[0], shape[1], shape[2:])], replace(WIDEST, threads=threads))
    a = normal(*shape) * 5
    assert_close(kernel(a)[0], _softmax_reference(a), "softmax")
    assert kernel.recipe == "reduce"
    assert not kernel.workspaces


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_a_symbolic_batch(batch: int, eager: None) -> None:
    from tvm import te

    from tests.targets.cpu_generic import Kernel, tensor

    n = te.var("n", "int64")
    x = tensor("x", n, 100)
    kernel = Kernel([x], [_softmax(x, n, 100)], WIDEST, {"n": batch})
    a = normal(batch, 100)
    assert_close(kernel(a)[0], _softmax_reference(a), "softmax")


SUMS = {
    "rows": ((40, 49), (1,)),
    "rows-prime": ((12, 1009), (1,)),
    "rows-short": ((50, 5), (1,)),
    "columns": ((49, 40), (0,)),
    "columns-wide": ((9, 113), (0,)),
    "all": ((64, 300), (0, 1)),
    "all-long": ((7, 100, 100), (0, 1, 2)),
    "planes": ((3, 20, 7, 7), (2, 3)),
    "channels": ((3, 20, 7, 7), (0, 2, 3)),
    "middle": ((3, 20, 70), (1,)),
    "one": ((1, 1), (1,)),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", SUMS)
def test_sums(name: str, threads: int, eager: None) -> None:
    from tvm import te

    from tests.targets.cpu_generic import Kernel, axis, compute, tensor

    shape, axes = SUMS[name]
    x = tensor("x", *shape)
    r = {a: axis(shape[a]) for a in axes}
    kept = [d for a, d in enumerate(shape) if a not in axes]

    def body(*index: Any) -> Any:
        rest = iter(index)
        at = [r[a] if a in axes else next(rest) for a in range(len(shape))]
        return te.sum(x[tuple(at)], axis=list(r.values()))

    kernel = Kernel([x], [compute(kept, body)], replace(WIDEST, threads=threads))
    a = normal(*shape)
    assert_close(kernel(a)[0], a.astype(np.float64).sum(axes), "reduction")


def test_global_average_in_blocks(eager: None) -> None:
    from tvm import te

    from tests.targets.cpu_generic import Kernel, axis, compute, tensor

    x = tensor("x", 2, 4, 7, 7, 16)
    r = [axis(7), axis(7)]
    total = compute((2, 64), lambda n, c: te.sum(x[n, c // 16, r[0], r[1], c % 16], axis=r), "total")
    mean = compute((2, 4, 1, 1, 16), lambda n, c, h, w, i: total[n, c * 16 + i] / np.float32(49), "mean")
    kernel = Kernel([x], [mean], WIDEST)
    a = normal(2, 4, 7, 7, 16)
    assert_close(kernel(a)[0], a.astype(np.float64).mean((2, 3), keepdims=True), "reduction")
    assert kernel.recipe == "reduce"
    assert not kernel.workspaces


@pytest.mark.parametrize("shape", [(6, 5), (4, 500)], ids=str)
def test_extremes_keep_nan(shape: tuple[int, int]) -> None:
    from cnncc.ops.reducers import maximum
    from tests.targets.cpu_generic import Kernel, axis, compute, tensor

    x = tensor("x", *shape)
    k = axis(shape[1])
    kernel = Kernel([x], [compute(shape[:1], lambda i: maximum("f32")(x[i, k], axis=k))], ONE)
    a = normal(*shape)
    a[1, 2] = a[3, -1] = np.nan
    assert_close(kernel(a)[0], a.max(1), "exact")


def test_softmax_calls_no_library_and_allocates_nothing() -> None:
    from tests.targets.cpu_generic import Kernel, tensor

    x = tensor("x", 64, 1000)
    text = Kernel([x], [_softmax(x, 64, 1000)], WIDEST).llvm
    assert "TVMBackendAllocWorkspace" not in text
    assert not re.search(r"call [^@]*@(exp|llvm\.exp)", text)
    assert re.search(rf"<{WIDEST.lanes()} x float>", text)


def test_one_thread_means_no_parallel_loop(eager: None) -> None:
    from tests.targets.cpu_generic import Kernel, tensor

    x = tensor("x", 64, 1000)
    assert "TVMBackendParallelLaunch" not in Kernel([x], [_softmax(x, 64, 1000)], ONE).llvm
    assert "TVMBackendParallelLaunch" in Kernel([x], [_softmax(x, 64, 1000)], WIDEST).llvm
