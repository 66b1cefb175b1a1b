"""The driver of differentiation: it knows no operation, but sums, un-broadcasts, names and complains."""

from __future__ import annotations

import numpy as np
import pytest

import cnncc
from cnncc import nn
from cnncc.autodiff import grad, value_and_grad, vjp
from cnncc.builder import Builder
from cnncc.errors import GraphError, UnsupportedError
from cnncc.interpret import interpret
from cnncc.ir.graph import Graph
from tests.tolerances import assert_close


def _square_sum() -> Graph:
    """loss = sum((x w + b)^2) with x [3, 4], w [4], b scalar."""
    b = Builder("squares")
    x, w, bias = b.input("x", (3, 4), "f64"), b.input("w", (4,), "f64"), b.input("b", (), "f64")
    y = b.add(b.mul(x, w), bias)
    b.output(y, "y")
    b.output(b.reduce_sum(b.mul(y, y), keepdims=False), "loss")
    return b.finish()


def _feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"x": rng.standard_normal((3, 4)), "w": rng.standard_normal(4), "b": rng.standard_normal(())}


def test_several_uses_are_summed_and_broadcasts_undone():
    feeds = _feeds()
    out = interpret(grad(_square_sum(), of="loss"), feeds)
    d = 2 * (feeds["x"] * feeds["w"] + feeds["b"])
    assert list(out) == ["grad_x", "grad_w", "grad_b"]
    assert_close(out["grad_x"], d * feeds["w"], "reduction", "f64")
    assert_close(out["grad_w"], (d * feeds["x"]).sum(0), "reduction", "f64")
    assert_close(out["grad_b"], d.sum(), "reduction", "f64")


def test_value_and_grad_keeps_the_outputs():
    graph = _square_sum()
    result = value_and_grad(graph, ["w"], "loss")
    assert result.output_names == ["y", "loss", "grad_w"]
    assert graph.output_names == ["y", "loss"], "the graph itself does not change"
    feeds = _feeds()
    assert interpret(result, feeds)["loss"] == interpret(graph, feeds)["loss"]


def test_vjp_takes_gradients_of_results_as_inputs():
    graph = _square_sum()
    feeds = _feeds()
    seed = np.random.default_rng(1).standard_normal((3, 4))
    result = vjp(graph, ["w"], ["y"])
    assert [v.name for v in result.inputs] == ["x", "w", "b", "d_y"]
    out = interpret(result, {**feeds, "d_y": seed})
    assert_close(out["grad_w"], (seed * feeds["x"]).sum(0), "reduction", "f64")


def test_vjp_uses_an_input_that_is_there():
    b = Builder()
    x, d = b.input("x", (3,)), b.input("d_y", (3,))
    b.output(b.exp(x), "y")
    result = vjp(b.graph, ["x"], ["y"])
    assert [v.name for v in result.inputs] == ["x", "d_y"]
    assert d.users == {}, "the graph itself does not change"


def test_vjp_refuses_an_input_of_another_type():
    b = Builder()
    b.input("d_y", (4,))
    b.output(b.exp(b.input("x", (3,))), "y")
    with pytest.raises(GraphError, match=r"input 'd_y' must have the type of its value, f32\[3\], got f32\[4\]"):
        vjp(b.graph, ["x"], ["y"])


def test_constants_and_intermediate_results_have_gradients():
    b = Builder()
    x = b.input("x", (2,), "f64")
    w = b.constant(np.array([3.0, 5.0]), "w")
    y = b.op("mul", x, w, hint="y")
    b.output(b.reduce_sum(b.mul(y, y), keepdims=False), "loss")
    out = interpret(grad(b.finish(), ["w", y, x]), {"x": np.array([1.0, 2.0])})
    assert_close(out["grad_w"], [6.0, 40.0], "exact")
    assert_close(out["grad_y"], [6.0, 20.0], "exact")
    assert_close(out["grad_x"], [18.0, 100.0], "exact")


def test_no_dependence_is_zero():
    b = Builder()
    x, other = b.input("x", ("N", 2)), b.input("other", (3,))
    i = b.argmax(x, axis=1, keepdims=False)
    b.output(b.reduce_sum(b.add(b.cast(i, dtype="f32"), b.reduce_sum(other)), keepdims=False))
    out = interpret(grad(b.finish()), {"x": np.ones((4, 2), np.float32), "other": np.ones(3, np.float32)})
    assert_close(out["grad_x"], np.zeros((4, 2)), "exact")
    assert_close(out["grad_other"], np.full(3, 4.0), "exact")


