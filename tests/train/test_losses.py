"""Losses and their gradients against torch.nn.functional, and against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

import cnncc
from cnncc import losses, nn, optim
from cnncc.autodiff import grad, value_and_grad
from cnncc.builder import Builder
from cnncc.errors import GraphError, UnsupportedError
from cnncc.interpret import interpret
from cnncc.ir.graph import Graph
from cnncc.ir.types import Type
from cnncc.train import TrainStep
from tests.tolerances import assert_close

SHORT = {"float32": "f32", "float64": "f64"}
WEIGHT = np.array([0.5, 2.0, 1.0, 0.25, 3.0])
rng = np.random.default_rng(0)
SCORES = rng.standard_normal((6, 5)) * 3
PIXELS = rng.standard_normal((2, 5, 4, 3)) * 3
SIGNAL = rng.standard_normal((3, 5, 7))
LABELS = np.array([0, 4, 2, 2, 1, 3])
SOME = np.array([0, -100, 2, -100, 1, 4])
PIXEL_LABELS = rng.integers(0, 5, (2, 4, 3))
PROBABILITIES = rng.dirichlet(np.ones(5), 6)
ERRORS = np.array([[0.0, 0.3, -0.3, 1.0], [-1.0, 2.5, -4.0, 0.0], [0.99, -0.5, 0.5, 30.0]])
TARGETS = rng.uniform(0, 1, (3, 4))
BITS = (TARGETS > 0.5).astype(np.float64)

Case = tuple[losses.Loss, Callable[..., torch.Tensor], np.ndarray, np.ndarray]


def weighted(**options: Any) -> dict[str, Any]:
    """Options with the class weights as both sides want them."""
    return {"weight": WEIGHT, **options}


def for_torch(options: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {n: torch.tensor(v, dtype=dtype) if isinstance(v, np.ndarray) else v for n, v in options.items()}


CLASSES: dict[str, dict[str, Any]] = {
    "plain": {},
    "weighted": weighted(),
    "smoothed": {"label_smoothing": 0.1},
    "weighted-smoothed": weighted(label_smoothing=0.3),
    "ignored": {"ignore_index": 2},
    "weighted-smoothed-ignored": weighted(label_smoothing=0.2, ignore_index=2),
}
CASES: list[Any] = []


def case(
    name: str, record: Any, function: Any, options: dict[str, Any], output: np.ndarray, target: np.ndarray
) -> None:
    for reduction in ("mean", "sum", "none"):
        given = {**options, "reduction": reduction}
        CASES.append(pytest.param(record(**given), function, given, output, target, id=f"{name}-{reduction}"))


for label, options in CLASSES.items():
    case(f"cross-entropy-{label}", losses.CrossEntropy, F.cross_entropy, options, SCORES, LABELS)
    case(f"cross-entropy-pixels-{label}", losses.CrossEntropy, F.cross_entropy, options, PIXELS, PIXEL_LABELS)
    if "ignore_index" not in options:
        case(f"cross-entropy-soft-{label}", losses.CrossEntropy, F.cross_entropy, options, SCORES, PROBABILITIES)
    if "label_smoothing" not in options:
        case(f"nll-{label}", losses.NLL, F.nll_loss, options, SCORES, LABELS)
        case(f"nll-pixels-{label}", losses.NLL, F.nll_loss, options, PIXELS, PIXEL_LABELS)
case("cross-entropy-some", losses.CrossEntropy, F.cross_entropy, weighted(label_smoothing=0.2), SCORES, SOME)
case("cross-entropy-signal", losses.CrossEntropy, F.cross_entropy, {}, SIGNAL, rng.integers(0, 5, (3, 7)))
for p in (1, 2):
    case(f"multi-margin-{p}", losses.MultiMargin, F.multi_margin_loss, {"p": p}, SCORES, LABELS)
    case(
        f"multi-margin-weighted-{p}", losses.MultiMargin, F.multi_margin_loss, weighted(p=p, margin=0.4), SCORES, LABELS
    )
case("mse", losses.MSE, F.mse_loss, {}, ERRORS, TARGETS)
case("l1", losses.L1, F.l1_loss, {}, ERRORS, np.where(ERRORS == 1, 1, TARGETS))
for beta in (0.0, 0.3, 1.0):
    case(f"smooth-l1-{beta}", losses.SmoothL1, F.smooth_l1_loss, {"beta": beta}, ERRORS, 0 * TARGETS)
for delta in (0.3, 1.0):
    case(f"huber-{delta}", losses.Huber, F.huber_loss, {"delta": delta}, ERRORS, 0 * TARGETS)
bce = F.binary_cross_entropy_with_logits
case("bce", losses.BCEWithLogits, bce, {}, ERRORS, TARGETS)
case("bce-bits", losses.BCEWithLogits, bce, {}, ERRORS, BITS)
case("bce-weighted", losses.BCEWithLogits, bce, {"weight": np.array([[2.0], [0.5], [1.0]])}, ERRORS, TARGETS)
case("bce-positive", losses.BCEWithLogits, bce, {"pos_weight": np.array([3.0, 1.0, 0.1, 2.0])}, ERRORS, TARGETS)


def build(loss: Any, output: np.ndarray, target: np.ndarray) -> Graph:
    """A graph of the loss alone, and its sum as the scalar to differentiate."""
    b = Builder("loss")
    x = b.input("x", output.shape, Type.of(output).dtype)
    y = b.input("y", target.shape, Type.of(target).dtype)
    value = loss(b, x, y)
    b.output(value, "loss")
    b.output(b.reduce_sum(value, keepdims=False), "total")
    return b.finish()


def in_torch(function: Any, options: Any, output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = torch.tensor(output, requires_grad=True)
    value = function(x, torch.tensor(target), **for_torch(options, x.dtype))
    value.sum().backward()
    assert x.grad is not None
    return value.detach().numpy(), x.grad.numpy()


def prepared(output: np.ndarray, target: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    return output.astype(dtype), target.astype(dtype) if target.dtype == np.float64 else target


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize(("loss", "function", "options", "output", "target"), CASES)
def test_equals_torch(loss: Any, function: Any, options: Any, output: Any, target: Any, dtype: str) -> None:
    output, target = prepared(output, target, dtype)
    graph = value_and_grad(build(loss, output, target), ["x"], "total")
    ours = interpret(graph, {"x": output, "y": target})
    value, gradient = in_torch(function, options, output, target)
    assert_close(ours["loss"], value, "reduction", SHORT[dtype], "loss")
    assert_close(ours["grad_x"], gradient, "reduction", SHORT[dtype], "gradient")


@pytest.mark.parametrize("name", losses.LOSSES)
def test_compiled_equals_torch(name: str) -> None:
    """Each loss with its defaults and a symbolic batch, forward and backward."""
    function = {
        "cross_entropy": F.cross_entropy, "nll": F.nll_loss, "mse": F.mse_loss, "l1": F.l1_loss, "bce_with_logits": bce,
        "smooth_l1": F.smooth_l1_loss, "huber": F.huber_loss, "multi_margin": F.multi_margin_loss,
    }[name]  # fmt: skip
    labelled = name in ("cross_entropy", "nll", "multi_margin")
    output, target = (SCORES.astype("f4"), LABELS) if labelled else (ERRORS.astype("f4"), TARGETS.astype("f4"))
    b = Builder("loss")
    x, y = b.input("x", ("N", *output.shape[1:])), b.input("y", ("N", *target.shape[1:]), Type.of(target).dtype)
    b.output(losses.LOSSES[name](b, x, y), "loss")
    executable = cnncc.compile(value_and_grad(b.finish(), ["x"], "loss"), threads=1)
    for rows in (len(output), 2):
        ours = executable.run({"x": output[:rows], "y": target[:rows]})
        value, gradient = in_torch(function, {}, output[:rows], target[:rows])
        assert_close(ours["loss"], value, "reduction", label="loss")
        assert_close(ours["grad_x"], gradient, "reduction", label="gradient")


def test_pixels_compiled() -> None:
    loss = losses.CrossEntropy(weight=WEIGHT, label_smoothing=0.1, ignore_index=2)
    output = PIXELS.astype("f4")
    executable = cnncc.compile(value_and_grad(build(loss, output, PIXEL_LABELS), ["x"], "total"), threads=1)
    ours = executable.run({"x": output, "y": PIXEL_LABELS})
    options = {"weight": WEIGHT, "label_smoothing": 0.1, "ignore_index": 2}
    value, gradient = in_torch(F.cross_entropy, options, output, PIXEL_LABELS)
    assert_close(ours["loss"], value, "reduction")
    assert_close(ours["grad_x"], gradient, "reduction")


@pytest.mark.parametrize(
    ("loss", "output", "target"),
    [
        (losses.CrossEntropy(weighted()["weight"], label_smoothing=0.2, ignore_index=2), PIXELS, PIXEL_LABELS),
        (losses.CrossEntropy(), SCORES, PROBABILITIES),
        (losses.NLL(WEIGHT), SCORES, LABELS),
        (losses.MultiMargin(2, 0.7, WEIGHT), SCORES, LABELS),
        (losses.MSE(), ERRORS, TARGETS),
        (losses.Huber(delta=0.4), ERRORS + 0.01, TARGETS),
        (losses.SmoothL1(beta=0.4), ERRORS + 0.01, TARGETS),
        (losses.BCEWithLogits(pos_weight=3.0), ERRORS, TARGETS),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, losses.Loss) else "",
)
def test_gradient_equals_finite_differences(loss: Any, output: np.ndarray, target: np.ndarray) -> None:
    graph = build(loss, output, target)
    analytic = interpret(grad(graph, ["x"], "total"), {"x": output, "y": target})["grad_x"]
    direction = np.random.default_rng(3).standard_normal(output.shape)
    ahead, behind = (interpret(graph, {"x": output + s * 1e-6 * direction, "y": target})["total"] for s in (1, -1))
    assert_close([(analytic * direction).sum()], [(ahead - behind) / 2e-6], "finite-difference", "f64")


@pytest.mark.parametrize("compiled", [False, True])
def test_huge_logits(compiled: bool) -> None:
    """No overflow, and gradients that are exact where the loss saturates."""
    scores = np.array([[1e4, -1e4, 0], [-1e30, 1e30, 3e38], [88.0, 89.0, -1000.0]], np.float32)
    for loss, function, target in (
        (losses.CrossEntropy(reduction="none"), F.cross_entropy, np.array([1, 1, 0])),
        (losses.BCEWithLogits(reduction="none"), bce, np.array([[1, 1, 0], [0, 0, 1], [1, 0, 1]], np.float32)),
    ):
        graph = value_and_grad(build(loss, scores, target), ["x"], "total")
        feeds = {"x": scores, "y": target}
        ours = cnncc.compile(graph, threads=1).run(feeds) if compiled else interpret(graph, feeds)
        value, gradient = in_torch(function, {"reduction": "none"}, scores, target)
        assert_close(ours["loss"], value, "reduction")
        assert_close(ours["grad_x"], gradient, "reduction")


def test_tiny_gradients_of_bce_keep_their_digits() -> None:
    x, y = np.array([[-40.0, 40.0]], np.float32), np.array([[0.0, 1.0]], np.float32)
    found = interpret(grad(build(losses.BCEWithLogits(reduction="sum"), x, y), ["x"], "total"), {"x": x, "y": y})
    assert_close(found["grad_x"], np.array([[np.exp(-40), -np.exp(-40)]]), "elementwise")


def test_a_label_that_is_no_class_makes_the_loss_nan() -> None:
    for loss in (losses.CrossEntropy(), losses.NLL(), losses.MultiMargin()):
        for wrong in (5, -1):
            labels = np.array([0, wrong, 2, 2, 1, 3])
            assert np.isnan(interpret(build(loss, SCORES, labels), {"x": SCORES, "y": labels})["loss"])


def test_everything_ignored_is_nan_as_in_torch() -> None:
    labels = np.full(6, -100)
    assert np.isnan(interpret(build(losses.CrossEntropy(), SCORES, labels), {"x": SCORES, "y": labels})["loss"])


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_labels_of_any_integer(dtype: str) -> None:
    scores = np.random.default_rng(0).standard_normal((4, 300))  # more classes than uint8 has numbers
    labels = np.array([0, 200, 255, 7]).astype(dtype)
    found = interpret(build(losses.CrossEntropy(), scores, labels), {"x": scores, "y": labels})
    assert_close(found["loss"], in_torch(F.cross_entropy, {}, scores, labels.astype("i8"))[0], "reduction", "f64")


# -- sums, multiples, penalties ---------------------------------------------------------------------------------------


def test_sums_and_multiples() -> None:
    loss = 0.5 * losses.MSE() + losses.L1() + (lambda b, x, y: b.reduce_max(b.sub(x, y), keepdims=False))
    value = interpret(build(loss, ERRORS, TARGETS), {"x": ERRORS, "y": TARGETS})["loss"]
    d = ERRORS - TARGETS
    assert_close(value, 0.5 * (d**2).mean() + np.abs(d).mean() + d.max(), "reduction", "f64")


def test_penalties_in_a_step_equal_torch() -> None:
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    ours = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    ours.load_state_dict(theirs.state_dict())
    loss = losses.CrossEntropy() + losses.L2Penalty(0.05, "*.weight") + losses.L1Penalty(0.01)
    step = TrainStep(ours, loss, optim.SGD(lr=0.1), threads=1)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    x, y = np.random.default_rng(0).standard_normal((8, 6)).astype("f4"), np.arange(8) % 3
    for _ in range(5):
        optimizer.zero_grad()
        expected = F.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y))
        for name, w in theirs.named_parameters():
            expected = expected + 0.01 * w.abs().sum() + (0.05 * (w**2).sum() if name.endswith("weight") else 0)
        expected.backward()
        optimizer.step()
        assert_close(np.float32(step(x, y)["loss"]), expected.detach().numpy(), "loss")
    for name, value in theirs.state_dict().items():
        assert_close(step.state_dict()[name], value.numpy(), "training-step", label=name)


WRONG: dict[str, tuple[Any, np.ndarray, np.ndarray, str]] = {
    "shape": (losses.MSE(), SCORES, SCORES[:, :1], r"mse: the target must have the output's shape, got f64\[6, 1\]"),
    "bce": (losses.BCEWithLogits(), SCORES, LABELS, "bce_with_logits: the target must have the output's shape"),
    "labels": (losses.CrossEntropy(), PIXELS, LABELS, "labels must be integers in the shape of the scores"),
    "soft": (losses.CrossEntropy(), PIXELS, PROBABILITIES, "probabilities must have the shape of the scores"),
    "floats": (losses.NLL(), SCORES, LABELS.astype("f8"), "labels must be integers"),
    "rank": (losses.CrossEntropy(), TARGETS[0], LABELS[0], r"scores must be \[N, C, ...\]"),
    "hinge": (losses.MultiMargin(), PIXELS, PIXEL_LABELS, r"scores must be \[N, C\]"),
    "power": (losses.MultiMargin(p=3), SCORES, LABELS, "p must be 1 or 2, got 3"),
    "weights": (losses.CrossEntropy(weight=np.ones(4)), SCORES, LABELS, r"for each of 5 classes, got \(4,\)"),
    "smoothing": (losses.CrossEntropy(label_smoothing=1.5), SCORES, LABELS, "must be from 0 to 1, got 1.5"),
    "delta": (losses.Huber(delta=0), ERRORS, TARGETS, "delta must be above 0, got 0"),
    "beta": (losses.SmoothL1(beta=-1), ERRORS, TARGETS, "beta must not be negative, got -1"),
    "positive": (losses.BCEWithLogits(pos_weight=np.ones(3)), ERRORS, TARGETS, r"broadcast to the output, got \(3,\)"),
    "reduction": (losses.MSE(reduction="median"), ERRORS, TARGETS, "must be 'mean', 'sum' or 'none', got 'median'"),
    "integers": (losses.MSE(), LABELS, LABELS, "the output must be floating point"),
    "penalty": (losses.MSE() + losses.L2Penalty(1.0), ERRORS, TARGETS, "match must name trained parameters"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_errors(name: str) -> None:
    loss, output, target, message = WRONG[name]
    with pytest.raises(GraphError, match=message):
        build(loss, output, target)


@pytest.mark.parametrize(("several", "count"), [((1, 2), 2), (None, 0)])
def test_several_outputs_are_for_functions(several: Any, count: int) -> None:
    with pytest.raises(GraphError, match=f"CrossEntropy: there must be one output, got {count}"):
        losses.CrossEntropy()(Builder("loss"), several, several)


def test_names() -> None:
    assert losses.find_loss("huber") == losses.Huber()
    with pytest.raises(UnsupportedError, match=r"loss must be one of cross_entropy, nll, .* got 'hinge'"):
        losses.find_loss("hinge")


def test_the_page_names_every_loss_with_its_defaults() -> None:
    page = (Path(cnncc.__file__).parent.parent / "docs" / "training.md").read_text()
    for name, record in losses.LOSSES.items():
        defaults = ", ".join(f"{f.name}={getattr(record, f.name)!r}".replace("'", '"') for f in fields(record))
        assert f"`{name}`" in page
        assert f"`{type(record).__name__}({defaults})`" in page
