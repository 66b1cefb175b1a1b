"""Every gradient rule against finite differences in float64, and with a symbolic batch against a fixed one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cnncc.autodiff import vjp
from cnncc.builder import Builder
from cnncc.interpret import interpret
from cnncc.ir.dtype import is_float
from cnncc.ir.graph import Graph
from cnncc.ir.types import Type
from cnncc.ops.registry import TABLE
from tests.ops.harness import Case, all_cases, symbolic
from tests.tolerances import assert_close

STEP = 1e-6
DIRECTIONS = 4

WITH_RULE = [c for c in all_cases() if c.op.grad is not None and c.sample.smooth]
SYMBOLIC = [c for c in WITH_RULE if symbolic(c) is not None]


def _float64(array: np.ndarray | None) -> np.ndarray | None:
    return array.astype(np.float64) if array is not None and array.dtype == np.float32 else array


def _graph(case: Case, attrs: Any, types: list[Type | None]) -> Graph:
    """One node, in float64, every operand an input x0, x1, ..., every result an output y0, y1, ..."""
    b = Builder("one")
    operands = [
        None if t is None else b.input(f"x{k}", t.shape, "f64" if is_float(t.dtype) else t.dtype)
        for k, t in enumerate(types)
    ]
    results = b.op(case.op.name, *operands, **{n: getattr(attrs, n) for n in attrs.__dataclass_fields__})
    for k, value in enumerate(results if isinstance(results, tuple) else (results,)):
        b.output(value, f"y{k}")
    return b.finish()


def _feeds(case: Case) -> dict[str, np.ndarray]:
    return {f"x{k}": a for k, a in enumerate(map(_float64, case.arrays())) if a is not None}


def _seeds(graph: Graph, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {f"d_{n}": rng.standard_normal(y.shape) for n, y in interpret(graph, feeds).items() if y.dtype == np.float64}


def test_every_rule_is_covered():
    covered = {c.op.name for c in WITH_RULE}
    rules = {op.name for op in TABLE.values() if op.grad is not None}
    assert rules - covered == {"stop_gradient"}, "give them smooth samples"


@pytest.mark.parametrize("case", WITH_RULE, ids=str)
def test_gradient_equals_finite_differences(case: Case):
    graph = _graph(case, case.attrs, case.types)
    feeds = _feeds(case)
    names = [n for n, a in feeds.items() if a.dtype == np.float64]
    if not names or not all(a.size for a in feeds.values()):
        pytest.skip("nothing to differentiate")
    seeds = _seeds(graph, feeds)
    grads = interpret(vjp(graph, names), {**feeds, **seeds})

    def loss(moved: dict[str, np.ndarray]) -> float:
        results = interpret(graph, {**feeds, **moved})
        return sum(float((results[n[2:]] * s).sum()) for n, s in seeds.items())

    rng = np.random.default_rng(11)
    for name in names:
        assert grads[f"grad_{name}"].shape == feeds[name].shape
        analytic, numeric = [], []
        for _ in range(DIRECTIONS):
            v = rng.standard_normal(feeds[name].shape)
            ahead, behind = feeds[name] + STEP * v, feeds[name] - STEP * v
            numeric.append((loss({name: ahead}) - loss({name: behind})) / (2 * STEP))
            analytic.append(float((grads[f"grad_{name}"] * v).sum()))
        assert_close(analytic, numeric, "finite-difference", "f64", f"{case} {name}")


@pytest.mark.parametrize("case", SYMBOLIC, ids=str)
def test_gradient_with_symbolic_batch(case: Case):
    fixed, free = _graph(case, case.attrs, case.types), _graph(case, *symbolic(case))
    feeds = _feeds(case)
    names = [n for n, a in feeds.items() if a.dtype == np.float64]
    if not names or not all(a.size for a in feeds.values()):
        pytest.skip("nothing to differentiate")
    feeds.update(_seeds(fixed, feeds))
    expected = interpret(vjp(fixed, names), feeds)
    actual = interpret(vjp(free, names), feeds)
    for name, e in expected.items():
        assert_close(actual[name], e, "reduction", "f64", f"{case} {name}")
