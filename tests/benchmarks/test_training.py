"""The benchmark of training steps: one table for both frameworks, networks with the same parameters in both."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from benchmarks import training
from benchmarks.training_nets import NETS, build
from cnncc import nn

RESULT = {
    "net": "lenet5", "batch": 32, "shape": (1, 28, 28), "threads": 1, "optimizer": "sgd",
    "systems": {
        "cnncc": {
            "median": 2.0, "least": 1.9, "algorithms": {"fallback": (1, 0.1, 5.0)},
            "kernels": [{"layer": "3", "ops": "matmul", "algorithm": "fallback", "problem": "", "fallback": True,
                         "ms": 0.1, "percent": 5.0}],
        },
        "torch": {"median": 4.0, "least": 3.8},
        "other": {"reason": "not installed"},
    },
}  # fmt: skip


def test_the_table_has_ratios_to_cnncc() -> None:
    assert "| lenet5 | 1x28x28 | 32 | 1 | sgd | 2.0 (1.9) | 4.0 (3.8), x2.00 | - |" in training.table([RESULT])


def test_a_network_measured_again_takes_the_place_of_its_former_result() -> None:
    same = {"batch": 8, "threads": 2, "optimizer": "sgd"}
    old, other, larger, new = (
        {**same, "net": net, "shape": [3, size, size], "value": value}
        for net, size, value in (("a", 64, 1), ("b", 64, 2), ("a", 224, 3), ("a", 64, 4))
    )
    assert training.merged([old, other, larger], [new]) == [new, other, larger]


def test_fallbacks_are_marked() -> None:
    assert "FALLBACK" in training.kernel_list(RESULT)


@pytest.mark.skipif(not find_spec("torch"), reason="needs torch")
@pytest.mark.parametrize("name", NETS)
def test_both_frameworks_have_the_same_parameters(name: str) -> None:
    import torch

    ours, theirs = build(name, nn, 0.25).state_dict(), build(name, torch.nn, 0.25).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: tuple(v.shape) for k, v in theirs.items()}
