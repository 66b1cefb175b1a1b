"""Kernels that a team of threads runs: each does its share, and sees what the others wrote."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cnncc.kernels.build import KernelSource, build_all
from cnncc.kernels.cache import Cache
from cnncc.runtime.executable import Executable
from cnncc.runtime.program import Buffer, Call, Port, Program
from cnncc.targets.target import Target

ROWS, WIDTH = 37, 64


def loops(*, scratch: bool = False) -> Any:
    """t = x + 1 in parallel, t[0] = 0 on one thread, y[r] = t[ROWS - 1 - r] + t[0] in parallel, y[0] += 1 on one."""
    from tvm.script import tirx as T  # noqa: N812

    @T.prim_func(s_tir=True)
    def reverse(x: T.Buffer((37, 64)), t: T.Buffer((37, 64)), y: T.Buffer((37, 64))):
        for r in T.parallel(37):
            for j in T.vectorized(64):
                with T.sblock("first"):
                    t[r, j] = x[r, j] + T.float32(1)
        for j in range(64):
            with T.sblock("alone"):
                t[0, j] = T.float32(0)
        for r in T.parallel(37):
            for j in T.vectorized(64):
                with T.sblock("second"):
                    y[r, j] = t[36 - r, j] + t[0, j]
        for j in range(64):
            with T.sblock("last"):
                y[0, j] = y[0, j] + T.float32(1)

    @T.prim_func(s_tir=True)
    def kept(x: T.Buffer((37, 64)), t: T.Buffer((37, 64)), y: T.Buffer((37, 64))):
        line = T.sblock_alloc_buffer((64,), "float32", scope="local")
        for j in range(64):
            with T.sblock("line"):
                line[j] = x[0, j] * T.float32(2)
        for r in T.parallel(37):
            for j in range(64):
                with T.sblock("out"):
                    t[r, j] = x[r, j]
                    y[r, j] = x[r, j] + line[j]

    return kept if scratch else reverse


def run(make: Any, threads: int) -> tuple[Program, np.ndarray, np.ndarray]:
    target = Target("test", "cpu", threads=threads)
    objects = build_all({"kernel": KernelSource("team test", make)}, target, jobs=1, cache=Cache(None))
    shape = (ROWS, WIDTH)
    program = Program(
        buffers=(
            Buffer("x", "float32", shape, "input"),
            Buffer("t", "float32", shape, "arena"),
            Buffer("y", "float32", shape, "output"),
        ),
        calls=(Call("kernel", (0, 1, 2), "node"),) * 2,
        inputs=(Port("x", "float32", shape, 0),),
        outputs=(Port("y", "float32", shape, 2),),
        kernels=objects,
        arena=ROWS * WIDTH * 4,
        threads=threads,
    ).check()
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    executable = Executable(program)
    results = [executable(x) for _ in range(20)]
    assert all(np.array_equal(r, results[0]) for r in results)
    return program, x, results[0]


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 40])
def test_loops_see_what_others_wrote(threads: int) -> None:
    program, x, y = run(loops, threads)
    t = x + 1
    t[0] = 0
    expected = t[::-1].copy()
    expected[0] += 1
    np.testing.assert_array_equal(y, expected)
    assert program.team_kernels == ({"kernel"} if threads > 1 else frozenset())


@pytest.mark.parametrize("threads", [2, 3])
def test_scratch_across_loops_keeps_a_kernel_on_one_thread(threads: int) -> None:
    program, x, y = run(lambda: loops(scratch=True), threads)
    np.testing.assert_array_equal(y, x + x[0] * 2)
    assert program.team_kernels == frozenset()
