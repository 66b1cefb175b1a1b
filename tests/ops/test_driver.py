"""Every op, and the gradients of every op, through the whole compiler: passes, choice, schedules, runtime."""

from __future__ import annotations

import numpy as np
import pytest

import cnncc
from cnncc.autodiff import vjp
from cnncc.builder import Builder
from cnncc.interpret import interpret
from cnncc.ir.graph import Graph
from tests.ops.harness import Case, all_cases, batch_operands, run_reference, symbolic
from tests.tolerances import assert_close

pytestmark = pytest.mark.slow  # a kernel or more is compiled for each

CASES = [c for c in all_cases() if not c.op.name.startswith(("winograd", "fft", "to_layout"))]
EMPTY = "nothing to compute"


def one_op(case: Case, free: bool = False) -> Graph:
    """A graph of one operation."""
    attrs, types = symbolic(case) if free else (case.attrs, case.types)
    b = Builder("one")
    operands = [None if t is None else b.input(f"x{k}", t.shape, t.dtype) for k, t in enumerate(types)]
    results = b.op(case.op.name, *operands, **{n: getattr(attrs, n) for n in attrs.__dataclass_fields__})
    for k, value in enumerate(results if isinstance(results, tuple) else (results,)):
        b.output(value, f"y{k}")
    return b.finish()


def feeds_of(arrays: list[np.ndarray | None]) -> dict[str, np.ndarray]:
    """Arrays by the names that `one_op` gives its inputs."""
    return {f"x{k}": a for k, a in enumerate(arrays) if a is not None}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_op(case: Case):
    feeds = feeds_of(case.arrays())
    expected = run_reference(case, case.arrays())
    if not all(a.size for a in (*expected, *feeds.values())):
        pytest.skip(EMPTY)
    actual = cnncc.compile(one_op(case)).run(feeds)
    for a, e in zip(actual.values(), expected, strict=True):
        assert_close(a, e, case.kind, case.dtype, str(case))


@pytest.mark.parametrize("case", [c for c in CASES if c.number == 0 and symbolic(c) is not None], ids=str)
def test_symbolic_batch(case: Case):
    exe = cnncc.compile(one_op(case, free=True))
    for batch in (1, 7):
        arrays = case.arrays(batch, batch_operands(case))
        expected = run_reference(case, arrays, free=True)
        for a, e in zip(exe.run(feeds_of(arrays)).values(), expected, strict=True):
            assert_close(a, e, case.kind, case.dtype, f"{case} batch {batch}")


@pytest.mark.parametrize("case", [c for c in CASES if c.op.grad is not None and c.sample.smooth], ids=str)
def test_gradient(case: Case):
    feeds = feeds_of(case.arrays())
    names = [n for n, a in feeds.items() if a.dtype in (np.float32, np.float64)]
    graph = one_op(case)
    if not names or not all(a.size for a in (*run_reference(case, case.arrays()), *feeds.values())):
        pytest.skip(EMPTY)
    rng = np.random.default_rng(7)
    seeds = {
        f"d_{name}": rng.standard_normal(value.type.shape).astype(value.type.numpy)
        for name, value in zip(graph.output_names, graph.outputs, strict=True)
    }
    backward = vjp(graph, names)
    expected = interpret(backward, {**feeds, **seeds})
    actual = cnncc.compile(backward).run({**feeds, **seeds})
    for name, e in expected.items():
        assert_close(actual[name], e, "gradient", "f32", f"{case} {name}")
