"""Kinds of fusion: their names, and that each can be switched off."""

from __future__ import annotations

import numpy as np
import pytest

import cnncc
from benchmarks.fusion import CASES
from cnncc.driver import plan_graph
from cnncc.errors import UnsupportedError
from cnncc.passes.fusion import KINDS
from cnncc.targets.target import Target
from tests.tolerances import assert_close

AVX512 = Target("avx512", "cpu", mcpu="znver4", vector_bits=512, vector_registers=32, fma=True, l2=1 << 20, l3=32 << 20,
                gflops_per_core=117.0, gbytes_per_second=20.0)  # fmt: skip
SMALL = [case for case in CASES if case.layers is not None]


def test_every_kind_is_benchmarked():
    assert {case.kind for case in SMALL} == set(KINDS)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: f"{case.kind}: {case.name}")
def test_what_is_switched_off_is_a_kernel_of_its_own(case):
    graph = case.graph(8)  # where what is between kernels exceeds the caches
    fused = plan_graph(graph, AVX512)
    apart = plan_graph(graph, AVX512, without=frozenset([case.kind]))
    assert len(apart.callers) > len(fused.callers)


def test_results_do_not_change():
    b = cnncc.Builder()
    x = b.input("x", (1, 16, 8, 8))
    rng = np.random.default_rng(0)
    w, s = rng.standard_normal((16, 16, 1, 1), dtype=np.float32), rng.standard_normal((1, 16, 1, 1), dtype=np.float32)
    y = b.mul(b.add(b.relu(b.add(b.conv(x, w), s)), x), s)
    b.output(b.add(b.concat(y, b.relu(y), axis=1), b.reduce_mean(b.mul(y, x), axes=(1, 2, 3), keepdims=True)))
    graph, feed = b.finish(), rng.standard_normal((1, 16, 8, 8), dtype=np.float32)
    expected = cnncc.compile(graph, threads=1)(feed)
    for kind in KINDS:
        assert_close(cnncc.compile(graph, threads=1, without=[kind])(feed), expected, "conv")


def test_unknown_kinds_are_an_error():
    graph = SMALL[0].graph(1)
    with pytest.raises(UnsupportedError, match=r"bias, batch-norm, .*, got magic"):
        cnncc.compile(graph, without=["magic"])
