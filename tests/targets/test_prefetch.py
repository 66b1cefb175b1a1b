"""Large weights are asked for ahead of time, small ones and those that are used too seldom are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.kernels import SSE, ZEN3, ZEN4
from benchmarks.onednn import parse
from cnncc.kernels.trial import build
from cnncc.targets.cpu import prefetch
from cnncc.targets.machine import find_target, native
from cnncc.targets.table import find_algorithm

LARGE = "conv n1 ic512 h7 w7 oc1088 k1x1 s1x1 p0x0"
SMALL = "conv n1 ic64 h7 w7 oc64 k1x1 s1x1 p0x0"  # 16 kilobytes


def prefetches(text: str, algorithm: str, target) -> int:
    """Prefetches in the assembly of a kernel."""
    assembly = build(find_algorithm(target, algorithm), parse(text), target).assembly
    return sum(line.split()[0] in ("prefetcht0", "prfm") for line in assembly.splitlines() if line.split())


@pytest.mark.parametrize("target", [ZEN4, ZEN3, find_target("aarch64", 1)], ids=lambda target: target.name)
def test_large_weights_are_fetched_ahead(target):
    assert prefetches(LARGE, "direct", target) >= 1
    assert prefetches(SMALL, "direct", target) == 0


def test_products_without_fused_multiply_add_are_slower_than_memory():
    assert prefetches(LARGE, "direct", SSE) == 0


def test_weights_that_are_used_once_are_left_to_the_processor():
    assert prefetches("matmul m1 k1024 n1024 nk", "dense", ZEN4) == 0


def test_results_are_the_same_bits_without(monkeypatch):
    target = replace(native(), threads=1)
    trial = build(find_algorithm(target, "direct"), parse(LARGE), target)
    monkeypatch.setattr(prefetch, "LARGE", 1 << 60)
    plain = build(find_algorithm(target, "direct"), parse(LARGE), target)
    assert trial.assembly != plain.assembly
    _, tensors = trial.operands()
    trial.function(*tensors)
    ahead = trial.result(tensors[-1]).copy()
    plain.function(*tensors)
    assert np.array_equal(ahead, plain.result(tensors[-1]))


def test_loops_over_the_same_weights_share_the_fetching():
    """Six rows of a transform pass over 9 lines a step; each loop fetches one or two of those of the next part."""
    built = build(find_algorithm(ZEN4, "winograd_f4_fresh"), parse("conv n1 ic256 h7 w7 oc256 k3x3 s1x1 p1x1"), ZEN4)
    loops, count = [], 0
    for line in built.assembly.splitlines():
        word = line.split()[:1]
        if word == ["prefetcht1"]:
            count += 1
        elif word and word[0].startswith("j") and count:
            loops.append(count)
            count = 0
    assert loops
    assert max(loops) <= 2
    assert 9 <= sum(loops) <= 27
