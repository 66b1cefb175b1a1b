"""Random graphs, compiled: the results are the interpreter's, for every batch, the second time too, and saved."""

from __future__ import annotations

import numpy as np
import pytest

import cnncc
from cnncc.interpret import interpret
from tests.graphs import random_feeds, random_graph
from tests.tolerances import assert_close

QUICK = 4


@pytest.mark.parametrize("seed", [s if s < QUICK else pytest.param(s, marks=pytest.mark.slow) for s in range(60)])
def test_compiled_equals_interpreted(seed, tmp_path):
    symbolic = bool(seed % 2)
    graph = random_graph(seed, "N" if symbolic else 1 + seed % 3, size=16, channels=(16, 8, 3, 24)[seed % 4])
    executable = cnncc.compile(graph, threads=1 + seed % 2, accuracy="strict" if seed % 5 == 0 else "default")
    for batch in (2, 1, 5) if symbolic else (1,):
        feeds = random_feeds(graph, {"N": batch}, seed=batch)
        expected = interpret(graph, feeds)
        results = executable.run(feeds)
        assert list(results) == list(expected)
        for name, array in expected.items():
            assert_close(results[name], array, "winograd", label=name)
        for name, array in executable.run(feeds).items():
            assert np.array_equal(array, results[name]), "runs are reproducible"
    if seed % 4 == 0:
        executable.save(tmp_path / "graph.cnncc")
        for name, array in cnncc.load(tmp_path / "graph.cnncc").run(feeds).items():
            assert np.array_equal(array, results[name])


def test_scalar_constants_survive_saving(tmp_path):
    b = cnncc.Builder()
    b.output(b.pow(b.input("x", (2, 3)), b.constant(np.float32(2))), "y")
    executable = cnncc.compile(b.finish(), threads=1)
    executable.save(tmp_path / "graph.cnncc")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(cnncc.load(tmp_path / "graph.cnncc")(x), executable(x))
