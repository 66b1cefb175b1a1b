"""Data gradients of pools against the definition: overlapping windows, borders, ties, NaN, three axes, any batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnncc
from cnncc.interpret import interpret
from cnncc.targets.target import Target
from tests.targets.cpu_records import AVX2, AVX512, SSE, WIDEST, needs_x86, runs
from tests.tolerances import assert_close

CASES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "halves": ((32, 8, 10), {"kernel": (2, 2), "strides": (2, 2)}),
    "overlap": ((32, 9, 12), {"kernel": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    "ceil": ((16, 8, 7), {"kernel": (3, 3), "strides": (2, 2), "ceil": True}),
    "gaps": ((16, 11, 11), {"kernel": (2, 2), "strides": (3, 4)}),
    "dilated": ((16, 9, 9), {"kernel": (2, 3), "strides": (1, 2), "dilations": (3, 2), "pads": (1, 2, 0, 1)}),
    "ragged": ((20, 6, 6), {"kernel": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1)}),
    "line": ((16, 13), {"kernel": (3,), "strides": (2,), "pads": (1, 1)}),
    "volume": ((16, 5, 6, 7), {"kernel": (2, 3, 2), "strides": (2, 2, 2), "pads": (0, 1, 0, 0, 1, 1)}),
}


def gradient(op: str, case: str) -> tuple[cnncc.Graph, dict[str, np.ndarray]]:
    """relu-prepared operands, the gradient, and a product behind it; values with many ties."""
    shape, window = CASES[case]
    b = cnncc.Builder("pool")
    x, scale = b.input("x", ("N", *shape)), b.input("scale", ("N", *shape))
    if op == "average":
        y = b.average_pool(b.relu(x), **window)
        dy = b.input("dy", y.type.shape)
        dx = b.average_pool_dx(b.relu(dy), size=shape[1:], **window)
    else:
        y = b.max_pool(b.relu(x), **window)
        dy = b.input("dy", y.type.shape)
        dx = b.max_pool_dx(b.relu(x), b.relu(dy), **window)
    b.output(b.mul(dx, scale), "dx")
    graph = b.finish()
    random = np.random.default_rng(1)
    out = tuple(int(d) for d in y.type.shape[1:])
    return graph, {
        "x": np.round(random.standard_normal((3, *shape)) * 2).astype(np.float32),
        "scale": random.standard_normal((3, *shape)).astype(np.float32),
        "dy": random.standard_normal((3, *out)).astype(np.float32),
    }


def check(op: str, case: str, target: Target) -> None:
    graph, feeds = gradient(op, case)
    executable = cnncc.compile(graph, target)
    assert "pool_gradient" in {row.algorithm for row in executable.report().rows}
    feeds = {v.name: feeds[v.name] for v in graph.inputs}
    for count in (3, 1):
        part = {name: np.ascontiguousarray(array[:count]) for name, array in feeds.items()}
        assert_close(executable.run(part)["dx"], interpret(graph, part)["dx"], "reduction", "f32", case)


@needs_x86
@pytest.mark.parametrize("op", ["max", "average"])
@pytest.mark.parametrize("case", CASES)
def test_against_the_definition(op: str, case: str) -> None:
    check(op, case, WIDEST)


@pytest.mark.parametrize("target", [AVX512, AVX2, SSE], ids=lambda t: t.name)
def test_other_targets(target: Target) -> None:
    check("max", "overlap", runs(target))


@needs_x86
def test_the_first_nan_takes_the_gradient() -> None:
    graph, feeds = gradient("max", "halves")
    feeds["x"][:, :, 1::2, ::2] = np.nan
    feeds["x"][:, :, 0, 1::2] = np.inf
    feeds["scale"][...] = 1
    (found,) = cnncc.compile(graph, WIDEST).run(feeds).values()
    np.testing.assert_array_equal(found, interpret(graph, feeds)["dx"])


def test_reasons() -> None:
    from cnncc.targets.cpu.pool_gradient import ALGORITHM
    from cnncc.targets.problem import PoolDxProblem

    window = ((3, 3, 3), (2, 2, 2), (0,) * 6, (1, 1, 1))
    problem = PoolDxProblem("max", 1, 16, (9, 9, 9), (4, 4, 4), *window)
    assert str(problem).startswith("max_pool_dx n1 c16 9x9x9->4x4x4 k3x3x3")
    assert "share planes" in str(ALGORITHM.applies(problem, AVX512))
