"""Whole networks: what `cnncc.compile` makes of an ONNX file equals ONNX Runtime.

Networks of tests/zoo at sizes that still show every layer; the paper's sizes are marked slow.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import cnncc
from tests import zoo
from tests.tolerances import assert_close
from tests.zoo.page import page, read_text

pytest.importorskip("onnxruntime")

QUICK_LIGHT = ("light_resnet50", "light_inception_v1", "light_shufflenet", "light_squeezenet")
QUICK_DYNAMO = ("lenet5", "squeezenet", "unet", "audio_m5", "video_c3d", "conv_vit")


def networks(quick):
    """Names of the networks, those that are not quick marked slow."""
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in zoo.NETS]


def check(executable, model, feeds, kind="network"):
    """Every output against ONNX Runtime's, by name."""
    outputs = executable.run(feeds)
    expected = zoo.reference(model, feeds)
    assert set(outputs) == set(expected)
    for name, array in expected.items():
        assert outputs[name].dtype == array.dtype
        assert_close(outputs[name], array, kind, label=name)


def exported(name, dynamo, symbolic_batch):
    """The file of a network at its small size."""
    pytest.importorskip("torch")
    net = zoo.NETS[name]
    return zoo.export(name, dynamo, symbolic_batch, net.small, net.small_width)


@pytest.mark.parametrize("name", networks(zoo.QUICK))
def test_symbolic_batch(name):
    path = exported(name, dynamo=False, symbolic_batch=True)
    executable = cnncc.compile(path)
    assert isinstance(executable.inputs[0].shape[0], str)
    for batch in (1, 3):
        check(executable, path, zoo.inputs(name, batch, zoo.NETS[name].small))


@pytest.mark.parametrize("name", networks(QUICK_DYNAMO))
@pytest.mark.parametrize(
    "symbolic_batch", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["fixed", "symbolic"]
)
def test_dynamo_export(name, symbolic_batch):
    path = exported(name, dynamo=True, symbolic_batch=symbolic_batch)
    check(cnncc.compile(path), path, zoo.inputs(name, 2 if symbolic_batch else 1, zoo.NETS[name].small))


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.NETS)
def test_fixed_batch(name):
    path = exported(name, dynamo=False, symbolic_batch=False)
    check(cnncc.compile(path), path, zoo.inputs(name, 1, zoo.NETS[name].small))


@pytest.mark.parametrize("name", ["resnet18", "unet", "mobilenetv2"])
def test_strict_accuracy(name):
    path = exported(name, dynamo=False, symbolic_batch=False)
    executable = cnncc.compile(path, accuracy="strict")
    assert not any("winograd" in row.algorithm for row in executable.report().rows)
    check(executable, path, zoo.inputs(name, 1, zoo.NETS[name].small), "network-strict")


@pytest.mark.parametrize("opset", [13, 21])
def test_opsets(opset):
    pytest.importorskip("torch")
    net = zoo.NETS["mobilenetv2"]
    path = zoo.export("mobilenetv2", opset > 18, True, net.small, net.small_width, opset=opset)
    assert onnx.load(path).opset_import[0].version == opset
    check(cnncc.compile(path), path, zoo.inputs("mobilenetv2", 2, net.small))


@pytest.mark.parametrize(
    "name", [n if n in QUICK_LIGHT else pytest.param(n, marks=pytest.mark.slow) for n in zoo.LIGHT]
)
def test_light_models(name):
    model = zoo.light(name)
    given = {i.name for i in model.graph.initializer}
    (image,) = [i.name for i in model.graph.input if i.name not in given]
    feeds = {image: np.random.default_rng(1).standard_normal((1, 3, 224, 224), dtype=np.float32)}
    softmax = model.graph.node[-1].op_type == "Softmax"
    check(cnncc.compile(model), model, feeds, "probabilities" if softmax else "network")


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("cls", [(48, 192, 5)]), ("det", [(64, 160, 4), (96, 128, 3)]), ("rec", [(48, 320, 8), (48, 192, 5)])],
)
def test_trained_text_models(kind, sizes):
    """Trained weights, and symbolic heights and widths: each size is specialised on first use."""
    models = zoo.ocr()
    if kind not in models:
        pytest.skip("needs rapidocr-onnxruntime")
    executable = cnncc.compile(models[kind])
    (argument,) = executable.inputs
    for height, width, scale in sizes:
        feeds = {argument.name: page("HELLO206", height, width, scale)}
        check(executable, models[kind], feeds, "probabilities")
        if kind == "rec":
            (probabilities,) = executable.run(feeds).values()
            assert read_text(onnx.load(models[kind]), probabilities).startswith("HELL")


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in zoo.NETS if n not in ("lenet5", "video_c3d")])
def test_full_size(name):
    pytest.importorskip("torch")
    path = zoo.export(name, dynamo=True)
    executable = cnncc.compile(path)
    check(executable, path, zoo.inputs(name))
    total = sum(row.gflop for row in executable.report().rows)
    slow = {row.layer: row.gflop for row in executable.report().rows if row.fallback and row.gflop > 0.01 * total}
    assert not slow, f"more than 1 percent of the work on the fallback: {slow}"
