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
