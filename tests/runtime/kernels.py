"""Tiny kernels and programs made by hand, for tests of the runtime."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from cnncc.kernels.build import KernelSource, build_all
from cnncc.kernels.cache import Cache
from cnncc.runtime.executable import Executable
from cnncc.runtime.program import Affine, Buffer, Call, Port, Program
from cnncc.targets.target import Target

N = Affine.symbol("N")
TARGET = Target("test", "cpu", threads=2)


def elementwise(width: int, formula: Any, inputs: int, parallel: bool, shared: tuple[int, ...] = ()) -> Any:
    """out[n, j] = formula(inputs[n, j]...), over a symbolic n; inputs whose position is in `shared` are rows [j]."""
    import tvm
    from tvm import te, tirx

    rows, columns = tirx.Var("n", "int64"), tirx.const(width, "int64")
    shapes = [(columns,) if i in shared else (rows, columns) for i in range(inputs)]
    given = [te.placeholder(s, "float32", name=f"x{i}") for i, s in enumerate(shapes)]

    def value(n: Any, j: Any) -> Any:
        return formula(*(x[j] if i in shared else x[n, j] for i, x in enumerate(given)))

    out = te.compute((rows, columns), value, name="out")
    # The result may be the same memory as an input.
    func = te.create_prim_func([*given, out]).with_attr("tirx.noalias", False)
    schedule = tvm.s_tir.Schedule(tvm.IRModule({"main": func}))
    n, j = schedule.get_loops(schedule.get_sblock("out"))
    if parallel:
        schedule.parallel(n)
    schedule.vectorize(j)
    return schedule.mod["main"]


SOURCES = {
    "double_plus": lambda parallel: elementwise(64, lambda x, w: x * 2 + w, 2, parallel, shared=(1,)),
    "add": lambda parallel: elementwise(64, lambda x, y: x + y, 2, parallel),
    "step": lambda parallel: elementwise(64, lambda p, g: p - g, 2, parallel),
}


@functools.cache
def objects(parallel: bool) -> dict[str, bytes]:
    """All kernels of `SOURCES`, built."""
    items = {
        name: KernelSource(f"{name} parallel={parallel}", functools.partial(make, parallel))
        for name, make in SOURCES.items()
    }
    return build_all(items, TARGET, jobs=2, cache=Cache(None))


def kernels(threads: int, *names: str) -> dict[str, bytes]:
    """The objects of these kernels, and the run loop."""
    built = objects(threads > 1)
    return {n: built[n] for n in (*names, "cnncc_run_calls")}


WEIGHTS = np.arange(64, dtype=np.float32)


def residual(threads: int = 1) -> Program:
    """t = 2x + w, s = t + x, u = 2s + w in place of s, y = u + t, over a symbolic batch."""
    buffers = (
        Buffer("x", "float32", (N, 64), "input"),
        Buffer("w", "float32", (64,), "constant"),
        Buffer("t", "float32", (N, 64), "arena", offset=64),
        Buffer("s", "float32", (N, 64), "arena", offset=Affine((("N", 256),), 64)),
        Buffer("y", "float32", (N, 64), "output"),
        Buffer("u", "float32", (N, 64), "arena", offset=Affine((("N", 256),), 64)),
    )
    calls = (
        Call("double_plus", (0, 1, 2), "first"),
        Call("add", (2, 0, 3), "second"),
        Call("double_plus", (3, 1, 5), "third"),
        Call("add", (5, 2, 4), "fourth"),
    )
    return Program(
        buffers,
        calls,
        inputs=(Port("x", "float32", (N, 64), 0),),
        outputs=(Port("y", "float32", (N, 64), 4),),
        kernels=kernels(threads, "double_plus", "add"),
        constants={"w": WEIGHTS},
        symbols=("N",),
        arena=Affine((("N", 512),), 64),
        threads=threads,
    )


def expected(x: np.ndarray) -> np.ndarray:
    """What `residual` computes."""
    t = x * 2 + WEIGHTS
    return (t + x) * 2 + WEIGHTS + t


def counter(threads: int = 1) -> Program:
    """p = p - g in place, N fixed to 1; the output is the new p, reshaped."""
    buffers = (
        Buffer("g", "float32", (1, 64), "input"),
        Buffer("p", "float32", (1, 64), "state"),
    )
    return Program(
        buffers,
        (Call("step", (1, 0, 1), "update"),),
        inputs=(Port("g", "float32", (1, 64), 0),),
        outputs=(Port("p_new", "float32", (64,), 1),),
        kernels=kernels(threads, "step"),
        constants={"p": np.ones((1, 64), np.float32)},
        threads=threads,
    )


def run_one(executable: Executable, rows: int) -> None:
    """Runs a `residual` executable on some rows and compares."""
    x = np.random.default_rng(rows).standard_normal((rows, 64)).astype(np.float32)
    np.testing.assert_allclose(executable.run({"x": x})["y"], expected(x), rtol=1e-6, atol=1e-5)
