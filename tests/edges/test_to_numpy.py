"""to_numpy: every op's line against its reference, and the printed module alone."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import cnncc
from cnncc import nn
from cnncc.autodiff import value_and_grad, vjp
from cnncc.builder import Builder
from cnncc.cli import group
from cnncc.edges.numpy_source import parameters
from cnncc.errors import UnsupportedError
from cnncc.interpret import interpret
from cnncc.ir.graph import Graph
from cnncc.nn.tracing import traced
from cnncc.ops import TABLE
from tests import zoo
from tests.ops.harness import Case, all_cases
from tests.tolerances import assert_close

# made by passes, behind everything that is printed
WITHOUT = {
    "interleave", "split_phases", "join_phases", "winograd_weights", "winograd_conv", "fft_weights", "fft_conv",
}  # fmt: skip


def load(text: str) -> Any:
    """The function of a printed module."""
    scope: dict[str, Any] = {}
    exec(compile(text, "printed", "exec"), scope)
    return scope.get("step") or scope["forward"]


def run(graph: Graph, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The printed module on arrays by name."""
    function = load(cnncc.to_numpy(graph))
    params = {**parameters(graph), **{n: a for n, a in feeds.items() if "." in n}}
    inputs = [a for n, a in feeds.items() if "." not in n]
    with np.errstate(all="ignore"):
        result: dict[str, np.ndarray] = function(*inputs, params) if params else function(*inputs)
    return result


def _graph(case: Case) -> Graph:
    b = Builder("one")
    operands = [None if t is None else b.input(f"x{k}", t.shape, t.dtype) for k, t in enumerate(case.types)]
    results = b.op(case.op.name, *operands, **{n: getattr(case.attrs, n) for n in case.attrs.__dataclass_fields__})
    for k, value in enumerate(results if isinstance(results, tuple) else (results,)):
        b.output(value, f"y{k}")
    return b.finish()


@pytest.mark.parametrize("case", [c for c in all_cases() if c.op.name not in WITHOUT], ids=str)
def test_every_op_prints_what_it_computes(case: Case):
    graph = _graph(case)
    feeds = {f"x{k}": a for k, a in enumerate(case.arrays()) if a is not None}
    actual, expected = run(graph, feeds), interpret(graph, feeds)
    for name, e in expected.items():
        assert np.asarray(actual[name]).dtype == e.dtype
        assert_close(actual[name], e, case.kind, "f64" if e.dtype == np.float64 else "f32", str(case))


def test_what_cannot_be_printed_is_named_at_once():
    assert {op.name for op in TABLE.values() if op.numpy is None and op.formula is None} == WITHOUT
    b = Builder()
    x, u = b.input("x", (1, 4, 8, 8)), b.input("u", (4, 6, 6, 4))
    b.output(b.winograd_conv(b.winograd_conv(x, u, m=4, source="first"), u, m=4, source="second"))
    b.output(b.interleave(x, strides=(2, 2), begin=(0, 0), size=(16, 16), source="third"))
    message = r"winograd_conv \(made after .*\), 2: first, second\n  interleave .*third"
    with pytest.raises(UnsupportedError, match=message):
        cnncc.to_numpy(b.finish())


def test_it_imports_numpy_alone():
    for case in all_cases():
        if case.op.name not in WITHOUT and case.number == 0:
            tree = ast.parse(cnncc.to_numpy(_graph(case)))
            imported = {n.names[0].name for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))}
            assert imported <= ({"numpy", "math"} if case.op.name in ("erf", "gelu") else {"numpy"})


# -- networks ----------------------------------------------------------------------------------------------------------


class LeNet5(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))
        return self.fc3(self.relu(self.fc2(self.relu(self.fc1(x.flatten(1))))))


