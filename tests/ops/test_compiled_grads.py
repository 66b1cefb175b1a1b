"""Gradient graphs compiled against interpreted: of every sample of every differentiable op, a graph for a family."""

from __future__ import annotations

import numpy as np
import pytest

import cnncc
from cnncc.autodiff import vjp
from cnncc.builder import Builder
from cnncc.interpret import interpret
from cnncc.ir.dtype import is_float
from cnncc.ir.graph import Graph
from cnncc.ops import FAMILIES, TABLE, Op
from tests.ops.harness import Case, all_cases
from tests.tolerances import assert_close

CASES = [
    c for c in all_cases()
    if c.op.grad is not None and is_float(c.dtype) and all(a.size for a in c.arrays() if a is not None)
]  # fmt: skip
FIRST = {op: min(c.number for c in CASES if c.op.name == op) for op in {c.op.name for c in CASES}}
GROUPS = {m.__name__.rpartition(".")[2]: [op.name for op in vars(m).values() if isinstance(op, Op)] for m in FAMILIES}


def _family(name: str, first: bool) -> tuple[Graph, dict[str, np.ndarray], list[str], dict[str, Case]]:
    """The first sample of each op of a family, or all others, side by side: the graph, its inputs, what is
    differentiated, the case of each value."""
    b = Builder(name)
    feeds: dict[str, np.ndarray] = {}
    variables, cases = [], {}
    for case in (c for c in CASES if c.op.name in GROUPS[name] and (c.number == FIRST[c.op.name]) == first):
        operands = []
        for k, a in enumerate(case.arrays()):
            label = f"{case.op.name}_{case.number}_x{k}"
            operands.append(None if a is None else b.input(label, a.shape, case.types[k].dtype))
            if a is not None:
                feeds[label], cases[f"grad_{label}"] = a, case
            variables += [label] if a is not None and a.dtype.kind == "f" else []
        results = b.op(case.op.name, *operands, **{n: getattr(case.attrs, n) for n in case.attrs.__dataclass_fields__})
        for k, value in enumerate(results if isinstance(results, tuple) else (results,)):
            label = f"{case.op.name}_{case.number}_y{k}"
            cases[label] = case
            b.output(value, label)
    return b.finish(), feeds, variables, cases


def test_every_differentiable_op_is_compiled():
    without = {op.name for op in TABLE.values() if op.grad is not None} - {c.op.name for c in CASES}
    assert not without


FAMILY_NAMES = [n for n, ops in GROUPS.items() if any(c.op.name in ops for c in CASES)]


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_compiled_gradients_equal_interpreted(name: str):
    _compare(*_family(name, first=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_compiled_gradients_of_further_samples(name: str):
    graph, *rest = _family(name, first=False)
    if graph.outputs:
        _compare(graph, *rest)


def _compare(graph: Graph, feeds: dict[str, np.ndarray], variables: list[str], cases: dict[str, Case]) -> None:
    both = vjp(graph, variables, keep_outputs=True)
    rng = np.random.default_rng(1)
    for value in both.inputs:
        if value.name not in feeds:
            feeds[value.name] = rng.standard_normal([int(d) for d in value.type.shape]).astype(value.type.numpy)
    actual, expected = cnncc.compile(both, threads=1, accuracy="strict").run(feeds), interpret(both, feeds)
    for label, e in expected.items():
        kind = "conv" if cases[label].kind == "conv" else "reduction"
        assert_close(actual[label], e, kind, "f64" if e.dtype == np.float64 else "f32", label)
