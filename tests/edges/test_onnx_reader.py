"""Model files as hostile input: every one of these ends in a ModelFileError that names the file and the rule."""

from __future__ import annotations

import os
import random
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnncc.edges.onnx_import import import_model, load_onnx
from cnncc.edges.onnx_limits import Limits
from cnncc.edges.onnx_reader import read_model
from cnncc.edges.onnx_tensors import to_array
from cnncc.errors import CnnccError, ModelFileError, UnsupportedError
from cnncc.interpret import interpret
from tests.edges.onnx_models import conv_model, info, model, node


def refused(source, match):
    with pytest.raises(ModelFileError, match=match):
        load_onnx(source)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "the file is empty"),
        (b"hello, world, this is no model", "not an ONNX model"),
        (b"PK\x03\x04" + bytes(100), "zip archive"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"ORTM" + bytes(40), "ONNX Runtime"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(40), "TensorFlow Lite"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"<?xml version='1.0'?><net/>", "OpenVINO"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!doctype html><html>", "HTML"),
        (numpy_helper.from_array(np.ones(3, np.float32)).SerializeToString(), "not an ONNX model"),
    ],
)
def test_other_kinds_of_files(tmp_path, data, match):
    path = tmp_path / "thing.onnx"
    path.write_bytes(data)
    refused(path, match)
    refused(path, "thing.onnx")
    refused(data, match)


def test_truncated_anywhere():
    data = conv_model(pads=[1, 1, 1, 1]).SerializeToString()
    whole = load_onnx(data)
    for end in range(0, len(data), 7):
        try:
            graph = load_onnx(data[:end])
        except CnnccError:
            continue
        assert str(graph) == str(whole), f"{end} of {len(data)} bytes gave another graph"


def test_missing_file_and_folder(tmp_path):
    refused(tmp_path / "none.onnx", "none.onnx: cannot be read: No such file")
    refused(tmp_path, "cannot be read|regular file")


