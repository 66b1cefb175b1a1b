"""Worked examples from lectures, on the public API: sizes, strides, parameters and receptive fields of layers.

docs/lectures.md has the formula of each.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import cnncc
from cnncc import nn
from cnncc.check import check
from cnncc.cli import group
from cnncc.errors import GraphError
from cnncc.filters import receptive_field
from cnncc.interpret import interpret
from cnncc.parameters import count_parameters
from tests.lectures import layer, random, run

# -- sizes and strides -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stride", "out"), [(1, 5), (2, 3)])
def test_seven_by_seven(stride, out):
    graph = layer(7, 3, stride)
    assert graph.outputs[0].type.shape == (1, 1, out, out)
    assert not check(graph).findings


def test_seven_by_seven_with_stride_three_drops_pixels():
    graph = layer(7, 3, 3)
    assert graph.outputs[0].type.shape == (1, 1, 2, 2)
    finding, _ = check(graph).findings
    assert (finding.rule, finding.node) == ("window-does-not-tile", "0")
    assert finding.numbers["dropped"] == 1
    x = random(1, 1, 7, 7)
    changed = x.copy()
    changed[..., 6, :] += 1
    changed[..., :, 6] += 1
    w = random(1, 1, 3, 3, seed=1)
    a, b = (run(lambda b, x, w: b.conv(x, w, strides=3), each, w) for each in (x, changed))
    assert np.array_equal(a, b), "the last row and column are never read"


def test_four_and_a_half_places():
    """I = 10, F = 3, S = 2, P = 0: (10 - 3) / 2 + 1 = 4.5, and check says so."""
    findings = check(layer(10, 3, 2)).findings
    assert [f.numbers["places"] for f in findings] == [4.5, 4.5]
    assert "(10 - 3 + 0 + 0) / 2 + 1 = 4.5; the last 1 of 10 is never read" in findings[0].message


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_a_strided_convolution_is_the_subsampled_one(stride):
    x, w = random(2, 3, 11, 13), random(4, 3, 3, 3, seed=1)
    strided = run(lambda b, x, w: b.conv(x, w, strides=stride, pads=1), x, w, compiled=True)
    dense = run(lambda b, x, w: b.conv(x, w, pads=1), x, w)
    assert np.array_equal(strided, dense[..., ::stride, ::stride])


# -- parameters --------------------------------------------------------------------------------------------------------


def test_ten_filters_on_a_colour_image():
    graph = layer(32, 5, pad=2, channels=3, filters=10)
    assert graph.outputs[0].type.shape == (1, 10, 32, 32)
    (row,) = count_parameters(graph)
    assert row.shared == 760 == sum(p.numel() for p in nn.Conv2d(3, 10, 5).parameters())


def test_the_first_layer_of_alexnet():
    graph = layer(227, 11, 4, channels=3, filters=96)
    assert graph.outputs[0].type.shape == (1, 96, 55, 55)
    assert not check(graph).findings
    (row,) = count_parameters(graph)
    assert (row.shared, row.local) == (34_944, 105_705_600)
    assert row.dense == (227 * 227 * 3 + 1) * 55 * 55 * 96


def test_a_dense_layer_on_a_colour_image():
    b = cnncc.Builder()
    x, w = b.input("x", (1, 3, 200, 200)), b.input("w", (200 * 200 * 3, 1000))
    b.output(b.matmul(b.reshape(x, shape=(1, -1)), w))
    (row,) = count_parameters(b.finish())
    assert row.shared == 120_000_000


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.LocallyConnected1d(2, 3, 9, 3, stride=2), (2, 9)),
        (lambda: nn.LocallyConnected2d(2, 3, (6, 7), 3, padding=1), (2, 6, 7)),
    ],
)
def test_locally_connected_layers(make, shape):
    """With the same filter at every place they are convolutions; their parameters are those that `local` says."""
    nn.manual_seed(0)
    net = nn.Sequential(make())
    graph = nn.trace(net, {"x": (1, *shape)})
    (row,) = count_parameters(graph)
    assert row.shared == row.local == sum(p.numel() for p in net.parameters())
    local = net[0]
    w = random(3, 2, *local.kernel_size)
    places = local.weight.data.shape[: w.ndim - 2]
    net.load_state_dict({"0.weight": np.broadcast_to(w, (*places, *w.shape)), "0.bias": local.bias.data * 0})
    x = random(1, *shape, seed=2)
    y = cnncc.compile(net, shapes={"x": (1, *shape)}, threads=1)(x)
    shared = run(lambda b, x, w: b.conv(x, w, strides=local.stride, pads=local.padding), x, w)
    assert np.array_equal(y, shared)
    conv = nn.trace(nn.Sequential(getattr(nn, f"Conv{w.ndim - 2}d")(2, 3, 3, local.stride, local.padding)), (1, *shape))
    assert count_parameters(conv)[0].local == row.local


def test_inspect_compares_dense_local_and_shared(tmp_path: Path):
    file = tmp_path / "net.onnx"
    cnncc.to_onnx(layer(32, 5, pad=2, channels=3, filters=10), file)
    result = CliRunner().invoke(group, ["inspect", str(file)])
    assert result.exit_code == 0, result.output
    table = result.output
    assert all(n in table for n in ("locally connected", "dense", "760", f"{76 * 10 * 32 * 32:,}"))
    (row,) = json.loads(CliRunner().invoke(group, ["inspect", str(file), "--json"]).output)["layers"]
    assert (row["shared"], row["local"], row["dense"]) == (760, 778_240, (3 * 32 * 32 + 1) * 10 * 32 * 32)


# -- receptive fields --------------------------------------------------------------------------------------------------


def dilated(count: int) -> nn.Module:
    return nn.Sequential(*(nn.Conv1d(1, 1, 3, dilation=2**k) for k in range(count)))


@pytest.mark.parametrize(("layers", "field"), [(1, 3), (2, 7), (3, 15), (4, 31)])
def test_dilations_double_the_receptive_field(layers, field):
    graph = nn.trace(dilated(layers), {"x": (1, 1, 64)})
    assert receptive_field(graph).size == (field,)
    assert receptive_field(graph).stride == (1,)


NETS = {
    "dilated": (lambda: dilated(4), (40,)),
    "strides and pads": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 1, (3, 2))), (22, 19)
    ),
    "pad and average": (lambda: nn.Sequential(nn.ZeroPad2d((2, 1, 0, 3)), nn.AvgPool2d(3, 2), nn.Tanh()), (9, 8)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_receptive_fields_are_what_outputs_depend_on(name):
    """By brute force: the pixels whose change changes an element of the output."""
    make, size = NETS[name]
    nn.manual_seed(1)
    graph = nn.trace(make().eval(), {"x": ("N", 1, *size)})
    field = receptive_field(graph)
    count = int(np.prod(size))
    base = np.random.default_rng(0).standard_normal((1, 1, *size)).astype(np.float32)
    changed = base + 100 * np.eye(count, dtype=np.float32).reshape(count, 1, *size)
    results = interpret(graph, {"x": np.concatenate([base, changed])})["output"]
    for at in np.ndindex(*results.shape[2:]):
        depends = (results[1:, 0] != results[0, 0])[(slice(None), *at)].reshape(size)
        for axis, o in enumerate(at):
            first = field.start[axis] + o * field.stride[axis]
            pixels = np.nonzero(depends.any(axis=tuple(a for a in range(len(size)) if a != axis)))[0]
            assert pixels.min() >= max(first, 0)
            assert pixels.max() <= min(first + field.size[axis], size[axis]) - 1
            if name == "dilated":  # no maximum hides a pixel, no row of padding empties a window
                assert (pixels.min(), pixels.max()) == (first, first + field.size[axis] - 1)


def test_receptive_fields_of_branches_and_dense_layers():
    b = cnncc.Builder()
    x = b.input("x", (1, 1, 16, 16))
    wide, narrow = (b.conv(x, random(1, 1, k, k), pads="same", hint=f"k{k}") for k in (7, 3))
    both = b.concat(wide, narrow, axis=1)
    b.output(narrow, "narrow")
    b.output(both, "both")
    b.output(b.mul(both, b.sigmoid(b.reduce_mean(both, axes=(2, 3), keepdims=True))), "gated")
    b.output(b.constant(1.0), "one")
    graph = b.finish()
    assert receptive_field(graph).size == (3, 3)
    assert receptive_field(graph, "both").start == (-3, -3)
    assert receptive_field(graph, "gated").size == (16, 16)
    with pytest.raises(GraphError, match="does not depend on input 'x'"):
        receptive_field(graph, "one")
    with pytest.raises(GraphError, match="there is no output 'z'; there are narrow, both, gated, one"):
        receptive_field(graph, "z")
