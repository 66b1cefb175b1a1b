"""What a TrainStep keeps, shares and reports: state, evaluation on the present parameters, metrics, several inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import cnncc
from cnncc import nn, optim
from cnncc.builder import Builder
from cnncc.errors import GraphError, UnsupportedError
from cnncc.ir.graph import Value
from cnncc.train import TrainStep
from cnncc.train import step as step_module
from tests.tolerances import assert_close

RNG = np.random.default_rng(0)
X = RNG.standard_normal((24, 3, 6, 6)).astype(np.float32)
Y = RNG.integers(0, 7, 24)


def network(dropout: float = 0.5) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(64, 7)
    )


def make(model: Any = None, **options: Any) -> TrainStep:
    nn.manual_seed(0)
    options.setdefault("optimizer", optim.SGD(lr=0.1, momentum=0.9))
    return TrainStep(network() if model is None else model, options.pop("loss", "cross_entropy"), threads=1, **options)


def test_a_restored_step_goes_on_with_the_same_bits():
    """Dropout, batch statistics and velocities included; also into a step that is compiled already."""
    first = make()
    for k in range(3):
        first(X[4 * k : 4 * k + 4], Y[4 * k : 4 * k + 4])
    saved = first.state_dict()
    expected = [first(X[12:18], Y[12:18]), first(X[18:], Y[18:])]
    fresh, used = make(), make()
    used(X[:4], Y[:4])
    for step in (fresh, used):
        step.load_state_dict(saved)
        assert [step(X[12:18], Y[12:18]), step(X[18:], Y[18:])] == expected
        for name, array in first.state_dict().items():
            np.testing.assert_array_equal(step.state_dict()[name], array, err_msg=name)


def test_state_dict_holds_everything():
    step = make()
    step(X, Y)
    state = step.state_dict()
    own = set(network().state_dict())
    assert own < set(state)
    assert {"random_state", "0.weight.momentum_buffer", "1.running_var", "1.num_batches_tracked"} < set(state)
    assert state["random_state"][2] == 1
    assert state["1.num_batches_tracked"] == 1
    state["0.weight"][:] = 0
    assert np.any(step.state_dict()["0.weight"] != 0)


def test_states_that_do_not_fit_are_refused():
    step = make()
    with pytest.raises(GraphError, match=r"missing 0\.weight.*1\.running_mean"):
        step.load_state_dict({"0.bias": np.zeros(4, np.float32)})
    step(X, Y)
    state = step.state_dict()
    with pytest.raises(GraphError, match=r"unexpected extra; 0\.weight: shape must be"):
        step.load_state_dict({**state, "extra": np.zeros(1), "0.weight": np.zeros((1, 2))})
    np.testing.assert_array_equal(step.state_dict()["0.weight"], state["0.weight"])


def test_evaluation_and_prediction_see_the_present_parameters():
    step = make(metrics=["accuracy", "top5"])
    for k in range(2):
        step(X, Y)
        logits = step.predict(X[:9])
        module = step.sync()
        assert isinstance(module, nn.Module)
        assert_close(logits, np.asarray(module.eval()(X[:9])), "network", label=f"step {k}")
        module.train()
        measured = step.evaluate(X[:9], Y[:9])
        expected = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(Y[:9]))
        assert measured["loss"] == pytest.approx(float(expected), rel=1e-5)
        order = np.argsort(-logits, axis=1)
        assert measured["accuracy"] == pytest.approx(float((order[:, 0] == Y[:9]).mean()))
        assert measured["top5"] == pytest.approx(float((order[:, :5] == Y[:9, None]).any(1).mean()))


def test_before_the_first_step_there_is_prediction_too():
    step = make()
    before = step.predict(X)
    step(X, Y)
    assert np.abs(step.predict(X) - before).max() > 1e-3


def test_inference_and_onnx_predict_the_same(tmp_path):
    import onnxruntime

    step = make()
    for _ in range(2):
        step(X, Y)
    expected = step.predict(X[:5])
    exe = step.compile_inference()
    assert_close(exe(X[:5]), expected, "network")
    assert not any("batch_norm" in r.ops for r in exe.report().rows)
    step.to_onnx(tmp_path / "trained.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "trained.onnx", providers=["CPUExecutionProvider"])
    assert_close(session.run(None, {session.get_inputs()[0].name: X[:5]})[0], expected, "network")
    again = cnncc.load_onnx(tmp_path / "trained.onnx")
    assert "dropout" in [n.op for n in again.nodes]


def test_nothing_is_compiled_twice(monkeypatch):
    count = []
    compile_graph = step_module.compile_graph
    monkeypatch.setattr(step_module, "compile_graph", lambda *a, **k: count.append(1) or compile_graph(*a, **k))
    optimizer = optim.SGD(lr=0.1, momentum=0.9)
    step = make(optimizer=optimizer)
    for lr, batch in ((0.1, 24), (0.05, 24), (0.01, 5), (0.0, 1)):
        optimizer.lr = lr
        step(X[:batch], Y[:batch])
        step.evaluate(X[:batch], Y[:batch])
        step.predict(X[:batch])
    assert len(count) == 3


def test_frozen_parameters_stay_and_loading_others_compiles_again():
    net = network()
    net.freeze("0.*", "1.*")
    step = make(net)
    step(X, Y)
    first = step.executable
    state = step.state_dict()
    np.testing.assert_array_equal(state["0.weight"], net.state_dict()["0.weight"])
    assert state["1.num_batches_tracked"] == 0
    step.load_state_dict(state)
    assert step.executable is first
    step.load_state_dict({**state, "0.weight": state["0.weight"] * 2})
    step(X, Y)
    assert step.executable is not first
    np.testing.assert_array_equal(step.state_dict()["0.weight"], state["0.weight"] * 2)


def test_metrics_by_name_and_function():
    def largest(b: Builder, output: Value, target: Value) -> Value:
        return b.reduce_max(output, keepdims=False)

    step = make(metrics={"hits": "accuracy", "largest": largest})
    assert set(step(X, Y)) == {"loss", "hits", "largest"}
    with pytest.raises(UnsupportedError, match="metrics are accuracy, top5"):
        make(metrics=["acc"])
    with pytest.raises(GraphError, match="names of their own"):
        make(metrics=["accuracy", "accuracy"])
    with pytest.raises(GraphError, match="accuracy takes logits"):
        make(loss=lambda b, o, t: b.reduce_mean(o, keepdims=False), metrics=["accuracy"])(X, Y.astype(np.float32))


def test_accuracy_leaves_out_labels_that_are_no_class():
    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 1)

        def forward(self, x: nn.Tensor) -> nn.Tensor:
            return self.conv(x)

    labels = RNG.integers(0, 5, (24, 6, 6))
    labels[:, :2] = 255
    step = make(Pixels(), loss=lambda b, o, t: b.reduce_mean(o, keepdims=False), metrics=["accuracy"])
    right = step.predict(X).argmax(1) == labels
    assert step.evaluate(X, labels)["accuracy"] == pytest.approx(right[:, 2:].mean(), rel=1e-5)


def test_accuracy_of_probabilities_is_of_their_largest():
    step, soft = make(metrics=["accuracy"]), make(metrics=["accuracy"])
    q = np.full((24, int(step.predict(X).shape[1])), 0.01, np.float32)
    q[np.arange(24), Y] = 0.9
    assert soft.evaluate(X, q)["accuracy"] == step.evaluate(X, Y)["accuracy"]


@pytest.mark.parametrize(
    ("model", "optimizer", "words"),
    [
        (torch.nn.Linear(2, 3), optim.SGD(lr=0.1), r"a cnncc.nn module or a graph .*a torch module.* got Linear"),
        ("net.onnx", optim.SGD(lr=0.1), r"cnncc.load_onnx\(path, training=True\).* got str"),
        (nn.Linear(2, 3), optim.SGD, r"optimizer must be e.g. cnncc.optim.SGD\(lr=0.1\), got SGD"),
        (nn.Linear(2, 3), "adam", "got 'adam'"),
    ],
)
def test_what_no_step_can_be_made_of(model, optimizer, words):
    with pytest.raises(GraphError, match=words):
        TrainStep(model, "mse", optimizer)


class Two(nn.Module):
    """Two inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, left: nn.Tensor, right: nn.Tensor) -> tuple[nn.Tensor, nn.Tensor]:
        y = self.a(left)
        return y, y * self.b(right)


