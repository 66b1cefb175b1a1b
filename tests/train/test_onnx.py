"""ONNX in, trained, ONNX out: the exported model predicts in ONNX Runtime what the trained step predicts."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import onnx
import pytest

import cnncc
from cnncc import nn, optim
from cnncc.builder import Builder
from cnncc.errors import GraphError, UnsupportedError
from cnncc.ir.batch import free_batch
from cnncc.train import TrainStep
from tests import zoo
from tests.tolerances import assert_close

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
X = RNG.standard_normal((16, 3, 10, 10)).astype(np.float32)
Y = RNG.integers(0, 5, 16)


def small(dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    t = torch.nn
    return t.Sequential(
        *(t.Conv2d(3, 8, 3, bias=False), t.BatchNorm2d(8), t.ReLU(), t.MaxPool2d(2)),
        *(t.Conv2d(8, 8, 3, padding=1), t.BatchNorm2d(8), t.ReLU(), t.Flatten(), t.Dropout(dropout)),
        t.Linear(128, 5),
    )


def exported(module: Any, training: bool, batch: bool = True) -> onnx.ModelProto:
    """By torch's exporter; for training it keeps batch norm and dropout as nodes."""
    file = io.BytesIO()
    mode = torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.train(training), (torch.from_numpy(X[:2]),), file, training=mode, do_constant_folding=False,
            dynamo=False, input_names=["image"], output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}} if batch else None,
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def step_of(model: Any, lr: float = 0.05, **options: Any) -> TrainStep:
    return TrainStep(model, "cross_entropy", optim.SGD(lr=lr, momentum=0.9), threads=1, seed=0, **options)


def check_export(step: TrainStep, x: np.ndarray) -> onnx.ModelProto:
    model = step.to_onnx()
    predicted = step.predict(x)
    (expected,) = zoo.reference(model, {model.graph.input[0].name: x}).values()
    assert_close(predicted, expected, "network")
    assert_close(step.compile_inference(threads=1)(x), expected, "network")
    return model


def test_an_exported_network_trains_as_in_torch():
    theirs = small()
    graph = cnncc.load_onnx(exported(theirs, True), training=True)
    assert [n.op for n in graph.nodes].count("batch_norm") == 2
    step = step_of(graph)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    theirs.train()
    for _ in range(5):
        loss = step(X, Y)["loss"]
        optimizer.zero_grad()
        expected = torch.nn.functional.cross_entropy(theirs(torch.from_numpy(X)), torch.from_numpy(Y))
        expected.backward()
        optimizer.step()
        assert loss == pytest.approx(expected.item(), rel=1e-4)
    state = step.state_dict()
    for name, value in theirs.state_dict().items():
        if name.endswith(("weight", "bias", "running_mean")):
            assert_close(state[name], value.numpy(), "network", label=name)
        elif name.endswith("running_var"):  # ONNX: of the population; PyTorch: n / (n - 1) of it
            assert np.all(state[name] < value.numpy())
    model = check_export(step, X[:7])
    assert [n.op_type for n in model.graph.node].count("BatchNormalization") == 2
    assert {"0.weight", "9.bias"} < {t.name for t in model.graph.initializer}


def test_dropout_of_an_import_drops_in_training_only():
    model = exported(small(0.5), True)
    with pytest.raises(UnsupportedError, match="load it with training=True"):
        cnncc.load_onnx(model)
    step = step_of(cnncc.load_onnx(model, training=True), lr=0.0)
    assert len({step(X, Y)["loss"] for _ in range(3)}) == 3
    again = check_export(step, X)
    assert "Dropout" in [n.op_type for n in again.graph.node]
    assert "dropout" in [n.op for n in cnncc.load_onnx(again).nodes]


def test_a_frozen_backbone_with_a_new_head():
    backbone = nn.GraphModule(cnncc.load_onnx(exported(small(), True), training=True), output="/6/Relu_output_0")
    backbone.freeze("*")
    nn.manual_seed(0)
    net = nn.Sequential(backbone, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    before = backbone.state_dict()
    step = step_of(net, lr=0.5)
    y = (X.mean((1, 2, 3)) > 0).astype(np.int64)
    losses = [step(X, y)["loss"] for _ in range(60)]
    assert losses[-1] < 0.7 * losses[0]
    after = step.state_dict()
    for name, array in before.items():  # statistics, too
        np.testing.assert_array_equal(after[f"0.{name}"], array)
    assert step.executable is not None
    assert set(step.executable.state) == {
        "3.weight", "3.bias", "3.weight.momentum_buffer", "3.bias.momentum_buffer",
    }  # fmt: skip
    check_export(step, X)


def test_freezing_by_pattern():
    module = nn.GraphModule(cnncc.load_onnx(exported(small(), True), training=True))
    module.freeze("0.*", "1.*")
    step = step_of(module)
    step(X, Y)
    start, state = module.graph, step.state_dict()
    constants = {v.name: v.data for v in start.constants}
    for name in ("0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        np.testing.assert_array_equal(state[name], constants[name])
    for name in ("4.weight", "5.running_mean", "9.bias"):
        assert np.any(state[name] != constants[name]), name
    with pytest.raises(GraphError, match=r"every pattern must match a parameter, got layer9\.\*"):
        module.freeze("layer9.*")


def test_cutting_at_a_value_that_is_not_there():
    graph = cnncc.load_onnx(exported(small(), False))
    with pytest.raises(GraphError, match="there is no value '/6/Relu_output'; did you mean /6/Relu_output_0"):
        nn.GraphModule(graph, output="/6/Relu_output")


def test_a_network_of_one_batch_size_trains_with_any():
    graph = cnncc.load_onnx(exported(small(), True, batch=False), training=True)
    assert graph.inputs[0].type.shape[0] == 2
    step = step_of(graph)
    for n in (16, 5, 1):
        assert np.isfinite(step(X[:n], Y[:n])["loss"])
    assert str(step.inference_graph().inputs[0].type) == "f32[N, 3, 10, 10]"
    check_export(step, X)


def test_a_batch_that_cannot_be_freed_is_named():
    b = Builder("rows")
    x = b.input("x", (2, 6))
    b.output(b.op("transpose", x, source="turn", perm=(1, 0)), "y")
    with pytest.raises(GraphError, match="transpose 'turn': cannot run at another batch"):
        free_batch(b.finish())


def test_other_shapes_are_refused():
    step = step_of(cnncc.load_onnx(exported(small(), False)))
    with pytest.raises(GraphError, match=r"input 'image' must be .*x3x10x10, got Nx3x12x12"):
        step(np.zeros((2, 3, 12, 12), np.float32), Y[:2])


LIGHT = {
    "light_squeezenet": ("r65", (), 1000),
    "light_resnet50": ("r172", ("*",), 2048),
    "light_densenet121": ("r908", ("*",), 1024),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LIGHT)
def test_models_of_the_onnx_package(name):
    """SqueezeNet whole, ResNet-50 and DenseNet-121 frozen behind a new head; each was exported for one image."""
    output, frozen, channels = LIGHT[name]
    nn.manual_seed(0)
    backbone = nn.GraphModule(cnncc.load_onnx(zoo.light(name)), output=output)
    if frozen:
        backbone.freeze(*frozen)
    net = nn.Sequential(backbone, nn.Flatten(), nn.Linear(channels, 4))
    x = RNG.standard_normal((2, 3, 224, 224)).astype(np.float32)
    y = np.array([1, 3])
    step = step_of(net, lr=1e-4 if frozen else 1e-3)
    losses = [step(x, y)["loss"] for _ in range(3)]
    assert losses[-1] < losses[0], losses
    check_export(step, x)
