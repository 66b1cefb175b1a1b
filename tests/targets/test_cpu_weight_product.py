"""Weight gradients of dense layers against the definition."""

from __future__ import annotations

import numpy as np
import pytest

import cnncc
from cnncc.interpret import interpret
from cnncc.targets.target import Target
from tests.targets.cpu_records import AVX2, AVX512, SSE, WIDEST, needs_x86, runs
from tests.tolerances import assert_close


def check(m: int, c: int, target: Target, n: int | str = "N") -> None:
    b = cnncc.Builder("dense")
    dy, x, v = b.input("dy", (n, m)), b.input("x", (n, c)), b.input("v", (m, c))
    b.output(b.add(b.mul(v, 0.9), b.matmul(dy, x, transpose_x=True)), "next")
    graph = b.finish()
    executable = cnncc.compile(graph, target)
    assert "weight_product" in {row.algorithm for row in executable.report().rows}
    random = np.random.default_rng(0)
    for count in (7, 1) if n == "N" else (n,):
        shapes = {"dy": (count, m), "x": (count, c), "v": (m, c)}
        feeds = {k: random.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
        assert_close(executable.run(feeds)["next"], interpret(graph, feeds)["next"], "gradient", "f32", f"{m} x {c}")


@needs_x86
@pytest.mark.parametrize(("m", "c"), [(10, 84), (120, 400), (1, 16), (33, 7), (64, 3), (300, 257), (5, 64)])
def test_against_the_definition(m: int, c: int) -> None:
    check(m, c, WIDEST)


@needs_x86
def test_a_known_batch() -> None:
    check(20, 50, WIDEST, 6)


@pytest.mark.parametrize("target", [AVX512, AVX2, SSE], ids=lambda t: t.name)
def test_other_targets(target: Target) -> None:
    check(10, 84, runs(target))
