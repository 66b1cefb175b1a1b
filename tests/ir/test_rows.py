"""Constants that are made a few rows at a time."""

from __future__ import annotations

import numpy as np

from cnncc.interpret import interpret
from cnncc.ir.graph import Graph, Rows
from cnncc.ir.types import Type
from cnncc.ops import registry

WHOLE = np.arange(12, dtype=np.float32).reshape(4, 3)


def constant(parts):
    """A constant that notes which parts of it were made."""

    def make(begin, end):
        parts.append((begin, end))
        return WHOLE[begin:end]

    return Rows(Type.of(WHOLE), make)


def test_made_when_asked_for_and_once():
    parts = []
    graph = Graph()
    value = graph.add_constant(constant(parts), "w")
    assert value.is_constant
    assert value.type == Type("f32", (4, 3))
    assert parts == []
    np.testing.assert_array_equal(value.data, WHOLE)
    np.testing.assert_array_equal(value.data, WHOLE)
    assert parts == [(0, 4)]


def test_copies_make_their_own():
    parts = []
    graph = Graph()
    graph.add_output(graph.add_constant(constant(parts), "w"), "y")
    copied = graph.copy()
    assert parts == []
    np.testing.assert_array_equal(interpret(copied, {})["y"], WHOLE)
    assert parts == [(0, 4)]


def test_operations_that_go_row_by_row():
    """What an op says of itself (`rowwise`) holds for its samples."""
    found = [op for op in registry.TABLE.values() if op.rowwise]
    assert [op.name for op in found] == ["winograd_weights"]
    for op in found:
        for sample in op.samples:
            (w,) = sample.arrays()
            (whole,) = op.run(sample.attrs, [w])
            rows = [op.run(sample.attrs, [w[k : k + 1]])[0] for k in range(len(w))]
            np.testing.assert_array_equal(np.concatenate(rows), whole)
