"""Weights found in the bytes of a model: together with the rest they are what protobuf reads."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from cnncc.edges import onnx_wire
from cnncc.edges.onnx_import import load_onnx
from cnncc.edges.onnx_reader import read_model
from cnncc.edges.onnx_wire import LEAST, cut_weights
from cnncc.errors import CnnccError
from tests.edges.onnx_models import info, model, node


def large(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


CONSTANTS = {
    "small": np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1),
    "w": large(0, 4, 3, 15, 15),
    "shape": np.array([0, -1]),
    "m": large(1, 16, 400),
}


def network():
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="conv", pads=[7, 7, 7, 7]),
        node("Add", ["a", "small"], ["b"]),
        node("Reshape", ["b", "shape"], ["r"]),
        node("MatMul", ["r", "m2"], ["y"]),
        node("Transpose", ["m"], ["m2"], perm=[1, 0]),
    ]
    return model(nodes, [info("x", (1, 3, 10, 10))], ["y"], CONSTANTS)


def whole(data):
    """What a message and the weights that it is without come to."""
    message, weights = cut_weights(memoryview(data))
    proto = onnx.ModelProto.FromString(message)
    for k, raw in weights.items():
        assert not proto.graph.initializer[k].HasField("raw_data")
        proto.graph.initializer[k].raw_data = raw.tobytes()
    return proto, weights


def test_large_weights_are_cut_out_and_the_rest_stays():
    data = network().SerializeToString()
    proto, weights = whole(data)
    assert proto == onnx.ModelProto.FromString(data)
    names = [t.name for t in proto.graph.initializer]
    assert {names[k] for k in weights} == {n for n, a in CONSTANTS.items() if a.nbytes >= LEAST} == {"w", "m"}


@pytest.mark.parametrize("as_file", [False, True])
def test_weights_stay_where_they_were_read(tmp_path, as_file):
    data = network().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data)
    file = read_model(tmp_path / "m.onnx" if as_file else data)
    assert len(file.proto.SerializeToString()) < len(data) - CONSTANTS["w"].nbytes
    graph = load_onnx(tmp_path / "m.onnx" if as_file else data)
    found = {v.name: v.data for v in graph.constants}
    for name in ("w", "m"):
        np.testing.assert_array_equal(found[name], CONSTANTS[name])
        assert not found[name].flags.owndata
        assert not found[name].flags.writeable
    if not as_file:
        assert np.shares_memory(found["w"], np.frombuffer(data, np.uint8))


def test_graphs_that_protobuf_merges():
    """A field of one message that comes twice is merged: lists are joined."""
    more = onnx.ModelProto()
    more.graph.initializer.append(numpy_helper.from_array(large(2, 64, 64), "more"))
    data = network().SerializeToString() + more.SerializeToString()
    proto, weights = whole(data)
    assert proto == onnx.ModelProto.FromString(data)
    assert set(weights) == {1, 3, 4}


def test_a_tensor_with_its_elements_twice_is_left_to_protobuf():
    tensor = numpy_helper.from_array(large(3, 64, 64), "t")
    second = onnx.TensorProto(raw_data=large(4, 64, 64).tobytes())
    graph = onnx.GraphProto(name="g").SerializeToString()
    twice = tensor.SerializeToString() + second.SerializeToString()
    graph += b"\x2a" + onnx_wire._varint(len(twice)) + twice
    data = b"\x3a" + onnx_wire._varint(len(graph)) + graph
    proto, weights = whole(data)
    assert not weights
    np.testing.assert_array_equal(numpy_helper.to_array(proto.graph.initializer[0]), large(4, 64, 64))


def test_elements_of_another_length_are_refused():
    damaged = network()
    damaged.graph.initializer[1].raw_data += b"1234"
    with pytest.raises(CnnccError, match=r"tensor 'w': float32 of shape \[4, 3, 15, 15\] takes 10800 bytes, got 10804"):
        load_onnx(damaged.SerializeToString())


def outcome(data):
    try:
        return str(load_onnx(data))
    except CnnccError as error:
        return f"{type(error).__name__}: {error}"


def test_damage_is_found_as_without_cutting(monkeypatch):
    """Flipped and missing bytes come to the same graph or the same error, whoever reads the weights."""
    weights = {"w": large(5, 4, 3, 3, 3), "b": large(6, 4)}
    nodes = [node("Conv", ["x", "w", "b"], ["y"], name="conv", pads=[1, 1, 1, 1])]
    data = model(nodes, [info("x", (1, 3, 8, 8))], ["y"], weights).SerializeToString()
    rng = random.Random(0)
    cases = [data[:end] for end in range(1, len(data), 5)]
    for _ in range(600):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] = rng.choice((0, 255, rng.randrange(256)))
        cases.append(bytes(damaged))
    monkeypatch.setattr(onnx_wire, "LEAST", 1 << 40)
    expected = list(map(outcome, cases))
    monkeypatch.setattr(onnx_wire, "LEAST", 1)
    assert list(map(outcome, cases)) == expected
    assert len(set(expected)) > 20


def test_groups_are_left_to_protobuf():
    data = helper.make_model(helper.make_graph([], "g", [], [])).SerializeToString() + b"\x0b\x0c"
    assert cut_weights(memoryview(data)) == (data, {})
