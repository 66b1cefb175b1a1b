"""fuse-pools: which pools go into the kernel of the convolution before them, and why others do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnncc
from cnncc.driver import plan_graph
from cnncc.passes import INFERENCE, Context, run_passes
from cnncc.targets.machine import AVX512

WINDOW = {"kernel": (2, 2), "strides": (2, 2)}


def passed(make: Any, **window: Any) -> tuple[list[str], list[str]]:
    """The kernels' operations, and the reasons of fuse-pools."""
    b = cnncc.Builder()
    w = np.ones((64, 64, 3, 3), np.float32)
    y = b.conv(b.input("x", ("N", 64, 56, 56)), w, pads=1)
    b.output(b.max_pool(make(b, y), **(WINDOW | window)), "y")
    context = Context(AVX512)
    graph = run_passes(b.finish(), INFERENCE, context)
    bodies = ["+".join(n.op for n in node.body.nodes) for node in graph.nodes if node.body is not None]
    return bodies, [d.reason for d in context.declined if d.rule == "fuse-pools"]


def test_what_rises_moves_behind_the_pool() -> None:
    bodies, reasons = passed(lambda b, y: b.clip(b.relu(b.add(y, np.ones((64, 1, 1), np.float32))), high=6.0))
    assert "winograd_conv+max_pool+add+relu+clip" in bodies
    assert reasons == []


def _also_read(b: Any, y: Any) -> Any:
    b.output(b.reduce_mean(y, axes=(2, 3)), "mean")
    return y


@pytest.mark.parametrize(
    ("make", "window", "reason"),
    [
        (lambda b, y: b.abs(y), {}, "abs may change which"),
        (lambda b, y: b.neg(b.relu(y)), {}, "neg may change which"),
        (lambda b, y: b.add(y, np.ones((56, 56), np.float32)), {}, "more than one number per channel"),
        (_also_read, {}, "read elsewhere"),
        (lambda b, y: b.softmax(y, axis=1), {}, "no convolution"),
        (lambda b, y: y, {"kernel": (3, 3)}, "must be 2x2"),
        (lambda b, y: y, {"dilations": (2, 2)}, "has gaps"),
    ],
    ids=["abs", "neg", "a number per pixel", "read twice", "softmax", "3x3", "dilation"],
)
def test_what_declines(make: Any, window: dict[str, Any], reason: str) -> None:
    bodies, reasons = passed(make, **window)
    assert not [body for body in bodies if "conv" in body and "max_pool" in body]
    assert len(reasons) == 1
    assert reason in reasons[0]


def test_a_measured_convolution_stays_as_measured() -> None:
    class Measured:
        def seconds(self, body: Any, algorithm: str, modelled: float) -> float:
            return modelled

        def known(self, body: Any) -> bool:
            return True

        def tile(self, *arguments: Any) -> None:
            return None

    b = cnncc.Builder()
    y = b.conv(b.input("x", (1, 3, 64, 64)), np.ones((64, 3, 3, 3), np.float32), strides=2)
    b.output(b.max_pool(y, **WINDOW), "y")
    graph = b.finish()
    assert len(plan_graph(graph, AVX512).callers) < len(plan_graph(graph, AVX512, tuning=Measured()).callers)
