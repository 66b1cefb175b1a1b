"""Concats written in place above one image, on real kernels: results must be those of a concat that is run."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import cnncc
from cnncc.errors import GraphError
from cnncc.interpret import interpret
from cnncc.ir.graph import Graph
from cnncc.runtime.check import check_bounds
from cnncc.runtime.program import Buffer, Program
from tests.tolerances import assert_close


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32) / 9


def members(batch: int | str) -> Graph:
    """Members by every kind of kernel; readers of members, of a concat, and of a longer one that has it inside."""
    b = cnncc.Builder()
    x = b.input("x", (batch, 3, 10, 9))
    first = b.relu(b.conv(x, weights(16, 3, 3, 3), pads=1))  # few channels
    taps = b.conv(first, weights(32, 16, 3, 3), pads=1)
    pixels = b.add(b.conv(first, weights(16, 16, 1, 1)), weights(1, 16, 1, 1))
    large = b.conv(first, weights(16, 16, 5, 5), pads=2)
    lanes = b.conv(first, weights(16, 1, 3, 3), pads=1, groups=16)
    largest = b.max_pool(first, kernel=3, pads=1)
    mean = b.average_pool(b.tanh(first), kernel=3, pads=1)
    twice = b.resize(b.average_pool(first, kernel=(2, 3), strides=(2, 3)), size=(10, 9))
    inner = b.concat(first, taps, pixels, large, axis=1)
    outer = b.concat(first, taps, pixels, large, lanes, largest, mean, twice, b.sigmoid(first), axis=1)
    b.output(b.conv(inner, weights(16, 80, 1, 1)), "inner")
    b.output(b.conv(outer, weights(16, 160, 3, 3)), "outer")
    b.output(b.reduce_mean(b.mul(outer, weights(1, 160, 1, 1)), axes=(2, 3)), "mean")
    b.output(b.max_pool(taps, kernel=2, strides=2), "taps")
    return b.finish()


@pytest.mark.parametrize("target", ["native", "avx2", "generic"])
@pytest.mark.parametrize(("batch", "threads"), [("N", 1), (3, 2)])
def test_every_kind_of_member(target: str, batch: int | str, threads: int) -> None:
    graph = members(batch)
    exe = cnncc.compile(graph, target=target, threads=threads)
    assert not [r for r in exe.report().rows if "concat" in r.ops]
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 3, 10, 9)).astype(np.float32)}
    got = exe.run(feeds)
    for name, expected in interpret(graph, feeds).items():
        assert_close(got[name], expected, "winograd", label=name)
    if batch == "N":
        one = {"x": feeds["x"][:1]}
        for name, array in exe.run(one).items():
            assert_close(array, got[name][:1], "winograd", label=name)


def test_the_bits_are_those_of_a_concat_that_is_run() -> None:
    graph = members("N")
    x = np.random.default_rng(1).standard_normal((2, 3, 10, 9)).astype(np.float32)
    inside = cnncc.compile(graph, threads=1)
    run = cnncc.compile(graph, threads=1, without=["concat"])
    assert sum(r.ops == "concat" for r in run.report().rows) == 2
    for name, array in run.run({"x": x}).items():
        assert np.array_equal(inside.run({"x": x})[name], array), name


def test_gradients_are_slices() -> None:
    """Forward and backward: the gradient of a concat is cut out of what lies in one piece, its members apart."""
    b = cnncc.Builder()
    x, w = b.input("x", ("N", 16, 6, 6)), b.input("w", (16, 16, 3, 3))
    y = b.concat(b.relu(b.conv(x, w, pads=1)), b.tanh(x), axis=1)
    b.output(b.reduce_sum(b.mul(b.conv(y, weights(16, 32, 3, 3)), 0.5)), "loss")
    graph = cnncc.value_and_grad(b.finish(), of="loss")
    rng = np.random.default_rng(2)
    shapes = {"x": (3, 16, 6, 6), "w": (16, 16, 3, 3)}
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    exe = cnncc.compile(graph, threads=1)
    assert not [r for r in exe.report().rows if r.ops == "concat"]
    got = exe.run(feeds)
    for name, expected in interpret(graph, feeds).items():
        assert_close(got[name], expected, "network", label=name)


def test_the_report_says_where_images_lie_apart() -> None:
    rows = cnncc.compile(members("N"), threads=1).report().rows
    assert sum("/" in r.layouts for r in rows) >= 9


def test_a_saved_program_keeps_the_distances() -> None:
    program = cnncc.compile(members("N"), threads=1).program
    again = Program.from_json(json.loads(json.dumps(program.to_json())), program.kernels, program.constants).check()
    assert [b.pitch for b in again.buffers] == [b.pitch for b in program.buffers]
    assert any(b.pitch for b in again.buffers)


def test_a_distance_below_an_image_is_refused() -> None:
    program = cnncc.compile(members("N"), threads=1).program
    k = next(k for k, b in enumerate(program.buffers) if b.pitch)
    wrong: list[Buffer] = list(program.buffers)
    wrong[k] = replace(wrong[k], pitch=8)
    with pytest.raises(GraphError, match="a pitch is for views"):
        replace(program, buffers=tuple(wrong)).check()
    wrong[k] = replace(wrong[k], pitch=1 << 30)
    with pytest.raises(GraphError, match="must lie within"):
        check_bounds(replace(program, buffers=tuple(wrong)), {"N": 2})
