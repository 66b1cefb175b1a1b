"""Offsets of fused and split loops: linear where the operand lies side by side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import cnncc
from cnncc.interpret import interpret
from cnncc.ir.graph import Graph
from cnncc.passes import INFERENCE, Context, run_passes
from cnncc.targets.lower import lower_kernel
from cnncc.targets.machine import AVX512
from tests.tolerances import assert_close

MAKERS = {
    "slice": lambda b, x: b.slice(x, starts=(5,), ends=(25,), axes=(1,)),
    "bias": lambda b, x: b.add(x, np.arange(30, dtype=np.float32).reshape(1, 30, 1, 1)),
    "transpose": lambda b, x: b.transpose(b.reshape(x, shape=(*x.type.shape[:1], 2, 15, 28, 28)), perm=(0, 2, 1, 3, 4)),
    "concat": lambda b, x: b.concat(x, b.exp(x), axis=1),
}


def graph(name: str) -> Graph:
    b = cnncc.Builder()
    b.output(MAKERS[name](b, b.input("x", ("N", 30, 28, 28))), "y")
    return b.finish()


def flat(func):
    """The function as loops over flat buffers, as it is when offsets are made straight."""
    import tvm
    from tvm.s_tir import transform as s
    from tvm.tirx import transform as t

    steps = [s.ConvertSSA(), s.LowerInitBlock(), s.PlanAndUpdateBufferAllocationLocation(), s.ConvertBlocksToOpaque()]
    steps += [s.CompactBufferAllocation(), s.StmtSimplify(), s.LowerOpaqueBlock(), t.FlattenBuffer()]
    return tvm.transform.Sequential(steps)(tvm.IRModule({"main": func}))["main"]


@pytest.mark.parametrize("threads", [1, 2])
def test_no_quotients_are_left(threads):
    from cnncc.targets.cpu.straighten import straighten_offsets

    target = replace(AVX512, threads=threads)
    laid = run_passes(graph("slice"), INFERENCE, Context(target))
    (kernel,) = [n for n in laid.nodes if n.body is not None]
    func = flat(lower_kernel(kernel, target).func)
    assert "//" in str(func.body)  # a plane is a whole number of vectors of 16, a row is not
    assert "//" not in str(straighten_offsets(func).body)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", MAKERS)
def test_results(name, threads):
    made = graph(name)
    executable = cnncc.compile(made, threads=threads)
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 30, 28, 28)).astype(np.float32)
        assert_close(executable(x), interpret(made, {"x": x})["y"], "elementwise")