def test_a_seed_that_is_itself_wanted():
    b = Builder()
    x = b.input("x", (), "f64")
    b.output(x, "loss")
    assert interpret(grad(b.finish()), {"x": np.array(2.0)})["grad_x"] == 1.0


def test_second_derivative():
    b = Builder()
    x = b.input("x", (3,), "f64")
    b.output(b.reduce_sum(b.mul(b.exp(x), b.sin(x)), keepdims=False), "loss")
    second = vjp(grad(b.finish(), ["x"]), ["x"])
    at = np.array([0.1, 0.7, -1.3])
    out = interpret(second, {"x": at, "d_grad_x": np.ones(3)})
    assert_close(out["grad_x"], 2 * np.exp(at) * np.cos(at), "reduction", "f64")


def test_several_losses_are_summed_with_weights():
    b = Builder()
    x = b.input("x", (3,), "f64")
    b.output(b.reduce_sum(b.mul(x, x), keepdims=False), "fit")
    b.output(b.reduce_sum(b.abs(x), keepdims=False), "penalty")
    graph, at = b.finish(), np.array([1.0, -2.0, 3.0])
    assert_close(interpret(grad(graph, ["x"], ["fit", "penalty"]), {"x": at})["grad_x"], 2 * at + np.sign(at), "exact")
    weighted = grad(graph, ["x"], {"fit": 0.5, "penalty": 3.0})
    assert_close(interpret(weighted, {"x": at})["grad_x"], at + 3 * np.sign(at), "exact")
    both = value_and_grad(graph, ["x"], {"fit": 1.0, "penalty": 0.0})
    assert both.output_names == ["fit", "penalty", "grad_x"]
    with pytest.raises(GraphError, match="say which output to differentiate"):
        grad(graph, ["x"], [])


def test_stopped_gradients():
    """y = x stop(x): dy/dx = stop(x), not 2 x; compiled the same, and also through a second derivative."""
    b = Builder()
    x = b.input("x", (3,), "f64")
    b.output(b.reduce_sum(b.mul(x, b.stop_gradient(b.mul(x, x))), keepdims=False), "loss")
    graph, at = b.finish(), np.array([1.0, -2.0, 3.0])
    first = grad(graph, ["x"])
    for run in (interpret(first, {"x": at}), cnncc.compile(first, threads=1).run({"x": at})):
        assert_close(run["grad_x"], at * at, "exact")
    second = interpret(vjp(first, ["x"]), {"x": at, "d_grad_x": np.ones(3)})
    assert_close(second["grad_x"], np.zeros(3), "exact")


def test_detach_stops_gradients_of_modules():
    class Net(nn.Module):
        def forward(self, x: nn.Tensor) -> nn.Tensor:
            return (x * x.detach()).sum()

    graph = nn.trace(Net(), {"x": (3,)})
    at = np.array([1, -2, 3], np.float32)
    assert_close(interpret(grad(graph, ["x"]), {"x": at})["grad_x"], at, "exact")
    assert {n.op_type for n in cnncc.to_onnx(graph).graph.node} == {"Identity", "Mul", "ReduceSum"}


def test_gradients_are_named_after_their_values():
    b = Builder()
    x = b.input("x", (3,))
    h = b.op("exp", x, hint="h")
    b.output(b.reduce_sum(b.mul(h, h), keepdims=False), "loss")
    text = str(grad(b.finish(), ["x"]))
    assert "%d_h" in text
    assert "%d_x: f32[3] = mul(%d_h" in text


def test_nodes_say_what_they_differentiate():
    b = Builder()
    x = b.input("x", (2, 3, 8, 8))
    w = b.input("w", (4, 3, 3, 3))
    b.output(b.reduce_mean(b.conv(x, w, source="features.0"), keepdims=False))
    sources = {n.op: n.source for n in grad(b.finish()).nodes}
    assert sources["conv_dw"] == sources["conv_transpose"] == "grad of features.0"


