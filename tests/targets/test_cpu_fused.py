"""What stands before a 1x1 convolution, computed inside of its kernel: against the same kernels apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnncc
from cnncc.driver import plan_graph
from cnncc.kernels.build import build_kernel
from cnncc.passes import producers
from cnncc.targets.cpu import fused
from cnncc.targets.lower import lower_kernel
from cnncc.targets.machine import find_target
from cnncc.targets.problem import FUSED, ConvProblem, FusedProblem
from tests.targets.cpu_records import AVX2, AVX512, SSE
from tests.tolerances import assert_close

KINDS = ("depthwise", "gate", "pre-activation")
WIDTH = "conv n1 ic144 h56 w56 oc24 k1x1 s1x1 p0x0"
ROWS = FusedProblem(ConvProblem.parse(WIDTH), ConvProblem.parse("conv n1 ic144 h56 w56 oc144 k3x3 s1x1 p1x1 g144"))


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Fuse wherever it is possible, whatever the cost model says."""
    monkeypatch.setattr(producers, "GAIN", 0.0)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def conv(b: cnncc.Builder, x: Any, oc: int, k: int = 1, groups: int = 1, **attributes: Any) -> Any:
    ic = x.type.shape[1] // groups
    y = b.conv(x, numbers(oc, ic, k, k) / np.float32(ic * k), groups=groups, **attributes)
    return b.add(y, numbers(1, oc, 1, 1, seed=1))


def network(
    between: Callable[[cnncc.Builder, Any], Any], ic: int = 32, oc: int = 48, batch: int | str = 1, size: Any = (13, 14)
) -> cnncc.Graph:
    """A 1x1 convolution (so that channels come in blocks), what is to be fused, and a 1x1 convolution."""
    b = cnncc.Builder()
    x = b.input("x", (batch, 16, *size))
    b.output(b.relu(conv(b, between(b, b.relu(conv(b, x, ic))), oc)), "y")
    return b.finish()


