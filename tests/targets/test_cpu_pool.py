"""Pooling: tiles and layouts, and built kernels against PyTorch."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cnncc.ir.layout import PLAIN, channels
from cnncc.targets.algorithm import Algorithm
from cnncc.targets.cpu.pool import pool_blocked, pool_plain
from cnncc.targets.problem import PoolProblem
from tests.targets.cpu_records import AVX2, AVX512, SSE, WIDEST, needs_x86, runs
from tests.tolerances import assert_close

ONE = replace(WIDEST, threads=1)
BOTH = pytest.mark.parametrize("algorithm", [pool_blocked, pool_plain], ids=lambda a: a.name)


def problem(
    op: str, n: int | str, c: int, size: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...],
    pads: tuple[int, ...] = (), dilations: tuple[int, ...] = (), ceil: bool = False, include: bool = False,
    dtype: str = "f32",
) -> PoolProblem:  # fmt: skip
    """A problem whose output sizes follow PyTorch's rule."""
    r = len(size)
    pads, dilations = pads or (0,) * 2 * r, dilations or (1,) * r
    out = []
    for a in range(r):
        room = size[a] + pads[a] + pads[r + a] - dilations[a] * (kernel[a] - 1) - 1
        o = (-(-room // strides[a]) if ceil else room // strides[a]) + 1
        if ceil and (o - 1) * strides[a] >= size[a] + pads[a]:
            o -= 1
        out.append(o)
    return PoolProblem(op, n, c, size, tuple(out), kernel, strides, pads, dilations, include, dtype)


MAX = [
    problem("max", 2, 32, (14, 14), (3, 3), (2, 2), (1, 1, 1, 1)),
    problem("max", 1, 16, (13, 13), (3, 3), (2, 2)),
    problem("max", 1, 20, (10, 15), (2, 2), (2, 2)),  # ragged channels
    problem("max", 1, 16, (12, 12), (3, 3), (2, 2), ceil=True),
    problem("max", 1, 16, (11, 9), (3, 2), (1, 3), (1, 0, 1, 0), (2, 3)),
    problem("max", 2, 16, (6, 8, 9), (3, 3, 3), (2, 2, 2), (1,) * 6),
    problem("max", 3, 16, (50,), (3,), (2,), (1, 1)),
    problem("max", 1, 16, (20, 20), (9, 9), (1, 1), (4, 4, 4, 4)),  # too many taps to unroll
    problem("max", 1, 16, (1, 1), (3, 3), (1, 1), (1, 1, 1, 1)),
    problem("max", 1, 16, (5, 40), (1, 1), (2, 2)),
]
AVERAGE = [
    problem("average", 2, 32, (14, 14), (3, 3), (1, 1), (1, 1, 1, 1)),
    problem("average", 2, 32, (14, 14), (3, 3), (1, 1), (1, 1, 1, 1), include=True),
    problem("average", 1, 20, (13, 12), (3, 3), (2, 2), (1, 1, 1, 1), ceil=True),
    problem("average", 1, 16, (13, 12), (3, 3), (2, 2), (1, 1, 1, 1), ceil=True, include=True),
    problem("average", 1, 16, (7, 7), (7, 7), (1, 1)),
    problem("average", 1, 16, (16, 16), (16, 16), (1, 1)),
    problem("average", 1, 16, (30,), (4,), (3,), (2, 2)),
    problem("average", 1, 16, (4, 8, 9), (2, 3, 2), (2, 1, 2), (0, 1, 1, 0, 1, 1)),
]
EVERY = pytest.mark.parametrize("p", [*MAX, *AVERAGE], ids=str)


class Pool:
    """A built pooling kernel with an optional epilogue; called with a logical array."""

    def __init__(self, algorithm: Algorithm, p: PoolProblem, target: Any = ONE, finish: Any = lambda v, index: v):
        from tvm import IRModule, s_tir, te, tirx

        self.p = p
        self.target = target
        tile = algorithm.tiles_for(p, target)
        self.layouts = algorithm.layouts(p, target)
        n = te.var("n", "int64") if isinstance(p.n, str) else p.n
        shape = self.layouts.x.physical((n, p.c, *p.size))
        self.dtype = {"f32": "float32", "f64": "float64", "f16": "float16", "i8": "int8", "u8": "uint8"}[p.dtype]
        x = te.placeholder([tirx.const(d, "int64") if isinstance(d, int) else d for d in shape], self.dtype, name="x")
        out = algorithm.define(p, tile, x, None, finish)
        schedule = s_tir.Schedule(IRModule({"main": te.create_prim_func([x, out])}))
        algorithm.schedule(schedule, p, tile, target)
        self.func = schedule.mod["main"]

    @property
    def llvm(self) -> str:
        from cnncc.kernels.build import kernel_llvm

        return kernel_llvm(self.func, self.target, "kernel")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The result in its physical layout."""
        import tvm

        from cnncc.targets.cpu.llvm import to_tvm
        from cnncc.targets.cpu.stack import pipeline
        from tests.ops.harness import aligned

        module = tvm.IRModule({"main": self.func.with_attr("global_symbol", "main")})
        built = tvm.compile(module, target=to_tvm(self.target), tir_pipeline=pipeline())
        shape = self.layouts.out.physical((len(x), self.p.c, *self.p.out))
        result = aligned(np.full(shape, 7, self.dtype))
        built["main"](*(tvm.runtime.from_dlpack(a) for a in (aligned(self.layouts.x.pack(x)), result)))
        return result

    def logical(self, x: np.ndarray) -> np.ndarray:
        """The result in its logical shape."""
        return self.layouts.out.unpack(self(x), (len(x), self.p.c, *self.p.out))


def _input(p: PoolProblem, batch: int = 0) -> np.ndarray:
    n = batch or (p.n if isinstance(p.n, int) else p.hint)
    x = np.random.default_rng(p.c).standard_normal((n, p.c, *p.size))
    return (x * 50 if p.dtype in ("i8", "u8") else x).astype({"f64": np.float64, "i8": np.int8, "u8": np.uint8}.get(
        p.dtype, np.float16 if p.dtype == "f16" else np.float32))  # fmt: skip


def _windows(p: PoolProblem, x: np.ndarray, fill: float, top: int = 0) -> np.ndarray:
    """The taps of every window along a new first axis. Positions beyond the padding are `fill` too."""
    import itertools

    r = len(p.size)
    need = [(p.out[a] - 1) * p.strides[a] + p.dilations[a] * (p.kernel[a] - 1) + 1 for a in range(r)]
    pad = [(p.pads[a], max(0, need[a] - p.size[a] - p.pads[a])) for a in range(r)]
    whole = np.pad(x, [(0, 0), (0, 0), *pad], constant_values=fill)
    taps = []
    for k in itertools.product(*(range(k) for k in p.kernel)):
        at = [
            slice(k[a] * p.dilations[a], k[a] * p.dilations[a] + (p.out[a] - 1) * p.strides[a] + 1, p.strides[a])
            for a in range(r)
        ]
        taps.append(whole[(slice(None), slice(None), *at)])
    return np.stack(taps)


def reference(p: PoolProblem, x: np.ndarray) -> np.ndarray:
    """Pooling by its definition, in float64."""
    if p.op == "max":
        lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        return np.asarray(_windows(p, x, lowest).max(0))
    inside = np.ones(x.shape)
    if p.include_pad:
        r = len(p.size)
        pads = [(p.pads[a], p.pads[r + a]) for a in range(r)]
        inside = np.pad(inside, [(0, 0), (0, 0), *pads], constant_values=1)
        grown = replace(p, size=inside.shape[2:], pads=(0,) * 2 * r)
        count = _windows(grown, inside, 0).sum(0)
    else:
        count = _windows(p, inside, 0).sum(0)
    return np.asarray(_windows(p, x.astype(np.float64), 0).sum(0) / count)


@pytest.mark.parametrize("p", [p for p in (*MAX, *AVERAGE) if p.dilations == (1,) * len(p.size)], ids=str)
def test_the_reference_agrees_with_torch(p: PoolProblem) -> None:
    torch = pytest.importorskip("torch")
    r = len(p.size)
    ceil = p != problem(p.op, p.n, p.c, p.size, p.kernel, p.strides, p.pads, include=p.include_pad)
    more = {} if p.op == "max" else {"count_include_pad": p.include_pad}
    pool = getattr(torch.nn.functional, f"{'max' if p.op == 'max' else 'avg'}_pool{r}d")
    x = _input(p)
    expected = pool(torch.from_numpy(x), p.kernel, p.strides, p.pads[:r], ceil_mode=ceil, **more)
    assert_close(reference(p, x), expected.numpy(), "exact" if p.op == "max" else "reduction")


@needs_x86
@BOTH
@EVERY
def test_against_the_reference(algorithm: Algorithm, p: PoolProblem) -> None:
    x = _input(p)
    assert algorithm.applies(p, ONE) is None
    assert_close(Pool(algorithm, p).logical(x), reference(p, x), "exact" if p.op == "max" else "reduction")


@needs_x86
@BOTH
@pytest.mark.parametrize("target", [AVX512, AVX2, SSE], ids=lambda t: t.name)
def test_each_vector_length(algorithm: Algorithm, target: Any) -> None:
    runs(target)
    p = MAX[0]
    x = _input(p)
    assert_close(Pool(algorithm, p, target).logical(x), reference(p, x), "exact")


@needs_x86
@BOTH
@pytest.mark.parametrize("batch", [1, 5])
def test_a_symbolic_batch(algorithm: Algorithm, batch: int) -> None:
    p = replace(MAX[0], n="n", hint=4)
    x = _input(p, batch)
    assert_close(Pool(algorithm, p, WIDEST).logical(x), reference(p, x), "exact")


@needs_x86
@pytest.mark.parametrize("dtype", ["f64", "f16", "i8", "u8"])
def test_dtypes(dtype: str) -> None:
    p = replace(MAX[0], dtype=dtype)
    x = _input(p)
    assert_close(Pool(pool_plain, p).logical(x), reference(p, x), "exact")


@needs_x86
def test_averages_of_halves_are_summed_in_float32() -> None:
    p = replace(AVERAGE[0], dtype="f16")
    x = _input(p)
    assert_close(Pool(pool_plain, p).logical(x), reference(p, x), "reduction", "f16")


@needs_x86
@BOTH
@pytest.mark.parametrize("p", [MAX[0], MAX[4], MAX[7]], ids=str)
def test_nan_wins(algorithm: Algorithm, p: PoolProblem) -> None:
    x = _input(p)
    x[0, 1, 3, 3] = np.nan
    actual = Pool(algorithm, p).logical(x)
    assert np.isnan(actual).any()
    assert_close(actual, reference(p, x), "exact")


@needs_x86
@BOTH
def test_negative_infinity_is_a_value(algorithm: Algorithm) -> None:
    p = MAX[4]
    x = np.full_like(_input(p), -np.inf)
    assert_close(Pool(algorithm, p).logical(x), x[:, :, : p.out[0], : p.out[1]], "exact")


@needs_x86
@BOTH
@pytest.mark.parametrize("p", [MAX[2], MAX[7], AVERAGE[2]], ids=str)
def test_the_epilogue_sees_every_element_once(algorithm: Algorithm, p: PoolProblem) -> None:
    def finish(value: Any, index: tuple[Any, ...]) -> Any:
        from tvm import tirx

        return value * tirx.const(2, "float32") + tirx.Cast("float32", index[1])

    x = _input(p)
    kernel = Pool(algorithm, p, finish=finish)
    channel = np.arange(p.c).reshape(1, p.c, *(1 for _ in p.size))
    assert_close(kernel.logical(x), reference(p, x) * 2 + channel, "reduction")


@needs_x86
def test_the_padding_of_ragged_channels_is_zero() -> None:
    p = MAX[2]
    kernel = Pool(pool_blocked, p, finish=lambda v, index: v + 1)
    result = kernel(_input(p))
    assert (result[:, -1, ..., p.c % result.shape[-1] :] == 0).all()


@needs_x86
def test_code() -> None:
    large = problem("max", 8, 64, (56, 56), (3, 3), (2, 2), (1, 1, 1, 1))
    text = Pool(pool_blocked, large, WIDEST).llvm
    assert "TVMBackendParallelLaunch" in text
    assert re.search(rf"<{WIDEST.block} x float>", text)
    text = Pool(pool_blocked, large, ONE).llvm
    assert "TVMBackendParallelLaunch" not in text
    assert "TVMBackendAllocWorkspace" not in Pool(pool_blocked, MAX[7], ONE).llvm


def test_layouts_and_refusals() -> None:
    assert pool_blocked.layouts(MAX[0], ONE).out == channels(ONE.block)
    assert pool_plain.layouts(MAX[0], ONE).x == PLAIN
    assert "floating" in str(pool_plain.applies(replace(AVERAGE[0], dtype="i8"), ONE))
    assert "f16" in str(pool_blocked.applies(replace(MAX[0], dtype="f16"), ONE))


def test_costs_follow_the_bytes() -> None:
    small, large = MAX[0], replace(MAX[0], n=20)
    for algorithm in (pool_blocked, pool_plain):
        a, b = (algorithm.cost(p, ONE, algorithm.tiles_for(p, ONE)) for p in (small, large))
        assert b.seconds == pytest.approx(10 * a.seconds)
        assert b.bytes == 10 * a.bytes


def test_scratch_is_what_a_row_or_a_window_needs() -> None:
    p = MAX[0]
    assert pool_plain.scratch(p, ONE, pool_plain.tiles_for(p, ONE)) == 4 * p.size[-1]
    assert pool_blocked.scratch(p, ONE, pool_blocked.tiles_for(p, ONE)) == 0
    long = MAX[7]
    assert pool_blocked.scratch(long, ONE, pool_blocked.tiles_for(long, ONE)) == 4 * ONE.block