class UNet(nn.Module):
    """One level: down by pooling, up by a transposed convolution, and the way across."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.inner = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(6, 4, 2, 2), nn.Conv2d(8, 3, 1)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        a = self.down(x).relu()
        b = self.inner(a._op("max_pool", a, kernel=(2, 2), strides=(2, 2))).relu()
        up = self.up(b)
        return self.out(up._op("concat", up, a, axis=1))


def _pools() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, 1, groups=2), nn.AvgPool2d(3, 2, 1), nn.MaxPool2d(2, 1, ceil_mode=True), nn.GELU(),
        nn.Upsample(scale_factor=2), nn.AdaptiveAvgPool2d(3), nn.LocalResponseNorm(3), nn.Flatten(), nn.Linear(36, 5),
    )  # fmt: skip


def _normed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.GroupNorm(2, 4), nn.Flatten())


NETS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "MLP": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3), nn.Softmax(-1)), (6,)),
    "LeNet-5": (LeNet5, (1, 28, 28)),
    "batch norm": (_normed, (2, 7, 6)),
    "pools": (_pools, (2, 16, 16)),
    "U-Net": (UNet, (2, 8, 8)),
}


@pytest.mark.parametrize("name", NETS)
def test_networks_forward_and_backward(name: str):
    make, shape = NETS[name]
    nn.manual_seed(0)
    net = make()
    graph = traced(net, {"x": ("N", *shape)}, as_inputs=True).graph
    held = [v.name for v in graph.inputs if "." in v.name and v.type.dtype == "f32" and "running" not in v.name]
    both = vjp(graph, ["x", *held], graph.output_names, keep_outputs=True)
    rng = np.random.default_rng(0)
    state = net.state_dict()
    feeds: dict[str, np.ndarray] = {v.name: state[v.name] for v in graph.inputs if v.name in state}
    feeds["x"] = rng.standard_normal((3, *shape)).astype(np.float32)
    dy = interpret(graph, feeds)["output"]
    feeds["d_output"] = rng.standard_normal(dy.shape).astype(np.float32)
    text = cnncc.to_numpy(both)
    assert "# backward of" in text
    assert max(map(len, text.splitlines())) < 200
    function = load(text)
    params = {k: v for k, v in feeds.items() if "." in k}
    actual, expected = function(feeds["x"], feeds["d_output"], params), interpret(both, feeds)
    assert list(actual) == both.output_names
    for label, e in expected.items():
        assert_close(actual[label], e, "conv", label=label)


def test_lenet_reads_as_a_lecture():
    """One statement for each operation, in stages named by layer."""
    graph = traced(LeNet5(), {"x": ("N", 1, 28, 28)}, as_inputs=True).graph
    text = cnncc.to_numpy(graph)
    for line in (
        "def forward(x, params):",
        "    N = x.shape[0]",
        '    conv1_weight = params["conv1.weight"]',
        "    # conv1: [N, 6, 28, 28]",
        "    conv1_conv = conv(x, conv1_weight, strides=(1, 1), pads=(2, 2, 2, 2), dilations=(1, 1))",
        "    relu = np.maximum(conv1, 0)",
        "    # fc3: [N, 10]",
        "    fc3_matmul = relu_4 @ fc3_weight.T",
        "    fc3 = fc3_matmul + fc3_bias",
        '        "output": fc3,',
    ):
        assert line in text.splitlines(), line
    body = ast.parse(text).body[-1]
    assert isinstance(body, ast.FunctionDef)
    statements = [s for s in body.body if isinstance(s, ast.Assign)]
    assert len(statements) == len(graph.nodes) + 10 + 1, "operations, parameters and N"


def test_resnet_from_onnx():
    """Parameters are initializers; the printed module knows nothing of cnncc."""
    net = zoo.NETS["resnet18"]
    graph = cnncc.load_onnx(zoo.export("resnet18", dynamo=False, size=net.small, width=net.small_width))
    feeds = zoo.inputs("resnet18", 1, net.small)
    actual, expected = run(graph, feeds), interpret(graph, feeds)
    assert_close(actual["output"], expected["output"], "network")


def test_training_loss_with_labels():
    b = Builder("classifier")
    x, w = b.input("x", ("N", 4), "f64"), b.input("w", (4, 3), "f64")
    label = b.input("label", ("N",), "i64")
    hot = b.one_hot(label, depth=3, dtype="f64")
    picked = b.reduce_sum(b.mul(b.log_softmax(b.matmul(x, w)), hot), axes=(1,), keepdims=False)
    b.output(b.neg(b.reduce_mean(picked, keepdims=False)), "loss")
    both = value_and_grad(b.finish(), ["w"], "loss")
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((5, 4)), "w": rng.standard_normal((4, 3)), "label": np.array([0, 2, 1, 1, 0])}
    actual, expected = run(both, feeds), interpret(both, feeds)
    assert_close(actual["loss"], expected["loss"], "reduction", "f64")
    assert_close(actual["grad_w"], expected["grad_w"], "reduction", "f64")


def test_second_derivatives_print():
    b = Builder()
    x = b.input("x", (3,), "f64")
    b.output(b.reduce_sum(b.mul(b.exp(x), b.sin(x)), keepdims=False), "loss")
    second = vjp(value_and_grad(b.finish(), ["x"]), ["x"], ["grad_x"])
    at = np.array([0.1, 0.7, -1.3])
    feeds = {"x": at, "d_grad_x": np.ones(3)}
    assert_close(run(second, feeds)["grad_x"], 2 * np.exp(at) * np.cos(at), "reduction", "f64")


def test_constants():
    """Small ones are written out, large ones and those with names are parameters."""
    b = Builder()
    x = b.input("x", (2, 3))
    y = b.add(b.mul(x, 0.1), np.array([1, 2, 3], np.float32))
    y = b.mul(y, b.constant(np.full((2, 3), 2, np.float32), "scale"))
    b.output(b.add(y, np.ones((2, 1), np.float32)), "y")
    b.output(b.constant(np.array([-1.5, np.inf], np.float32)), "c")
    graph = b.finish()
    assert list(parameters(graph)) == ["scale"]
    text = cnncc.to_numpy(graph)
    assert "mul = x * 0.1" in text
    assert "np.array([1.0, 2.0, 3.0], np.float32)" in text
    feeds = {"x": np.ones((2, 3), np.float32)}
    for name, e in interpret(graph, feeds).items():
        assert_close(run(graph, feeds)[name], e, "exact")


def test_inspect_prints_numpy(tmp_path: Path):
    file = tmp_path / "net.onnx"
    cnncc.to_onnx(nn.trace(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), {"x": (1, 1, 5, 5)}), file)
    result = CliRunner().invoke(group, ["inspect", str(file), "--as", "numpy"])
    assert result.exit_code == 0, result.output
    assert result.output.strip() == cnncc.to_numpy(cnncc.load_onnx(file)).strip()
    refused = CliRunner().invoke(group, ["inspect", str(file), "--as", "numpy", "--kernel", "0"])
    assert refused.exit_code
