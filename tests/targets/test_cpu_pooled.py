"""Max pools in the kernels of convolutions: the bits of two kernels, for windows, borders and targets of all kinds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import cnncc
from cnncc.errors import GraphError
from cnncc.interpret import interpret
from cnncc.ir.graph import Graph
from cnncc.targets.cpu import first_layer, pooled
from cnncc.targets.machine import AVX512
from cnncc.targets.problem import ConvProblem, PoolBehind
from tests.tolerances import assert_close

FIRST = first_layer.ALGORITHM


def layers(shape: tuple[Any, ...], oc: int, kernel: int, window: dict[str, Any], **conv: Any) -> Graph:
    """clip(relu(conv(x) + bias) + shift), its max pool, and something behind that reads another tensor."""
    rng = np.random.default_rng(oc + kernel)
    b = cnncc.Builder()
    rank = len(shape) - 2
    x = b.input("x", shape)
    taps = (kernel,) * 2 if rank == 2 else (2, kernel, kernel)
    w = rng.standard_normal((oc, int(shape[1]), *taps)).astype(np.float32)
    bias = rng.standard_normal((1, oc) + (1,) * rank).astype(np.float32)
    y = b.relu(b.add(b.conv(x, w, **conv), bias))
    y = b.max_pool(b.clip(b.add(y, np.float32(0.25)), high=9.0), **window)
    b.output(b.mul(y, bias), "y")
    return b.finish()


CASES = {
    "squeezenet": layers(("N", 3, 40, 39), 64, 3, {"kernel": 3, "strides": 2}, strides=2),
    "resnet": layers(("N", 3, 45, 44), 32, 7, {"kernel": 3, "strides": 2, "pads": 1}, strides=2, pads=3),
    "ceil": layers(("N", 3, 42, 40), 32, 3, {"kernel": 3, "strides": 2, "ceil": True}, strides=2),
    "overlap": layers((2, 2, 36, 31), 20, 3, {"kernel": (3, 2), "strides": (1, 2), "pads": (1, 0, 1, 1)}, pads=1),
    "four": layers((1, 3, 66, 70), 16, 5, {"kernel": 4, "strides": 4}, strides=2, pads=2),
    "winograd": layers(("N", 32, 31, 29), 32, 3, {"kernel": 2, "strides": 2}, pads=1),
    "winograd, ragged": layers((1, 20, 20, 24), 24, 3, {"kernel": 2, "strides": 2}, pads=1),
    "planes": layers((1, 16, 4, 17, 18), 16, 3, {"kernel": (1, 2, 2), "strides": (1, 2, 2)}, pads=(0, 1, 1, 0, 1, 1)),
}


@pytest.mark.parametrize("target", ["native", "avx2", "generic"])
@pytest.mark.parametrize("name", CASES)
def test_the_bits_are_those_of_two_kernels(name: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from cnncc.passes import pool_behind

    monkeypatch.setattr(pool_behind, "GAIN", -100.0)  # whatever the model says of so small an image
    graph = CASES[name]
    threads = 2 if graph.symbols else 1
    together = cnncc.compile(graph, target=target, threads=threads)
    apart = cnncc.compile(graph, target=target, threads=threads, without=["pool"])
    assert [row.algorithm for row in together.report().rows if " max" in row.problem], together.report()
    batch = 2 if graph.symbols else graph.inputs[0].type.shape[0]
    x = np.random.default_rng(1).standard_normal((batch, *graph.inputs[0].type.shape[1:])).astype(np.float32)
    if not name.startswith("winograd"):
        x[:, 0, 3, ...] = np.inf
    with np.errstate(invalid="ignore"):
        got, expected = together(x), interpret(graph, {"x": x})["y"]
    assert np.array_equal(got, apart(x), equal_nan=True)
    finite = np.isfinite(expected) & np.isfinite(got)
    assert finite.mean() > 0.5
    assert_close(got[finite], expected[finite], "winograd")


def test_the_rows_of_a_task_fit_its_scratch() -> None:
    problem = ConvProblem.parse("conv n1 ic3 h224 w224 oc64 k7x7 s2x2 p3x3 max3x3/2x2-1x1->56x56")
    for target in (AVX512, replace(AVX512, threads=4), replace(AVX512, l2=256 << 10)):
        tile = FIRST.tiles_for(problem, target)
        assert tile.group[0] == 2 * tile.rows + 1
        assert pooled.kept(tile.group, tile.vectors, tile.block) <= target.l2 // 2
        assert FIRST.scratch(problem, target, tile) <= 1 << 20
        assert FIRST.cost(problem, target, tile).seconds == min(
            FIRST.cost(problem, target, t).seconds for t in FIRST.candidates(problem, target)
        )


@pytest.mark.parametrize(
    ("pool", "reason"),
    [
        ("max2x2/3x3-0x0->37x37", "follow one another"),
        ("max2x2/2x2-2x2->56x56", "follow one another"),
        ("max99x3/1x2-0x0->14x55", "bytes of scratch"),
    ],
)
def test_what_it_is_not_for(pool: str, reason: str) -> None:
    problem = ConvProblem.parse(f"conv n1 ic3 h224 w224 oc64 k7x7 s2x2 p3x3 {pool}")
    assert reason in str(FIRST.pooled(problem, AVX512))


def test_a_pool_behind_is_part_of_the_problem() -> None:
    text = "conv nN ic3 h224 w224 oc64 k3x3 s2x2 p0x0 max3x3/2x2-0x0->55x55"
    problem = ConvProblem.parse(text)
    assert str(problem) == text
    assert problem.behind == PoolBehind((3, 3), (2, 2), (0, 0), (55, 55))
    with pytest.raises(GraphError, match="not a convolution problem"):
        ConvProblem.parse(text.replace("->", "to"))
