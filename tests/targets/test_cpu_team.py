"""Kernels that a team of threads runs: each does its share, and sees what the others wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnncc
from cnncc.kernels.build import KernelSource, build_all
from cnncc.kernels.cache import Cache
from cnncc.ops.conv import ConvAttrs, conv
from cnncc.runtime.executable import Executable
from cnncc.runtime.program import Buffer, Call, Port, Program
from cnncc.targets.cpu import team
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target
from tests.targets.cpu_records import WIDEST, needs_x86
from tests.tolerances import assert_close

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


def pieces() -> Any:
    """t = x + 1; y = 2 t for the first columns of a row in five pieces, for the last columns as one more."""
    from tvm.script import tirx as T  # noqa: N812

    @T.prim_func(s_tir=True)
    def nest(x: T.Buffer((37, 64)), t: T.Buffer((37, 64)), y: T.Buffer((37, 64))):
        for r in T.parallel(37):
            for j in range(64):
                with T.sblock("before"):
                    t[r, j] = x[r, j] + T.float32(1)
            for p in T.parallel(5):
                for j in range(12):
                    with T.sblock("piece"):
                        y[r, p * 12 + j] = t[r, p * 12 + j] * T.float32(2)
            for p in T.parallel(1):
                for j in range(4):
                    with T.sblock("last"):
                        y[r, 60 + p * 4 + j] = t[r, 60 + p * 4 + j] * T.float32(2)

    return nest


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 40, 300])
def test_pieces_of_iterations_are_shared_out(threads: int) -> None:
    program, x, y = run(pieces, threads)
    np.testing.assert_array_equal(y, (x + 1) * 2)
    assert program.team_kernels == ({"kernel"} if threads > 1 else frozenset())


@needs_x86
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize(
    ("text", "batch"),
    [
        ("conv n1 ic400 h7 w7 oc400 k1x1 s1x1 p0x0", 1),  # 25 blocks of channels, two register tiles of pixels
        ("conv n1 ic400 h7 w7 oc400 k3x3 s1x1 p1x1 g25", 1),  # a task's input is copied, and its last rows are fewer
        ("conv n3 ic24 h9 w11 oc144 k1x1 s1x1 p0x0", 3),
        ("conv nN ic24 h33 w31 oc144 k1x1 s1x1 p0x0", 2),
        ("conv n1 ic32 w1000 oc48 k2 s2 p0", 1),  # one task
        ("conv n1 ic8 h20 w20 oc16 k3x3 s1x1 p1x1", 1),  # one task that copies
    ],
)
def test_convolutions_are_shared_in_pieces(
    text: str, batch: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks that are no multiple of the threads, in programs: exact, and the same however many threads there are."""
    problem, shared = ConvProblem.parse(text), []
    share = team._Sharing.part_of_pieces
    monkeypatch.setattr(team._Sharing, "part_of_pieces", lambda *given: shared.append(given) or share(*given))
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path))
    rng = np.random.default_rng(0)
    w = rng.standard_normal((problem.oc, problem.ic // problem.groups, *problem.kernel)).astype(np.float32)
    b = cnncc.Builder()
    x = b.input("x", (problem.n, problem.ic, *problem.size))
    b.output(b.conv(x, w, groups=problem.groups, strides=problem.strides, pads=problem.pads), "y")
    executable = cnncc.compile(b.finish(), target=replace(WIDEST, threads=threads))
    values = rng.standard_normal((batch, problem.ic, *problem.size)).astype(np.float32)
    attributes = ConvAttrs(problem.strides, problem.pads, problem.dilations, problem.groups)
    assert_close(executable(values), conv.run(attributes, [values, w])[0], "conv")
    if problem.oc == 400:  # others may have one task, or as many as threads
        assert shared
