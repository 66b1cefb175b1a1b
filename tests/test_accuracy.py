"""The error tables of the documentation: `python -m benchmarks.accuracy`."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import accuracy, points
from cnncc.kernels.trial import build
from cnncc.ops.winograd_matrices import alignment
from cnncc.ops.winograd_matrices import points as used_points
from cnncc.targets.cpu import direct, winograd
from cnncc.targets.machine import find_target
from cnncc.targets.problem import ConvProblem, MatmulProblem
from tests.targets.cpu_records import WIDEST, needs_x86
from tests.tolerances import tolerance

PROBLEM = ConvProblem.parse("conv n1 ic512 h8 w8 oc16 k3x3 s1x1 p1x1")


@needs_x86
@pytest.mark.parametrize("algorithm", [winograd.WINOGRAD_F2, winograd.WINOGRAD_F4, winograd.WINOGRAD_F6])
def test_stated_bounds_hold(algorithm):
    found = accuracy.errors(build(algorithm, PROBLEM, WIDEST, bare=True))
    assert set(found) == set(accuracy.INPUTS)
    assert max(found.values()) <= algorithm.error_bound(PROBLEM, WIDEST), found
    assert found["normal"] < found["aligned"]


@needs_x86
@pytest.mark.parametrize("kernel", ["k3x3", "k1x7", "k2x2"])
def test_worst_signs_are_worse_than_others(kernel, monkeypatch):
    monkeypatch.setattr(accuracy, "SEEDS", {"worst signs": 1, "aligned": 2})
    problem = ConvProblem.parse(f"conv n1 ic64 h8 w8 oc16 {kernel} s1x1 p0x0")
    algorithm = winograd.WINOGRAD_F4
    worst = accuracy.worst_signs(algorithm, problem, WIDEST)
    others = accuracy.errors(build(algorithm, problem, WIDEST, bare=True))
    assert max(others.values()) < worst <= algorithm.error_bound(problem, WIDEST)
    assert accuracy.worst_signs(direct.ALGORITHM, problem, WIDEST) is None


@pytest.mark.parametrize(("m", "taps"), [(2, 3), (4, 3)])
def test_the_points_in_use_are_the_best(m, taps):
    best, pairs = points.search(m, taps)[0]
    assert used_points(m, taps) == (0, *(s * p for p in pairs for s in (1, -1)))
    assert alignment(m, taps) == pytest.approx(best)


@needs_x86
def test_direct_is_as_the_definition():
    found = accuracy.errors(build(direct.ALGORITHM, PROBLEM, WIDEST, bare=True))
    assert max(found.values()) <= tolerance("conv").atol, found


def test_errors_are_relative_to_what_does_not_cancel():
    problem = MatmulProblem.parse("matmul m1 k2 n1 nk")
    x, w = np.array([[1.0, 1.0]], np.float32), np.array([[1.0, -1.0]], np.float32)
    assert accuracy.relative(problem, np.array([[1e-3]]), x, w) == pytest.approx(1e-3 / np.sqrt(2))
    assert accuracy.relative(problem, np.array([[2.2]]), x, -w * [1, -1]) == pytest.approx(2.1, rel=0.01)


def test_rounding():
    values = np.array([1.0, 1 + 2**-7, 1 + 2**-8, 3.14159], np.float32)
    np.testing.assert_array_equal(accuracy.rounded(values, "bf16"), np.array([1, 1 + 2**-7, 1, 3.140625], np.float32))
    np.testing.assert_array_equal(accuracy.rounded(values, "f32"), values)


@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16"])
def test_other_dtypes_come_from_the_definition(dtype, monkeypatch):
    monkeypatch.setattr(accuracy, "SEEDS", {"aligned": 2})
    limit = {"f64": 1e-14, "f16": 1e-3, "bf16": 8e-3}[dtype]
    worst = max(accuracy.by_definition(dtype, find_target("native", 1)).values())
    assert limit / 1000 < worst < limit


def test_networks_are_compared_with_float64():
    pytest.importorskip("torch")
    classes, total, same, ours, theirs = accuracy.agreement("lenet5", 3, "default", find_target("native", 1))
    assert classes == 10
    assert total == same == 3
    assert 0 < ours < 1e-5
    assert 0 < theirs < 1e-5
