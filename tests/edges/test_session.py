"""onnxruntime's interface: the same calls on a compiled model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import cnncc
from cnncc.errors import GraphError
from cnncc.onnx_backend import Backend
from tests import zoo
from tests.edges.onnx_models import INT64, conv_model, info, model, node
from tests.tolerances import assert_close


@pytest.fixture(scope="module")
def small():
    """Two inputs, two outputs, a symbolic batch."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Add", ["c", "b"], ["sum"]),
        node("Relu", ["sum"], ["y"]),
    ]
    w = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    return model(nodes, {"x": ("N", 3, 6, 6), "b": (1, 4, 1, 1)}, ["y", "sum"], {"w": w})


@pytest.fixture(scope="module")
def session(small):
    return cnncc.InferenceSession(small.SerializeToString(), providers=["CPUExecutionProvider"])


def feeds(n):
    rng = np.random.default_rng(n)
    return {"x": rng.standard_normal((n, 3, 6, 6)).astype(np.float32), "b": np.ones((1, 4, 1, 1), np.float32)}


def test_inputs_and_outputs(session):
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [
        ("x", ["N", 3, 6, 6], "tensor(float)"),
        ("b", [1, 4, 1, 1], "tensor(float)"),
    ]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("y", ["N", 4, 6, 6]), ("sum", ["N", 4, 6, 6])]
    assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize("batch", [1, 3])
def test_run(small, session, batch):
    expected = zoo.reference(small, feeds(batch))
    y, total = session.run(None, feeds(batch))
    assert_close(y, expected["y"], "winograd")
    assert_close(total, expected["sum"], "winograd")
    (again,) = session.run(["sum"], feeds(batch))
    assert np.array_equal(again, total)


def test_wrong_names(session):
    with pytest.raises(GraphError, match="no output z; the outputs are y, sum"):
        session.run(["z"], feeds(1))
    with pytest.raises(GraphError, match="'b'"):
        session.run(None, {"x": feeds(1)["x"]})


def test_threads_of_session_options(small):
    options = SimpleNamespace(intra_op_num_threads=1)
    assert cnncc.InferenceSession(small.SerializeToString(), options).executable.program.threads == 1


def test_backend_with_mappings_arrays_and_names(small):
    prepared = Backend.prepare(small)
    expected = zoo.reference(small, feeds(2))
    by_name, by_order = prepared.run(feeds(2)), prepared.run(list(feeds(2).values()))
    for result in (by_name, by_order):
        assert_close(result.y, expected["y"], "winograd")
        assert_close(result["sum"], expected["sum"], "winograd")
    with pytest.raises(GraphError, match="takes 2 inputs"):
        prepared.run([feeds(2)["x"]])


def test_backend_compiles_for_values_that_must_be_known():
    m = model([node("Reshape", ["x", "shape"], ["y"])], [info("x", (2, 6)), info("shape", (2,), INT64)], ["y"])
    prepared = Backend.prepare(m)
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    for shape in ((3, 4), (4, 3), (-1, 12), (3, 4)):
        (y,) = prepared.run([x, np.array(shape)])
        assert np.array_equal(y, x.reshape(shape))
    assert len(prepared._compiled) == 3


def test_run_node_and_compatibility():
    x = np.array([[-1.0, 2.0]], np.float32)
    (y,) = Backend.run_node(node("LeakyRelu", ["x"], ["y"], alpha=0.5), [x])
    assert y.tolist() == [[-0.5, 2.0]]
    assert Backend.supports_device("CPU")
    assert Backend.is_compatible(conv_model())
    assert not Backend.is_compatible(model([node("Det", ["x"], ["y"])], {"x": (2, 2)}, ["y"]))
