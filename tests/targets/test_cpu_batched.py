"""Products of operands that are both computed: attention, and everything else with batch axes on both sides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import cnncc
from cnncc.interpret import interpret
from cnncc.ir.dims import symbol
from cnncc.ir.graph import Graph
from cnncc.targets.cpu import batched
from cnncc.targets.machine import AVX2, AVX512
from cnncc.targets.problem import MatmulProblem
from tests.tolerances import assert_close


def scaled_product(lead: tuple[Any, ...], m: int, k: int, n: int, transposed: bool) -> Graph:
    """scale x w + mask, the mask for all products."""
    b = cnncc.Builder()
    x = b.input("x", (*lead, m, k))
    w = b.input("w", (*lead, n, k) if transposed else (*lead, k, n))
    mask = np.random.default_rng(0).standard_normal((1,) * len(lead) + (m, n)).astype(np.float32)
    b.output(b.add(b.mul(b.matmul(x, w, transpose_w=transposed), 0.5), mask), "y")
    return b.finish()


def feeds(graph: Graph, batch: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = {v.name: [d if isinstance(d, int) else batch for d in v.type.shape] for v in graph.inputs}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("lead", "m", "k", "n", "transposed"),
    [
        ((1, 3), 197, 64, 197, False),  # attention: a last panel of few columns, a last tile of few rows
        ((1, 3), 197, 64, 197, True),
        ((1, 3), 50, 197, 64, False),
        ((1,), 96, 24, 96, True),  # one product, still with a batch axis
        ((2, 2, 2), 17, 30, 9, False),
        ((4,), 1, 70, 33, False),
    ],
)
def test_equals_the_definition(lead, m, k, n, transposed, threads):
    graph = scaled_product(lead, m, k, n, transposed)
    executable = cnncc.compile(graph, threads=threads)
    (row,) = executable.report().rows
    assert row.algorithm == "batched"
    given = feeds(graph)
    assert_close(executable.run(given)["y"], interpret(graph, given)["y"], "conv")


@pytest.mark.parametrize("target", [AVX2, AVX512], ids=lambda t: t.name)
def test_symbolic_batch(target):
    graph = scaled_product((symbol("N"), 2), 13, 8, 21, False)
    executable = cnncc.compile(graph, target=replace(target, threads=2))
    assert [r.algorithm for r in executable.report().rows] == ["batched"]
    for batch in (1, 3):
        given = feeds(graph, batch)
        assert_close(executable.run(given)["y"], interpret(graph, given)["y"], "conv")


def test_tiles():
    attention = MatmulProblem.parse("matmul b3 m197 k64 n197 kn stacked")
    assert str(attention) == "matmul b3 m197 k64 n197 kn stacked"
    tile = batched.tiles_for(attention, AVX512)
    assert tile.rows * tile.panel // tile.lanes >= 8  # independent sums enough to keep the multiply-adds busy
    assert batched.scratch(attention, AVX512, tile) <= AVX512.l1
    assert next(batched.candidates(attention, AVX512)) == tile
    wide = replace(AVX512, threads=8)
    assert batched.tiles_for(attention, wide).parts > 1  # fewer products than threads
    peak = 2 * attention.macs / (AVX512.gflops_per_core * 1e9)
    assert peak < batched.cost(attention, AVX512, tile).seconds < 1.4 * peak


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("matmul b3 m5 k6 n7 kn stacked f64", "for f32"),
        ("matmul m5 k6 n7 kn", "batch axes"),
        ("matmul b3 mN k6 n7 kn stacked", "rows must be known"),
        ("matmul b3 m5 k100000 n7 kn stacked", "scratch"),
        ("matmul b3 m5 k0 n7 kn stacked", "at least one"),
    ],
)
def test_where_it_does_not_apply(text, reason):
    assert reason in str(batched.applies(MatmulProblem.parse(text), AVX512))