def test_not_a_model_object():
    with pytest.raises(ModelFileError, match=r"path, bytes or onnx\.ModelProto, got builtins\.int"):
        load_onnx(3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_device_files_are_refused():
    refused("/dev/zero", "regular file")


def test_without_opset_graph_or_outputs():
    m = conv_model()
    del m.opset_import[:]
    refused(m, "opset")
    m = conv_model()
    del m.graph.output[:]
    refused(m, "no outputs")
    m = conv_model()
    m.ClearField("graph")
    refused(m, "no graph")


def test_old_opset():
    m = conv_model()
    m.opset_import[0].version = 6
    with pytest.raises(UnsupportedError, match="opset must be at least 7, got 6"):
        load_onnx(m)


# -- structure ---------------------------------------------------------------------------------------------------------


def test_cycle_names_its_nodes():
    nodes = [
        node("Relu", ["x"], ["a"], name="first"),
        node("Add", ["a", "d"], ["b"], name="one"),
        node("Neg", ["b"], ["c"], name="two"),
        node("Abs", ["c"], ["d"], name="three"),
    ]
    with pytest.raises(ModelFileError, match="cycle") as error:
        load_onnx(model(nodes, {"x": (2,)}, ["d"]))
    assert all(name in str(error.value) for name in ("'one'", "'two'", "'three'"))
    assert "'first'" not in str(error.value)


def test_self_cycle():
    refused(model([node("Add", ["x", "y"], ["y"], name="loop")], {"x": (2,)}, ["y"]), "cycle.*'loop'")


def test_nodes_out_of_order_are_sorted():
    nodes = [node("Neg", ["a"], ["y"]), node("Relu", ["x"], ["a"])]
    graph = load_onnx(model(nodes, {"x": (2,)}, ["y"]))
    assert [n.op for n in graph.nodes] == ["relu", "neg"]


def test_value_defined_twice():
    nodes = [node("Relu", ["x"], ["y"], name="one"), node("Neg", ["x"], ["y"], name="two")]
    refused(model(nodes, {"x": (2,)}, ["y"]), "'two'.*got 'y' twice")
    refused(model([node("Relu", ["x"], ["x"], name="one")], {"x": (2,)}, ["x"]), "got 'x' twice")


def test_undefined_input_and_output():
    refused(model([node("Relu", ["nowhere"], ["y"], name="r")], {"x": (2,)}, ["y"]), "Relu 'r' reads 'nowhere'")
    refused(model([node("Relu", ["x"], ["y"])], {"x": (2,)}, ["z"]), "nothing defines the output 'z'")


def test_subgraphs_nested_too_deep():
    last = graph = helper.make_graph([node("Identity", ["x"], ["y"])], "g", [], [onnx.ValueInfoProto(name="y")])
    for _ in range(25):
        branch = node("If", ["c"], ["y"], then_branch=graph, else_branch=last)
        graph = helper.make_graph([branch], "g", [], [onnx.ValueInfoProto(name="y")])
    refused(model(graph.node, {"x": (2,)}, ["y"], {"c": np.array(True)}), "nest 16 deep")


def test_function_that_calls_itself():
    body = [helper.make_node("F", ["a"], ["b"], domain="own")]
    f = helper.make_function("own", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    m = model([node("F", ["x"], ["y"], domain="own")], {"x": (2,)}, ["y"], functions=[f], domains={"own": 1})
    with pytest.raises(UnsupportedError, match="calls itself"):
        load_onnx(m)


def test_functions_that_double_each_other_stop_at_the_limit():
    functions, opsets = [], [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for k in range(15):
        target = ("Relu", "") if k == 0 else (f"F{k - 1}", "own")
        body = []
        for i in range(8):
            body.append(helper.make_node(target[0], [f"v{i}"], [f"v{i + 1}"], domain=target[1]))
        functions.append(helper.make_function("own", f"F{k}", ["v0"], ["v8"], body, opsets))
    m = model([node("F14", ["x"], ["y"], domain="own")], {"x": (2,)}, ["y"], functions=functions, domains={"own": 1})
    file = read_model(m, Limits(nodes=2000))
    with pytest.raises(ModelFileError, match="may have 2000 nodes"):
        import_model(file)


@pytest.mark.parametrize("op", ["Conv", "MaxPool", "Gemm", "Reshape", "Concat", "Softmax", "Resize"])
def test_too_few_inputs(op):
    with pytest.raises(CnnccError, match=f"{op} 'n'"):
        load_onnx(model([node(op, [], ["y"], name="n")], {"x": (1, 3, 8, 8)}, ["y"]))


def test_attribute_of_the_wrong_kind():
    m = conv_model()
    m.graph.node[0].attribute.append(helper.make_attribute("strides", "two"))
    refused(m, "'conv': attribute strides has the wrong kind")


def test_names_that_are_no_text():
    data = conv_model().SerializeToString()
    refused(data.replace(b"conv", b"\xff\xfe\xfd\xfc", 1), "names must be text|not an ONNX model")


# -- tensors -----------------------------------------------------------------------------------------------------------


def with_initializer(tensor):
    m = model([node("Add", ["x", "w"], ["y"])], {"x": (2, 3)}, ["y"])
    m.graph.initializer.append(tensor)
    return m


def test_too_many_dimensions_and_bytes():
    refused(with_initializer(TensorProto(name="w", data_type=1, dims=[1] * 20, raw_data=bytes(4))), "rank may be 16")
    refused(with_initializer(TensorProto(name="w", data_type=1, dims=[2**50])), "dimensions must be from 0")
    refused(with_initializer(TensorProto(name="w", data_type=1, dims=[-2, -3])), "dimensions must be from 0")
    huge = TensorProto(name="w", data_type=1, dims=[2**20, 2**20])
    refused(with_initializer(huge), "constants may take")


def test_raw_data_of_another_length():
    tensor = TensorProto(name="w", data_type=1, dims=[2, 3], raw_data=bytes(20))
    refused(with_initializer(tensor), r"'w': float32 of shape \[2, 3\] takes 24 bytes, got 20")
    tensor = TensorProto(name="w", data_type=1, dims=[2, 3], float_data=[1.0] * 5)
    refused(with_initializer(tensor), "needs 6 elements in float_data, got 5")


def test_constant_of_shape_does_not_take_memory():
    nodes = [node("ConstantOfShape", ["s"], ["c"]), node("Add", ["x", "c"], ["y"])]
    m = model(nodes, {"x": (1,)}, ["y"], {"s": np.array([2**20, 2**20])})
    start = time.perf_counter()
    refused(m, "constants may take")
    assert time.perf_counter() - start < 5


SUPPORTED = (
    "FLOAT",
    "DOUBLE",
    "FLOAT16",
    "BFLOAT16",
    "BOOL",
    *(f"{u}INT{b}" for u in ("", "U") for b in (8, 16, 32, 64)),
)


@pytest.mark.parametrize("code", sorted(TensorProto.DataType.values()))
def test_every_element_type(code):
    name = TensorProto.DataType.Name(code)
    if name not in SUPPORTED:
        tensor = TensorProto(name="w", data_type=code, dims=[2])
        with pytest.raises(UnsupportedError, match=f"element type {name} is not supported"):
            load_onnx(with_initializer(tensor))
        return
    values = np.array([0, 1, 3, 1]).astype(helper.tensor_dtype_to_np_dtype(code))
    typed = helper.make_tensor("w", code, [2, 2], values.tolist())
    file = read_model(conv_model())
    for tensor in (typed, numpy_helper.from_array(values.reshape(2, 2), "w")):
        got = to_array(file, tensor)
        assert got.dtype == values.dtype
        assert np.array_equal(got, values.reshape(2, 2))


def test_sparse_initializer():
    values = numpy_helper.from_array(np.array([5, 7], np.float32), "w")
    indices = numpy_helper.from_array(np.array([[0, 1], [1, 2]], np.int64), "i")
    m = model([node("Add", ["x", "w"], ["y"])], {"x": (2, 3)}, ["y"])
    m.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 3]))
    y = interpret(load_onnx(m), {"x": np.zeros((2, 3), np.float32)})["y"]
    assert y.tolist() == [[0, 5, 0], [0, 0, 7]]
    m.graph.sparse_initializer[0].indices.CopyFrom(numpy_helper.from_array(np.array([0, 6], np.int64), "i"))
    refused(m, "indices must be one for each value, inside shape")


