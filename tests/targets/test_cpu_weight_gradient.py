"""Weight gradients against the definition: every kind, ragged channels, borders, strides, one to three axes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import cnncc
from cnncc.interpret import interpret
from cnncc.targets.cpu.weight_gradient import ALGORITHMS
from cnncc.targets.problem import ConvDwProblem
from cnncc.targets.target import Target
from tests.targets.cpu_records import AVX2, AVX512, SSE, WIDEST, needs_x86, runs
from tests.tolerances import assert_close

# channels in, sizes, channels out, kernel, window, algorithm
Case = tuple[int, tuple[int, ...], int, tuple[int, ...], dict[str, Any], str]
BLOCKED, FIRST, DEPTHWISE = "weight_gradient", "first_weight_gradient", "depthwise_weight_gradient"
CASES: dict[str, Case] = {
    "same": (32, (9, 12), 48, (3, 3), {"pads": (1, 1, 1, 1)}, BLOCKED),
    "pointwise": (64, (7, 7), 32, (1, 1), {}, BLOCKED),
    "strided": (32, (9, 8), 16, (3, 2), {"strides": (2, 3), "pads": (1, 0, 1, 1)}, BLOCKED),
    "ragged": (24, (5, 5), 40, (3, 3), {"pads": (2, 1, 0, 1)}, BLOCKED),
    "dilated": (32, (11, 11), 16, (3, 3), {"dilations": (2, 3), "pads": (2, 3, 2, 3)}, BLOCKED),
    "small": (32, (2, 2), 32, (3, 3), {"pads": (1, 1, 1, 1)}, BLOCKED),
    "grouped": (64, (6, 6), 32, (3, 3), {"pads": (1, 1, 1, 1), "groups": 2}, BLOCKED),
    "line": (32, (40,), 16, (5,), {"strides": (2,), "pads": (2, 1)}, BLOCKED),
    "volume": (32, (4, 6, 5), 16, (3, 2, 3), {"pads": (1, 0, 1, 1, 1, 1), "strides": (2, 1, 1)}, BLOCKED),
    "image": (3, (16, 18), 32, (7, 7), {"strides": (2, 2), "pads": (3, 3, 3, 3)}, FIRST),
    "few": (6, (14, 14), 20, (5, 5), {}, FIRST),
    "clip": (3, (5, 9, 8), 16, (3, 3, 3), {"pads": (1,) * 6}, FIRST),
    "wave": (1, (200,), 32, (40,), {"strides": (4,)}, FIRST),
    "depthwise": (32, (9, 9), 32, (3, 3), {"pads": (1, 1, 1, 1), "groups": 32}, DEPTHWISE),
    "depthwise-strided": (24, (9, 10), 24, (5, 5), {"pads": (2, 2, 2, 2), "strides": (2, 2), "groups": 24}, DEPTHWISE),
    "depthwise-large": (16, (12, 12), 16, (7, 7), {"pads": (3, 3, 3, 3), "groups": 16}, DEPTHWISE),
}


def step(case: str) -> tuple[cnncc.Graph, dict[str, np.ndarray]]:
    """A weight gradient and what momentum does with it, operands computed so that their layouts are free."""
    ic, size, oc, kernel, window, _ = CASES[case]
    b = cnncc.Builder("step")
    x = b.input("x", ("N", ic, *size))
    w = b.input("w", (oc, ic // window.get("groups", 1), *kernel))
    y = b.conv(x, w, **window)
    dy = b.input("dy", y.type.shape)
    dw = b.conv_dw(x if ic < 16 else b.relu(x), b.relu(dy), kernel=kernel, **window)
    b.output(b.add(b.mul(w, 0.9), dw), "next")
    random = np.random.default_rng(2)
    shapes = {"x": (5, ic, *size), "w": w.type.shape, "dy": (5, *y.type.shape[1:])}
    return b.finish(), {n: random.standard_normal([int(d) for d in s]).astype(np.float32) for n, s in shapes.items()}


def check(case: str, target: Target, batches: tuple[int, ...] = (5, 1)) -> None:
    graph, feeds = step(case)
    executable = cnncc.compile(graph, target)
    assert CASES[case][-1] in {row.algorithm for row in executable.report().rows}
    for count in batches:
        part = {n: a if n == "w" else np.ascontiguousarray(a[:count]) for n, a in feeds.items()}
        assert_close(executable.run(part)["next"], interpret(graph, part)["next"], "gradient", "f32", case)


@needs_x86
@pytest.mark.parametrize("case", CASES)
def test_against_the_definition(case: str) -> None:
    check(case, WIDEST)


@pytest.mark.parametrize("target", [AVX512, AVX2, SSE], ids=lambda t: t.name)
@pytest.mark.parametrize("case", ["ragged", "few", "depthwise"])
def test_other_targets(target: Target, case: str) -> None:
    check(case, runs(target), (5,))


@needs_x86
def test_the_same_bits_on_any_number_of_threads() -> None:
    graph, feeds = step("ragged")
    results = [cnncc.compile(graph, replace(WIDEST, threads=n)).run(feeds)["next"] for n in (1, 2)]
    np.testing.assert_array_equal(*results)


def test_reasons() -> None:
    problem = ConvDwProblem("N", 32, 32, (8, 8), (3, 3), (1, 1), (1,) * 4, (1, 1), 4)
    assert str(problem) == "conv_dw nN ic32 h8 w8 oc32 k3x3 s1x1 p1x1 g4"
    reasons = {a.name: str(a.applies(problem, AVX512)) for a in ALGORITHMS}
    assert "one filter for each channel" in reasons[DEPTHWISE]
    assert "in one group" in reasons[FIRST]
    assert "whole blocks" in reasons[BLOCKED]