def test_several_inputs_outputs_and_targets():
    left, right = (RNG.standard_normal((8, n)).astype(np.float32) for n in (4, 5))
    y = tuple(RNG.standard_normal((8, 3)).astype(np.float32) for _ in range(2))

    def loss(b: Builder, outputs: tuple[Value, Value], targets: tuple[Value, Value]) -> Value:
        parts = [b.reduce_mean(b.square(b.sub(o, t)), keepdims=False) for o, t in zip(outputs, targets, strict=True)]
        return b.add(*parts)

    nn.manual_seed(0)
    net = Two()
    named, placed = make(net, loss=loss), make(net, loss=loss)
    for _ in range(3):
        assert named({"right": right, "left": left}, y) == placed((left, right), list(y))
    a, b = named.predict((left, right))
    expected = np.mean((a - y[0]) ** 2) + np.mean((b - y[1]) ** 2)
    assert named.evaluate((left, right), y)["loss"] == pytest.approx(float(expected), rel=1e-4)
    with pytest.raises(GraphError, match="x must be left, right, got left, wrong"):
        named({"left": left, "wrong": right}, y)
    with pytest.raises(GraphError, match="one first axis"):
        make(net, loss=loss)((left, right[:5]), y)


def test_a_loss_without_a_target():
    net = nn.Linear(4, 4)
    step = make(net, loss=lambda b, o, t: b.reduce_mean(b.square(o), keepdims=False))
    x = RNG.standard_normal((8, 4)).astype(np.float32)
    assert step(x)["loss"] > step(x)["loss"]


def test_a_model_without_parameters_is_refused():
    with pytest.raises(GraphError, match="no parameter to train"):
        make(nn.Flatten(), loss="mse")(X, X.reshape(24, -1))


def test_modes_are_kept():
    net = network()
    net[1].eval()
    step = make(net)
    step(X, Y)
    assert net.training
    assert not net[1].training
    assert step.state_dict()["1.num_batches_tracked"] == 0
