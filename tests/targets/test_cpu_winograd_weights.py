"""Winograd with weights that are computed: transformed at run time, turned round for data gradients too."""

from __future__ import annotations

import numpy as np
import pytest

import cnncc
from cnncc.interpret import interpret
from cnncc.targets.target import Target
from tests.targets.cpu_records import AVX2, AVX512, SSE, WIDEST, needs_x86, runs
from tests.tolerances import assert_close


def check(shape: tuple[int, ...], size: int, turned: bool, target: Target) -> None:
    b = cnncc.Builder("weights")
    out, inner, *kernel = shape
    pads = tuple(k // 2 for k in kernel) * 2
    x, w = b.input("x", ("N", out if turned else inner, *(size,) * len(kernel))), b.input("w", shape)
    y = b.relu(x)
    b.output(b.conv_transpose(y, w, pads=pads) if turned else b.conv(y, w, pads=pads))
    graph = b.finish()
    executable = cnncc.compile(graph, target)
    algorithms = [row.algorithm for row in executable.report().rows]
    assert "winograd_weights" in algorithms
    assert any(name.startswith("winograd_f") for name in algorithms)
    random = np.random.default_rng(0)
    feeds = {"x": random.standard_normal((3, *map(int, x.type.shape[1:]))), "w": random.standard_normal(shape)}
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    (found,), (expected,) = executable.run(feeds).values(), interpret(graph, feeds).values()
    assert_close(found, expected, "winograd")


@needs_x86
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("shape", "size"), [((64, 64, 3, 3), 32), ((40, 56, 3, 3), 28), ((48, 32, 3, 3, 3), 12)])
def test_against_the_definition(shape: tuple[int, ...], size: int, turned: bool) -> None:
    check(shape, size, turned, WIDEST)


@pytest.mark.parametrize("target", [AVX512, AVX2, SSE], ids=lambda t: t.name)
def test_other_targets(target: Target) -> None:
    check((64, 64, 3, 3), 32, True, runs(target))
