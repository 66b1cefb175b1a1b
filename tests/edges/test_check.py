"""`check`: what is supported, lints with their numbers, counts; and the op table as rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import TensorProto, helper

from cnncc.builder import Builder
from cnncc.check import check, macs_of, onnx_operators, op_rows
from cnncc.edges.onnx_import.table import STANDARD
from cnncc.errors import ModelFileError
from cnncc.ops import TABLE
from tests import zoo
from tests.edges.onnx_models import conv_model, info, model, node


def conv(size, kernel, stride=1, pad=0, channels=(3, 8), **attributes):
    """A model of one convolution "conv" on a square image."""
    w = np.zeros((channels[1], channels[0], kernel, kernel), np.float32)
    nodes = [node("Conv", ["x", "w"], ["y"], name="conv", strides=[stride] * 2, pads=[pad] * 4, **attributes)]
    return model(nodes, {"x": (1, channels[0], size, size)}, ["y"], {"w": w})


def findings(source, rule):
    return [f for f in check(source).findings if f.rule == rule]


# -- windows -----------------------------------------------------------------------------------------------------------


def test_a_window_that_does_not_tile_is_named_with_its_numbers():
    """I = 10, F = 3, S = 2, P = 0: (10 - 3 + 0) / 2 + 1 = 4.5."""
    found = findings(conv(10, 3, 2), "window-does-not-tile")
    assert len(found) == 2  # both axes
    height = found[0]
    assert height.node == "conv"
    assert height.severity == "warning"
    assert "'conv': the windows do not tile the height: (10 - 3 + 0 + 0) / 2 + 1 = 4.5" in height.message
    assert "the last 1 of 10 is never read" in height.message
    assert {k: height.numbers[k] for k in ("input", "window", "stride", "places", "dropped")} == {
        "input": 10, "window": 3, "stride": 2, "places": 4.5, "dropped": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad", "dropped"),
    [
        (7, 3, 1, 0, 0),
        (7, 3, 2, 0, 0),
        (7, 3, 3, 0, 1),  # the lecture's example: stride 3 does not fit
        (227, 11, 4, 0, 0),  # AlexNet: 55 x 55
        (224, 7, 2, 3, 0),  # ResNet: 112.5, though what is left over is padding
        (32, 5, 1, 2, 0),
        (12, 5, 5, 0, 2),
    ],
)
def test_dropped_pixels(size, kernel, stride, pad, dropped):
    found = findings(conv(size, kernel, stride, pad), "window-does-not-tile")
    assert {f.numbers["dropped"] for f in found} == ({dropped} if dropped else set())


def test_dilation_counts_and_ceil_mode_reads_all():
    assert findings(conv(10, 3, 2, dilations=[2, 2]), "window-does-not-tile")[0].numbers["window"] == 5
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    for ceil in (0, 1):
        m = model([node("MaxPool", ["x"], ["y"], name="pool", ceil_mode=ceil, **pool)], {"x": (1, 3, 7, 7)}, ["y"])
        assert bool(findings(m, "window-does-not-tile")) == (not ceil)


def test_gaps_between_windows():
    (gap,) = findings(conv(8, 1, 2), "window-leaves-gaps")
    assert gap.severity == "note"
    assert "stride 2x2 is larger than the window 1x1: only 25% of the input is read" in gap.message
    assert not findings(conv(8, 1, 2), "window-does-not-tile")


def test_symbolic_sizes_are_left_alone():
    m = model([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])], {"x": ("N", 3, "H", "W")}, ["y"])
    assert check(m).ok
    assert not check(m).findings


# -- channels, names ---------------------------------------------------------------------------------------------------


def test_channels_that_fill_no_vector():
    (found,) = findings(conv(8, 3, channels=(3, 20)), "channels-not-blocked")
    assert "20 output channels are no multiple of 8 or 16" in found.message
    assert "24 would cost the same" in found.message
    assert not findings(conv(8, 3, channels=(3, 16)), "channels-not-blocked")
    assert not findings(conv(8, 3, channels=(20, 16)), "channels-not-blocked")  # the image's channels are what they are


def test_unused_inputs_initializers_and_nodes():
    nodes = [node("Relu", ["x"], ["y"], name="live"), node("Neg", ["x"], ["z"], name="dead"), node("Abs", ["z"], ["q"])]
    m = model(nodes, {"x": (2,), "idle": (3,)}, ["y"], {"w": np.ones(2, np.float32)})
    report = check(m)
    assert report.ok
    assert {(f.rule, f.message) for f in report.findings} == {
        ("unused-input", "input 'idle' is not used by any node"),
        ("unused-initializer", "initializer 'w' is not used by any node"),
        ("dead-node", "Neg 'dead' computes nothing that an output needs"),
        ("dead-node", "Abs 'q' computes nothing that an output needs"),
    }


def test_values_used_in_branches_count_as_used():
    graph = helper.make_graph([node("Add", ["x", "w"], ["r"])], "g", [], [info("r", None)])
    m = model([node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)], {"x": (2,)}, ["y"],
              {"c": np.array(True), "w": np.ones(2, np.float32)})  # fmt: skip
    assert not check(m).findings


# -- support -----------------------------------------------------------------------------------------------------------


def test_unsupported_operators():
    nodes = [node("Det", ["x"], ["a"], name="one"), node("Unique", ["a"], ["y"], name="two")]
    report = check(model(nodes, {"x": (3, 3)}, ["y"]))
    assert not report.ok
    assert [(u.op, u.node, u.opset) for u in report.unsupported] == [("Det", "one", 17), ("Unique", "two", 17)]
    assert report.operators == {"Det": 1, "Unique": 1}
    assert report.macs is None


def test_shapes_that_do_not_fit_are_in_the_report():
    report = check(model([node("Conv", ["x", "w"], ["y"], name="c")], {"x": (1, 3, 8, 8)}, ["y"],
                         {"w": np.ones((4, 5, 3, 3), np.float32)}))  # fmt: skip
    assert not report.ok
    assert "Conv 'c'" in report.error
    report = check(model([node("Relu", ["x"], ["y"])], [info("x", (2,), TensorProto.STRING)], ["y"]))
    assert "element type STRING" in report.error


def test_shapes_fix_symbols():
    m = model([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])], {"x": ("N", 3, "H", "W")}, ["y"])
    report = check(m, {"x": (1, 3, 9, 8)})
    assert report.outputs[0].shape == (1, 3, 4, 4)
    assert [f.numbers["input"] for f in report.findings] == [9]


def test_what_is_no_model():
    with pytest.raises(ModelFileError):
        check(b"nothing")


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_parameters_and_multiply_adds():
    """32x32x3, ten 5x5 filters, stride 1, pad 2: 32x32x10 and 760 parameters."""
    b = Builder()
    x = b.input("x", (1, 3, 32, 32))
    w, bias = b.constant(np.zeros((10, 3, 5, 5), np.float32)), b.constant(np.zeros((10, 1, 1), np.float32))
    b.output(b.add(b.conv(x, w, pads=2), bias), "y")
    report = check(b.finish())
    assert report.parameters == 760
    assert report.macs == 32 * 32 * 10 * 75
    assert report.outputs[0].shape == (1, 10, 32, 32)
    assert [(n.op, n.parameters) for n in report.layers] == [("conv", 750), ("add", 10)]


def test_numbers_of_a_network():
    pytest.importorskip("torch")
    net = zoo.NETS["lenet5"]
    report = check(zoo.export("lenet5", False, True, net.small))
    module = zoo.build("lenet5")
    assert report.parameters == sum(p.numel() for p in module.parameters())
    assert str(report.macs).endswith("*batch")
    assert report.inputs[0].shape == ("batch", 1, 28, 28)
    assert report.ok


def test_statistics_are_buffers():
    b = Builder()
    x = b.input("x", ("N", 4, 2, 2))
    b.output(b.batch_norm(x, *(b.constant(np.ones(4, np.float32)) for _ in range(4))), "y")
    report = check(b.finish())
    assert (report.parameters, report.buffers) == (8, 8)


def test_shared_weights_count_once():
    b = Builder()
    x, w = b.input("x", (2, 4)), b.constant(np.ones((4, 4), np.float32))
    b.output(b.matmul(b.matmul(x, w), w), "y")
    report = check(b.finish())
    assert report.parameters == 16
    assert report.macs == 2 * 2 * 16


def test_multiply_adds_of_each_kind():
    b = Builder()
    x = b.input("x", (2, 4, 8, 8))
    grouped = b.conv(x, b.constant(np.ones((6, 2, 3, 3), np.float32)), groups=2)
    up = b.conv_transpose(x, b.constant(np.ones((4, 3, 2, 2), np.float32)), strides=2)
    local = b.locally_connected(x, b.constant(np.ones((4, 4, 5, 4, 2, 2), np.float32)), strides=2)
    product = b.matmul(b.input("a", (7, 3)), b.input("c", (7, 5)), transpose_x=True)
    counts = [macs_of(v.node) for v in (grouped, up, local, product)]
    assert counts == [2 * 6 * 36 * 18, 2 * 4 * 64 * 12, 2 * 5 * 16 * 16, 3 * 5 * 7]


# -- machine-readable --------------------------------------------------------------------------------------------------


def test_the_report_is_plain_data():
    report = check(conv(10, 3, 2))
    data = json.loads(json.dumps(report.to_dict()))
    assert data["ok"] is True
    assert data["opsets"] == {"ai.onnx": 17}
    assert data["operators"] == {"Conv": 1}
    assert data["inputs"] == [{"name": "x", "shape": [1, 3, 10, 10], "dtype": "f32"}]
    assert data["findings"][0]["numbers"]["places"] == 4.5
    assert json.dumps(check(conv_model()).to_dict())


def test_rows_of_the_op_table():
    rows = {r.name: r for r in op_rows()}
    assert list(rows) == list(TABLE)
    assert rows["conv"].operands == ("x", "w")
    assert rows["conv"].attributes["groups"] == "1"
    assert rows["conv"].gradient == "yes"
    assert rows["conv"].lowering == "definition"
    assert rows["conv"].onnx == "Conv"
    assert rows["silu"].onnx == "Sigmoid, Mul"
    assert rows["silu"].lowering == "formula"
    assert rows["pad"].lowering == "element"
    assert rows["argmax"].gradient == "the result is an index"
    assert rows["conv_dw"].onnx == ""
    assert all(r.doc for r in rows.values())


def test_list_of_onnx_operators():
    names = onnx_operators()
    assert names == sorted(names)
    assert set(STANDARD) <= set(names)
    assert {"Conv", "Attention"} <= set(names)