# -- external data -----------------------------------------------------------------------------------------------------


def external(folder, location="w.bin", **entries):
    """A model whose weights are 24 bytes in another file, and that file."""
    tensor = TensorProto(name="w", data_type=1, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    path = folder / "model.onnx"
    path.write_bytes(with_initializer(tensor).SerializeToString())
    return path


WEIGHTS = np.arange(6, dtype=np.float32)


def test_external_data(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(bytes(8) + WEIGHTS.tobytes())
    path = external(tmp_path, "sub/w.bin", offset=8, length=24)
    y = interpret(load_onnx(path), {"x": np.zeros((2, 3), np.float32)})["y"]
    assert np.array_equal(y.reshape(-1), WEIGHTS)
    refused(path.read_bytes(), "give the model as a path")


@pytest.mark.parametrize("location", ["../w.bin", "sub/../../w.bin", "/etc/passwd", "", "a\0b"])
def test_external_data_outside_the_folder(tmp_path, location):
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    refused(external(folder, location), "relative path inside the model's folder")


def test_external_data_through_a_link(tmp_path):
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(WEIGHTS.tobytes())
    (folder / "w.bin").symlink_to(tmp_path / "secret.bin")
    refused(external(folder), "leads out of the model's folder")
    (folder / "up").symlink_to(tmp_path)
    refused(external(folder, "up/secret.bin"), "leads out of the model's folder")


def test_external_data_in_the_cache_of_hugging_face(tmp_path):
    """snapshots/x/model.onnx and its data are links into blobs/."""
    (tmp_path / "blobs").mkdir()
    snapshot = tmp_path / "snapshots" / "x"
    snapshot.mkdir(parents=True)
    external(snapshot).rename(tmp_path / "blobs" / "abc")
    (tmp_path / "blobs" / "def").write_bytes(WEIGHTS.tobytes())
    (snapshot / "model.onnx").symlink_to(tmp_path / "blobs" / "abc")
    (snapshot / "w.bin").symlink_to(tmp_path / "blobs" / "def")
    assert load_onnx(snapshot / "model.onnx").constants[0].data.sum() == 15


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"length": 20}, "length must be 24 bytes"),
        ({"length": 2**60}, "length must be 24 bytes"),
        ({"offset": -4}, "offset of at least 0"),
        ({"offset": 8}, "needs bytes 8 to 32 of 'w.bin', which has 24"),
        ({"offset": "x"}, "must be integers"),
    ],
)
def test_external_data_of_another_size(tmp_path, entries, match):
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    refused(external(tmp_path, **entries), match)


def test_external_data_missing_or_no_file(tmp_path):
    refused(external(tmp_path), "'w.bin' cannot be read")
    (tmp_path / "w.bin").mkdir()
    refused(external(tmp_path), "regular file|cannot be read")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        refused(external(tmp_path, "pipe"), "regular file|cannot be read")


# -- damage ------------------------------------------------------------------------------------------------------------


def test_damaged_bytes_never_crash():
    """Flipped bytes: a model, or one of our errors; nothing else."""
    weights = np.ones((4, 3, 3, 3), np.float32)
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Shape", ["a"], ["s"]),
        node("Gather", ["s", "zero"], ["b"]),
        node("Concat", ["b", "rest"], ["t"], axis=0),
        node("Reshape", ["a", "t"], ["r"]),
        node("Gemm", ["r", "m"], ["y"], transB=1),
    ]
    constants = {"w": weights, "zero": np.array([0]), "rest": np.array([-1]), "m": np.ones((2, 64), np.float32)}
    data = model(nodes, [info("x", ("N", 3, 8, 8))], ["y"], constants).SerializeToString()
    rng = random.Random(0)
    outcomes = {"graph": 0, "error": 0}
    for _ in range(1500):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 1, 3))):
            damaged[rng.randrange(len(data))] = rng.choice((0, 255, rng.randrange(256)))
        try:
            load_onnx(bytes(damaged))
            outcomes["graph"] += 1
        except CnnccError:
            outcomes["error"] += 1
    assert min(outcomes.values()) > 100
