"""Values, gradients and second derivatives of the ops that PyTorch has, against PyTorch, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cnncc.autodiff import vjp
from cnncc.builder import Builder
from cnncc.interpret import interpret
from cnncc.ir.graph import Graph
from cnncc.ops import TABLE
from tests.ops.harness import Case, all_cases
from tests.ops.oracles import ELSEWHERE, TORCH, torch
from tests.tolerances import assert_close

CASES = [c for c in all_cases() if c.op.name in TORCH]


def test_every_differentiable_op_has_an_oracle():
    """An op with a gradient rule is compared with PyTorch, or stands above with what tests it instead."""
    differentiable = {op.name for op in TABLE.values() if op.grad is not None}
    assert differentiable - set(TORCH) == set(ELSEWHERE)


def _arrays(case: Case) -> list[np.ndarray | None]:
    return [a.astype(np.float64) if a is not None and a.dtype == np.float32 else a for a in case.arrays()]


def _row(case: Case, dtype: str) -> tuple[str, str]:
    """Of the tolerance table. PyTorch keeps some constants of activations in float32."""
    if dtype != "f64":
        return "exact", dtype
    return ("elementwise", "f32") if case.op.elementwise else ("conv", "f64")


def _wanted(case: Case, tensors: list[Any]) -> tuple[Any, ...]:
    """PyTorch's results. Skips where it has none for these attributes."""
    if any(t is not None and not t.is_floating_point() for t in tensors) and case.op.name in ("mod", "div"):
        pytest.skip("PyTorch raises on integers divided by zero")
    wanted = TORCH[case.op.name](case.attrs, *(t for t in tensors if t is not None))
    if wanted is None:
        pytest.skip("PyTorch does not have these attributes")
    return wanted if isinstance(wanted, tuple) else (wanted,)


def _graph(case: Case, arrays: list[np.ndarray | None]) -> Graph:
    """One node; floating-point operands are inputs x0, x1, ..., the others constants; results y0, y1, ..."""
    b = Builder()
    operands = [
        a if a is None else b.input(f"x{k}", a.shape, "f64") if a.dtype == np.float64 else b.constant(a, f"x{k}")
        for k, a in enumerate(arrays)
    ]
    attributes = {n: getattr(case.attrs, n) for n in case.attrs.__dataclass_fields__}
    results = b.op(case.op.name, *operands, **attributes)
    for k, value in enumerate(results if isinstance(results, tuple) else (results,)):
        b.output(value, f"y{k}")
    return b.finish()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_and_gradient(case: Case):
    arrays = _arrays(case)
    tensors = [None if a is None else torch.tensor(a, requires_grad=a.dtype == np.float64) for a in arrays]
    wanted = _wanted(case, tensors)
    graph = _graph(case, arrays)
    feeds = {v.name: arrays[int(v.name[1:])] for v in graph.inputs}
    for actual, expected in zip(interpret(graph, feeds).values(), wanted, strict=True):
        dtype = "f64" if actual.dtype == np.float64 else "f32"
        assert_close(actual, expected.detach().numpy(), *_row(case, dtype), str(case))

    if case.op.grad is None or not feeds or not wanted[0].is_floating_point() or not case.sample.smooth:
        return
    rng = np.random.default_rng(5)
    seeds = {f"d_y{k}": rng.standard_normal(w.shape) for k, w in enumerate(wanted)}
    torch.autograd.backward(wanted, [torch.tensor(s) for s in seeds.values()])
    grads = interpret(vjp(graph, list(feeds)), {**feeds, **seeds})
    for name in feeds:
        expected = tensors[int(name[1:])].grad
        assert_close(grads[f"grad_{name}"], expected.numpy(), *_row(case, "f64"), f"{case} d{name}")


ONCE = ("hard_sigmoid",)  # PyTorch differentiates it once only
SMOOTH = [
    c for c in CASES
    if c.op.grad is not None and c.sample.smooth and c.dtype in ("f32", "f64") and c.op.name not in ONCE
]  # fmt: skip


@pytest.mark.parametrize("case", SMOOTH, ids=str)
def test_second_derivative(case: Case):
    """The gradient of the gradient, with respect to the operands and to the upstream gradients: double backward."""
    arrays = _arrays(case)
    tensors = [None if a is None else torch.tensor(a, requires_grad=a.dtype == np.float64) for a in arrays]
    wanted = _wanted(case, tensors)
    variables = {f"x{k}": t for k, t in enumerate(tensors) if t is not None and t.requires_grad}
    if not variables:
        pytest.skip("nothing to differentiate")
    rng = np.random.default_rng(5)
    seeds = {f"d_y{k}": torch.tensor(rng.standard_normal(w.shape), requires_grad=True) for k, w in enumerate(wanted)}
    first = torch.autograd.grad(wanted, list(variables.values()), list(seeds.values()), create_graph=True)
    again = {f"d_grad_{n}": rng.standard_normal(g.shape) for n, g in zip(variables, first, strict=True)}
    total = sum((g * torch.tensor(e)).sum() for g, e in zip(first, again.values(), strict=True))
    leaves = {**variables, **seeds}
    second: Any = [None] * len(leaves)
    if total.requires_grad:
        second = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)

    graph = vjp(_graph(case, arrays), list(variables))
    feeds = {n: t.detach().numpy() for n, t in leaves.items()}
    actual = interpret(vjp(graph, list(leaves)), {**feeds, **again})
    for (name, leaf), expected in zip(leaves.items(), second, strict=True):
        e = np.zeros(leaf.shape) if expected is None else expected.numpy(force=True)
        assert_close(actual[f"grad_{name}"], e, *_row(case, "f64"), f"{case} {name}")
