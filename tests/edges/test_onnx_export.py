"""Graph --> ONNX: every operation of the table as ONNX Runtime computes it, and back again."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest

import cnncc
from cnncc.builder import Builder
from cnncc.edges.onnx_export import OPSET, to_onnx
from cnncc.edges.onnx_export_ops import TABLE as EXPORTS
from cnncc.edges.onnx_import import load_onnx
from cnncc.errors import GraphError, UnsupportedError
from cnncc.interpret import interpret
from cnncc.ir.dims import symbol
from cnncc.ops import TABLE
from tests import zoo
from tests.edges.onnx_models import model, node
from tests.tolerances import assert_close

pytest.importorskip("onnxruntime")

# Operations that only gradients and rewritten graphs have, by ending or name.
GRADIENT_ONLY = (
    "_dx",
    "_dw",
    "dropout_train",
    "winograd_conv",
    "winograd_weights",
    "fft_conv",
    "fft_weights",
    "adaptive_max_pool_indices",
)


def sample_graph(op, sample):
    """One operation, all results outputs."""
    b = Builder("sample")
    arrays = sample.arrays(3)
    args = [None if a is None else b.input(f"x{i}", a.shape, a.dtype) for i, a in enumerate(sample.args)]
    made = b.op(op.name, *args, **{f.name: getattr(sample.attrs, f.name) for f in dataclasses.fields(sample.attrs)})
    for i, value in enumerate(made if isinstance(made, tuple) else (made,)):
        b.output(value, f"y{i}")
    return b.finish(), {f"x{i}": a for i, a in enumerate(arrays) if a is not None}


def kind_of(array):
    return ("conv", "f64" if array.dtype == np.float64 else "f32") if array.dtype.kind in "f" else ("exact", "f32")


def same(results, expected, label):
    assert set(results) == set(expected)
    for name, e in expected.items():
        assert results[name].dtype == e.dtype, label
        assert_close(results[name], e, *kind_of(e), label=f"{label} {name}")


@pytest.mark.parametrize("name", [n for n in TABLE if not n.endswith(GRADIENT_ONLY)])
def test_every_operation(name):
    """The samples of the table: ONNX Runtime on the export, and the import of it, equal the reference."""
    op = TABLE[name]
    for k, sample in enumerate(op.samples):
        graph, feeds = sample_graph(op, sample)
        expected = interpret(graph, feeds)
        exported = to_onnx(graph)
        same(zoo.reference(exported, feeds), expected, f"{name} sample {k} in ONNX Runtime")
        same(interpret(load_onnx(exported), feeds), expected, f"{name} sample {k} imported again")


def test_all_operations_without_onnx_are_named_at_once():
    assert all(n.endswith(GRADIENT_ONLY) for n in TABLE if n not in EXPORTS)
    b = Builder()
    x, y = b.input("x", (1, 3, 8, 8)), b.input("y", (1, 4, 8, 8))
    b.output(b.op("conv_dw", x, y, kernel=(1, 1), source="weights of one"))
    b.output(b.op("conv_dw", x, y, kernel=(3, 3), pads=(1, 1, 1, 1), source="weights of two"))
    b.output(b.op("max_pool_dx", x, b.max_pool(x, kernel=(2, 2)), kernel=(2, 2), source="pool"))
    with pytest.raises(UnsupportedError) as error:
        to_onnx(b.finish())
    assert "conv_dw, 2: weights of one, weights of two" in str(error.value)
    assert "max_pool_dx, 1: pool" in str(error.value)


def small_net():
    b = Builder("net")
    rng = np.random.default_rng(0)
    x = b.input("image", ("N", 3, 8, 8))
    w = b.constant(rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "stem.weight")
    y = b.op("conv", x, w, pads=(1, 1, 1, 1), strides=(2, 2), source="stem", hint="features")
    y = b.op("relu", y, source="act", hint="active")
    y = b.op("reshape", y, shape=(x.type.shape[0], 64), source="flatten")
    m = b.constant(rng.standard_normal((64, 5)).astype(np.float32), "head.weight")
    b.output(b.op("matmul", y, m, source="head", hint="logits"))
    return b.finish()


def test_names_opset_and_symbols():
    exported = to_onnx(small_net())
    onnx.checker.check_model(exported, full_check=True)
    assert [(o.domain, o.version) for o in exported.opset_import] == [("", OPSET)]
    assert [i.name for i in exported.graph.input] == ["image"]
    assert exported.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert exported.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert {t.name for t in exported.graph.initializer} >= {"stem.weight", "head.weight"}
    assert [(n.op_type, n.name) for n in exported.graph.node] == [
        ("Conv", "stem"),
        ("Relu", "act"),
        ("Reshape", "flatten"),
        ("Gemm", "head"),
    ]
    assert exported.graph.node[0].output[0] == "features"
    assert exported.graph.node[-1].output[0] == "logits"


def test_symbolic_batch_runs_at_any_size():
    graph = small_net()
    exported = to_onnx(graph)
    for n in (1, 4):
        feeds = {"image": np.random.default_rng(n).standard_normal((n, 3, 8, 8)).astype(np.float32)}
        same(zoo.reference(exported, feeds), interpret(graph, feeds), f"batch {n}")


def test_formulas_of_symbols():
    b = Builder()
    x = b.input("x", ("N", "H", 6))
    n, h = x.type.shape[:2]
    half = b.slice(x, starts=(0, 1, 0), ends=(n, h, 6), steps=(1, 2, 1))
    b.output(half, "half")
    b.output(b.reshape(x, shape=(n * h, 2, 3)), "rows")
    b.output(b.reshape(b.expand(x, shape=(4, n, h, 6)), shape=(4 * n, h * 6)), "flat")
    graph = b.finish()
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 5, 6)).astype(np.float32)}
    same(zoo.reference(to_onnx(graph), feeds), interpret(graph, feeds), "formulas")


def test_outputs_that_are_inputs_constants_or_shared():
    b = Builder()
    x = b.input("x", (2,))
    y = b.relu(x)
    b.output(x, "same")
    b.output(b.constant(np.arange(3, dtype=np.float32), "c"), "fixed")
    b.output(y, "one")
    b.output(y, "two")
    graph = b.finish()
    feeds = {"x": np.array([-1, 2], np.float32)}
    same(zoo.reference(to_onnx(graph), feeds), interpret(graph, feeds), "outputs")


def test_names_that_collide():
    b = Builder()
    x = b.input("x", (2,))
    b.output(b.op("neg", b.op("relu", x, hint="y", source="n"), source="n"), "y")
    graph = b.finish()
    exported = to_onnx(graph)
    assert len({n.name for n in exported.graph.node}) == 2
    feeds = {"x": np.array([-1, 2], np.float32)}
    same(zoo.reference(exported, feeds), interpret(graph, feeds), "names")
    b = Builder()
    b.output(b.neg(b.input("x", (2,))), "x")
    with pytest.raises(GraphError, match="'x': inputs and outputs must have different names"):
        to_onnx(b.finish())


def test_written_file(tmp_path):
    path = tmp_path / "net.onnx"
    to_onnx(small_net(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    feeds = {"image": np.ones((2, 3, 8, 8), np.float32)}
    same(interpret(cnncc.load_onnx(path), feeds), interpret(small_net(), feeds), "file")


def test_large_weights_go_beside_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr("cnncc.edges.onnx_export._EXTERNAL_FROM", 100)
    path = tmp_path / "net.onnx"
    to_onnx(small_net(), path)
    assert (tmp_path / "net.onnx.data").exists()
    feeds = {"image": np.ones((2, 3, 8, 8), np.float32)}
    same(interpret(cnncc.load_onnx(path), feeds), interpret(small_net(), feeds), "file")
    same(zoo.reference(path, feeds), interpret(small_net(), feeds), "file in ONNX Runtime")


def test_a_network_there_and_back():
    pytest.importorskip("torch")
    net = zoo.NETS["unet"]
    path = zoo.export("unet", False, True, net.small, net.small_width)
    graph = load_onnx(path)
    again = to_onnx(graph)
    feeds = zoo.inputs("unet", 2, net.small)
    for name, expected in zoo.reference(path, feeds).items():
        assert_close(zoo.reference(again, feeds)[name], expected, "network-strict", label=name)
        assert_close(interpret(load_onnx(again), feeds)[name], expected, "network-strict", label=name)


def test_kernels_are_written_as_their_bodies():
    """What passes make of a graph can be written too: for looking at it, or for running it elsewhere."""
    from cnncc.passes import PROPOSE_KERNELS, SEPARATE_OUTPUTS, Context, run_passes
    from cnncc.targets.machine import find_target

    graph = small_net()
    proposed = run_passes(graph, [SEPARATE_OUTPUTS, PROPOSE_KERNELS], Context(find_target("avx2", 1)))
    assert any(n.body is not None for n in proposed.nodes)
    feeds = {"image": np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    same(zoo.reference(to_onnx(proposed), feeds), interpret(graph, feeds), "kernels")


def test_import_of_an_export_is_the_same_graph():
    graph = small_net()
    first = load_onnx(to_onnx(graph))
    assert str(load_onnx(to_onnx(first))) == str(first)
    assert first.inputs[0].type.shape[0] == symbol("N")


def test_onnxruntime_and_matrices_times_vectors():
    """ONNX Runtime 1.31 takes a vector beside a transposed matrix for a matrix; the export works around it."""
    x, w = np.arange(12, dtype=np.float32).reshape(4, 3), np.arange(4, dtype=np.float32)
    nodes = [node("Transpose", ["x"], ["t"], perm=[1, 0]), node("MatMul", ["t", "w"], ["y"])]
    graph = load_onnx(model(nodes, {"x": (4, 3), "w": (4,)}, ["y"]))
    feeds = {"x": x, "w": w}
    assert_close(interpret(graph, feeds)["y"], x.T @ w, "conv")
    b = Builder()
    b.output(b.matmul(b.input("x", (4, 3)), b.input("w", (4,)), transpose_x=True), "y")
    assert_close(zoo.reference(to_onnx(b.finish()), feeds)["y"], x.T @ w, "conv")
