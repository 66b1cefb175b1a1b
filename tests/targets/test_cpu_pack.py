"""Weights turned round and packed at run time: whole and ragged channels, one to three axes."""

from __future__ import annotations

import numpy as np
import pytest

import cnncc
from cnncc.interpret import interpret
from cnncc.targets.cpu.pack import packs_weights
from cnncc.targets.target import Target
from tests.targets.cpu_records import AVX2, AVX512, SSE, WIDEST, needs_x86, runs
from tests.tolerances import assert_close


def check(shape: tuple[int, ...], turned: bool, target: Target) -> None:
    """A convolution (or the data gradient of one) with weights that are computed."""
    b = cnncc.Builder("weights")
    out, inner, *kernel = shape
    x, w = b.input("x", (2, out if turned else inner, *(6,) * len(kernel))), b.input("w", shape)
    y = b.relu(x)
    b.output(b.conv_transpose(y, w) if turned else b.conv(y, w))
    graph = b.finish()
    executable = cnncc.compile(graph, target, accuracy="strict")
    rows = executable.report().rows
    packing = [r for r in rows if r.ops.endswith("to_layout") and r.layouts.startswith("plain->AB")]
    assert len(packing) == 1, [r.ops for r in rows]
    random = np.random.default_rng(0)
    feeds = {"x": random.standard_normal(x.type.shape).astype("f"), "w": random.standard_normal(shape).astype("f")}
    (found,), (expected,) = executable.run(feeds).values(), interpret(graph, feeds).values()
    assert_close(found, expected, "conv")


@needs_x86
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape", [(32, 48, 3, 3), (40, 24, 3, 2), (32, 32, 1, 1), (24, 40, 3), (32, 32, 2, 3, 2)])
def test_against_the_definition(shape: tuple[int, ...], turned: bool) -> None:
    check(shape, turned, WIDEST)


@pytest.mark.parametrize("target", [AVX512, AVX2, SSE], ids=lambda t: t.name)
def test_other_targets(target: Target) -> None:
    check((40, 24, 3, 2), True, runs(target))


def test_other_moves_are_not_taken() -> None:
    b = cnncc.Builder()
    w = b.input("w", (32, 32, 3, 3))
    b.output(b.op("to_layout", b.flip(w, axes=(2,)), tag="ABcd16b16a"))
    assert not packs_weights(b.graph, AVX512)