def test_operations_without_a_rule_are_named_all_at_once():
    b = Builder()
    x, u = b.input("x", (1, 4, 8, 8)), b.input("u", (4, 6, 6, 4))
    y = b.winograd_conv(x, u, m=4, source="first")
    y = b.winograd_conv(y, u, m=4, source="second")
    b.output(b.reduce_sum(y, keepdims=False))
    with pytest.raises(UnsupportedError, match=r"winograd_conv 'first'(?s:.)*winograd_conv 'second'"):
        grad(b.finish(), ["x"])


def test_rules_that_are_not_needed_are_not_asked():
    b = Builder()
    x, w = b.input("x", (1, 3, 8, 8)), b.input("w", (2, 3, 3, 3))
    b.output(b.reduce_sum(b.conv(x, w), keepdims=False))
    ops = [n.op for n in grad(b.finish(), ["w"]).nodes]
    assert "conv_dw" in ops
    assert "conv_transpose" not in ops
    assert "conv" not in ops, "the forward value is not needed"


@pytest.mark.parametrize(
    ("wrt", "of", "message"),
    [
        (["x"], "y", r"gradients are of a floating-point scalar, got f32\[3\]"),
        (["x"], "n", r"gradients are of a floating-point scalar, got i64"),
        (["z"], "loss", "there is no value 'z'; inputs are x, i, outputs y, n, loss"),
        (["i"], "loss", "only floating-point values have gradients, got i64"),
        (["x"], None, "say which output to differentiate"),
    ],
)
def test_errors(wrt: list[str], of: str | None, message: str):
    b = Builder()
    x, i = b.input("x", (3,)), b.input("i", (), "i64")
    b.output(b.exp(x), "y")
    b.output(b.add(i, i), "n")
    b.output(b.reduce_sum(x, keepdims=False), "loss")
    with pytest.raises(GraphError, match=message):
        grad(b.finish(), wrt, of)


def test_a_value_of_another_graph_is_refused():
    with pytest.raises(GraphError, match="is not a value of squares"):
        grad(_square_sum(), [Builder().input("x", (3,))], "loss")


def test_network_equals_torch():
    """conv, batch norm, ReLU, max pool, linear, log softmax and cross entropy on a symbolic batch."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    arrays = {
        "x": rng.standard_normal((5, 2, 8, 8)), "w1": rng.standard_normal((4, 2, 3, 3)),
        "gamma": rng.uniform(0.5, 1.5, 4), "beta": rng.standard_normal(4),
        "w2": rng.standard_normal((3, 64)), "b2": rng.standard_normal(3),
    }  # fmt: skip
    label = np.array([0, 2, 1, 1, 0])

    b = Builder()
    v = {n: b.input(n, ("N", *a.shape[1:]) if n == "x" else a.shape, "f64") for n, a in arrays.items()}
    y = b.conv(v["x"], v["w1"], pads=1)
    y, _, _ = b.batch_norm_train(y, v["gamma"], v["beta"])
    y = b.max_pool(b.relu(y), kernel=2, strides=2)
    y = b.add(b.matmul(b.reshape(y, shape=(-1, 64)), v["w2"], transpose_w=True), v["b2"])
    hot = b.one_hot(b.input("label", ("N",), "i64"), depth=3, dtype="f64")
    picked = b.reduce_sum(b.mul(b.log_softmax(y), hot), axes=(1,), keepdims=False)
    b.output(b.neg(b.reduce_mean(picked, keepdims=False)), "loss")
    out = interpret(value_and_grad(b.finish(), list(arrays), "loss"), {**arrays, "label": label})

    t = {n: torch.tensor(a, requires_grad=True) for n, a in arrays.items()}
    f = torch.nn.functional
    z = f.batch_norm(f.conv2d(t["x"], t["w1"], padding=1), None, None, t["gamma"], t["beta"], training=True)
    z = f.linear(f.max_pool2d(z.relu(), 2).reshape(5, 64), t["w2"], t["b2"])
    loss = f.cross_entropy(z, torch.tensor(label))
    loss.backward()
    assert_close(out["loss"], loss.item(), "reduction", "f64")
    for name, tensor in t.items():
        assert_close(out[f"grad_{name}"], tensor.grad.numpy(), "conv", "f64", name)