def depthwise(k: int = 3, act: str = "relu", **attributes: Any) -> Callable[[cnncc.Builder, Any], Any]:
    def made(b: cnncc.Builder, x: Any) -> Any:
        c = x.type.shape[1]
        y = conv(b, x, c, k, c, **{"pads": (k // 2,) * 4, **attributes})
        return b.mul(y, b.sigmoid(y)) if act == "silu" else b.op(act, y)

    return made


def gate(b: cnncc.Builder, x: Any) -> Any:
    c = x.type.shape[1]
    return b.mul(x, b.sigmoid(conv(b, b.reduce_mean(x, axes=(2, 3), keepdims=True), c)))


def pre_activation(b: cnncc.Builder, x: Any) -> Any:
    """relu(x s + t) of something that is a result too, and so cannot be fused with what makes x."""
    c = x.type.shape[1]
    b.output(x, "x_too")
    return b.relu(b.add(b.mul(x, numbers(1, c, 1, 1, seed=2)), numbers(1, c, 1, 1, seed=3)))


def check(graph: cnncc.Graph, batch: int = 1, count: int = 1, **options: Any) -> Any:
    executable = cnncc.compile(graph, **options)
    rows = [row for row in executable.report().rows if row.algorithm == FUSED]
    assert len(rows) == count
    shape = [d if isinstance(d, int) else batch for d in graph.inputs[0].type.shape]
    x = numbers(*shape, seed=4)
    found, expected = executable.run({"x": x}), cnncc.compile(graph, without=KINDS, **options).run({"x": x})
    assert_close(found["y"], expected["y"], "conv")
    return rows


CASES = {
    "3x3": network(depthwise()),
    "rows of a whole tile": network(depthwise(), size=(12, 16)),
    "stride 2": network(depthwise(strides=(2, 2))),
    "5x5": network(depthwise(5)),
    "5x5, stride 2": network(depthwise(5, strides=(2, 2)), size=(15, 11)),
    "dilation": network(depthwise(pads=(2, 2, 2, 2), dilations=(2, 2))),
    "no padding": network(depthwise(pads=(0, 0, 0, 0))),
    "uneven padding": network(depthwise(pads=(0, 1, 2, 0))),
    "windows in the padding": network(depthwise(pads=(3, 3, 3, 3)), size=(4, 5)),
    "channels that are no whole blocks": network(depthwise(), ic=40, oc=20),
    "a value that is read twice": network(depthwise(act="silu")),
    "batch": network(depthwise(), batch=3),
    "gate": network(gate),
    "gate of a batch": network(gate, batch=2),
    "pre-activation": network(pre_activation),
}


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_kernels_apart(name):
    graph = CASES[name]
    (row,) = check(graph, threads=1)
    assert " behind " in row.problem
    assert row.gflop > 0


@pytest.mark.parametrize("name", ["3x3", "5x5, stride 2", "gate", "pre-activation"])
@pytest.mark.parametrize("target", ["avx2", "generic"])
def test_other_targets(name, target):
    check(CASES[name], target=target, threads=1)


@pytest.mark.parametrize("between", [depthwise(), gate, pre_activation], ids=KINDS)
def test_symbolic_batch_and_threads(between):
    graph = network(between, batch="N")
    for threads in (1, 2):
        check(graph, batch=3, threads=threads)


def test_rows_without_a_middle_shared_by_threads():
    """5x5 windows over 4 rows, of which each thread makes 2: no row is clear of the padding on both sides."""
    graph = network(depthwise(5), ic=480, oc=80, size=(4, 4))
    (row,) = check(graph, threads=2)
    assert "group=(8,)" in row.tile
    target = find_target("native", 2)
    planned = plan_graph(graph, target)
    (node,) = {n.attrs: n for n in planned.symbols if n.attrs.algorithm == FUSED}.values()
    symbol = planned.symbols[node]
    built = {build_kernel(lower_kernel(node, target).func, target, symbol, True) for _ in range(8)}
    assert len(built) == 1, "the code depends on chance"


def test_same_results_at_any_run():
    graph = network(depthwise(), size=(28, 28))
    executable = cnncc.compile(graph, threads=2)
    x = numbers(1, 16, 28, 28)
    first = executable(x)
    assert all(np.array_equal(executable(x), first) for _ in range(5))


def test_stays_apart_where_others_read_it():
    b = cnncc.Builder()
    x = b.input("x", (1, 16, 14, 14))
    y = depthwise()(b, b.relu(conv(b, x, 32)))
    b.output(conv(b, y, 48))
    b.output(conv(b, y, 16))
    executable = cnncc.compile(b.finish(), threads=1)
    assert all(row.algorithm != FUSED for row in executable.report().rows)


@pytest.mark.parametrize("target", [AVX512, AVX2, SSE], ids=lambda t: t.name)
def test_tiles(target):
    tile = fused.tiles_for(ROWS, target)
    assert tile.copy
    assert tile.group[0] % 56 == 0  # whole rows
    assert tile.chunk * tile.block >= 24  # all output channels
    assert fused.scratch(ROWS, target, tile) <= 384 << 10
    assert 1 <= tile.columns <= 8


def test_what_it_does_not_take():
    target = find_target("avx512", 1)
    grouped = ConvProblem.parse("conv n1 ic32 h14 w14 oc32 k1x1 s1x1 p0x0 g2")
    assert "one group" in str(fused.applies(FusedProblem(grouped), target))
    large = ConvProblem.parse("conv n1 ic32 h14 w14 oc32 k31x31 s1x1 p15x15 g32")
    pointwise = ConvProblem.parse("conv n1 ic32 h14 w14 oc32 k1x1 s1x1 p0x0")
    assert "one expression" in str(fused.applies(FusedProblem(pointwise, large), target))
    deep = ConvProblem.parse("conv n1 ic16384 h7 w7 oc32 k1x1 s1x1 p0x0")
    assert "no group of pixels" in str(fused.applies(FusedProblem(deep, replaced(deep)), target))


def replaced(conv: ConvProblem) -> ConvProblem:
    return ConvProblem.parse(f"conv n1 ic{conv.ic} h7 w7 oc{conv.ic} k3x3 s1x1 p1x1 g{conv.ic}")
