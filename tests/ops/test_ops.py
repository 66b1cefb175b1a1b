"""Every op and sample of the table: types, text, the te definition against the reference, a symbolic batch."""

from __future__ import annotations

import numpy as np
import pytest

from cnncc.builder import Builder
from cnncc.ir.analysis import structurally_equal
from cnncc.ir.dims import substitute_shape
from cnncc.ir.graph import Value
from cnncc.ir.parser import parse
from cnncc.ops.registry import TABLE
from tests.ops.harness import (
    Case,
    all_cases,
    batch_operands,
    blocked,
    half,
    run_blocked,
    run_compiled,
    run_half,
    run_reference,
    symbolic,
)
from tests.tolerances import assert_close

CASES = all_cases()
SYMBOLIC = [c for c in CASES if symbolic(c) is not None]
each = pytest.mark.parametrize("case", CASES, ids=str)
each_symbolic = pytest.mark.parametrize("case", SYMBOLIC, ids=str)


def test_every_op_has_samples():
    assert [op.name for op in TABLE.values() if not op.samples] == []


@pytest.mark.parametrize("case", [c for c in CASES if c.op.reference is not None], ids=str)
def test_reference_has_the_inferred_shapes(case: Case):
    types = case.op.infer_types(case.attrs, case.types)
    with np.errstate(all="ignore"):
        raw = case.op.reference(case.attrs, *case.arrays())
    for array, type_ in zip(raw if isinstance(raw, tuple) else (raw,), types, strict=True):
        assert np.shape(array) == type_.shape


@each
def test_canonical_attributes_stay_as_they_are(case: Case):
    if case.op.normalise is not None:
        assert case.op.normalise(case.attrs, *case.types) == case.attrs


def _graph(case: Case):
    b = Builder("one")
    operands: list[Value | None] = [
        None if t is None else b.input(f"x{k}", t.shape, t.dtype) for k, t in enumerate(case.types)
    ]
    attrs = {name: getattr(case.attrs, name) for name in case.attrs.__dataclass_fields__}
    results = b.op(case.op.name, *operands, **attrs)
    for value in results if isinstance(results, tuple) else (results,):
        b.output(value)
    return b.finish()


@each
def test_text_round_trip(case: Case):
    graph = _graph(case)
    again = parse(str(graph))
    assert str(again) == str(graph)
    assert structurally_equal(again, graph)


@each
def test_compiled_equals_reference(case: Case):
    arrays = case.arrays()
    expected = run_reference(case, arrays)
    if not all(a.size for a in (*expected, *arrays) if a is not None):
        pytest.skip("nothing to compute")
    for actual, e in zip(run_compiled(case, arrays), expected, strict=True):
        assert_close(actual, e, case.kind, case.dtype, str(case))


@each_symbolic
def test_symbolic_types_equal_static_ones(case: Case):
    attrs, types = symbolic(case)
    free = case.op.infer_types(attrs, types)
    fixed = case.op.infer_types(case.attrs, case.types)
    batch = case.types[batch_operands(case)[0]].shape[0]
    assert [substitute_shape(t.shape, {"N": batch}) for t in free] == [t.shape for t in fixed]
    assert [t.dtype for t in free] == [t.dtype for t in fixed]


@each_symbolic
def test_symbolic_batch_compiles_once_for_all_sizes(case: Case):
    for batch in (1, 5):
        arrays = case.arrays(batch, batch_operands(case))
        expected = run_reference(case, arrays, free=True)
        if not all(a.size for a in (*expected, *arrays) if a is not None):
            continue
        for actual, e in zip(run_compiled(case, arrays, free=True), expected, strict=True):
            assert_close(actual, e, case.kind, case.dtype, f"{case} batch {batch}")


@pytest.mark.parametrize("name", [c.op.name for c in CASES if c.number == 0 and blocked(c) is not None])
def test_blocked_layouts(name: str):
    """Every op works on channels in blocks of 4, and leaves zeros in the padding."""
    case = Case(TABLE[name], 0)
    arrays = case.arrays()
    expected = run_reference(case, arrays)
    for actual, e, type_ in zip(run_blocked(case, arrays), expected, blocked(case)[1], strict=True):
        assert_close(actual, type_.layout.pack(e), case.kind, case.dtype, str(case))


@pytest.mark.parametrize("name", [c.op.name for c in CASES if c.number == 0 and half(c) is not None])
def test_half_precision(name: str):
    """float16 is read as float32 and rounded once, in the result."""
    case = Case(TABLE[name], 0)
    arrays = [a if a is None or a.dtype != np.float32 else a.astype(np.float16) for a in case.arrays()]
    expected = run_reference(case, arrays)
    wide = run_reference(case, [a if a is None or a.dtype != np.float16 else a.astype(np.float32) for a in arrays])
    for actual, e, w in zip(run_half(case, arrays), expected, wide, strict=True):
        dtype = "f16" if e.dtype == np.float16 else case.dtype
        if dtype == "f16":
            assert_close(e, w.astype(np.float16), "exact")
        assert_close(actual, e, case.kind if case.kind != "winograd" else "conv", dtype, str(case))
