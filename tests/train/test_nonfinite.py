"""Where NaN and infinity come from is found although parameters are updated in place."""

from __future__ import annotations

import numpy as np
import pytest

from cnncc import nn, optim
from cnncc.errors import NonFiniteError
from cnncc.losses import find_loss
from cnncc.train import TrainStep, fit, nonfinite

RNG = np.random.default_rng(0)


class Logarithm(nn.Module):
    """log x, which is not finite at 0."""

    def forward(self, x):
        """log x."""
        return x._op("log", x)


class Root(nn.Module):
    """sqrt x: finite at 0, where its gradient is not."""

    def forward(self, x):
        """sqrt(x)."""
        return x._op("sqrt", x)


def network(*middle):
    nn.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Sigmoid(), *middle, nn.Linear(8, 2))


def batches(bad: int):
    """Twelve batches; in one of them (from 0) the inputs are huge, so that sigmoid(x) is 0 somewhere."""
    for k in range(12):
        x = RNG.standard_normal((16, 4)).astype(np.float32)
        yield (x * 1e6 if k == bad else x), np.arange(16) % 2


def run(net, data, lr=0.01, loss="cross_entropy", **options):
    step = TrainStep(net, loss, optim.SGD(lr=lr, momentum=0.9), threads=1, **options)
    try:
        fit(step, data, epochs=1)
    except NonFiniteError as error:
        return step, str(error)
    raise AssertionError("nothing was found")


@pytest.mark.parametrize("copied", [64, 3, 1])
@pytest.mark.parametrize("bad", [0, 5])
def test_a_forward_layer_is_named(bad, copied, monkeypatch):
    monkeypatch.setattr(nonfinite, "STEPS", copied)
    data = list(batches(bad))
    step, message = run(network(Logarithm()), data)
    assert message.startswith(f"step {bad + 1} (epoch 1): the loss is not finite")
    assert "first made by layer '3' (log), forward: " in message
    assert "infinite of 128 values" in message
    # the step is as it was before the bad update: as if only the good ones had been done
    good = TrainStep(network(Logarithm()), "cross_entropy", optim.SGD(lr=0.01, momentum=0.9), threads=1)
    good(*data[0]) if bad else None
    for x, y in data[1:bad]:
        good(x, y)
    if bad:
        assert all(np.array_equal(a, good.state_dict()[n]) for n, a in step.state_dict().items())


def test_a_backward_layer_is_named_though_the_loss_is_finite():
    step, message = run(network(Root()), list(batches(4)))
    assert message.startswith("step 5 (epoch 1): the loss is finite, ")
    assert "of the parameters and their state would not be (1.weight" in message
    assert "first made by layer '3' (" in message
    assert ", backward: " in message
    assert all(np.isfinite(a).all() for a in step.state_dict().values())


def test_inputs_are_blamed_for_what_they_hold():
    data = list(batches(-1))
    data[2][0][3, 1] = np.nan
    _, message = run(network(), data)
    assert "step 3 (epoch 1)" in message
    assert "x already held values that are not finite before the step" in message


def test_labels_that_are_no_class_are_blamed():
    data = list(batches(-1))
    data[2][1][3] = 7
    _, message = run(network(), data)
    assert "step 3 (epoch 1): the loss is not finite" in message
    assert (
        "1 NaN of 16 values, from a constant (losses are NaN where a label is neither a class nor ignored)" in message
    )


def test_infinite_constants_are_no_origin():
    class Masked(nn.Module):
        def forward(self, x):
            return x._op("max", x, np.full((1, 8), -np.inf, np.float32)) + np.float32(0)

    class Hidden(nn.Module):
        """-inf that does no harm: exp of it is 0."""

        def forward(self, x):
            return (x + np.array([-np.inf] + [0] * 7, np.float32)).exp()

    _, message = run(network(Masked(), Hidden(), Logarithm()), list(batches(-1)))
    assert "first made by layer '5' (log), forward: 16 infinite of 128 values" in message
    assert "constant" not in message


def test_an_update_that_overflows_is_named():
    def steep(b, output, y):
        return b.mul(find_loss("cross_entropy")(b, output, y), 1e4)

    step, message = run(network(), list(batches(-1)), 3e38, steep)
    assert "update: " in message
    assert step.optimizer.lr == 3e38


@pytest.mark.parametrize("copied", [64, 4])
def test_steps_that_accumulate_are_repeated(copied, monkeypatch):
    monkeypatch.setattr(nonfinite, "STEPS", copied)
    _, message = run(network(Logarithm()), list(batches(7)), accumulate=3)
    assert message.startswith("step 8 (epoch 1): the loss is not finite")
    assert "first made by layer '3' (log), forward: " in message


def test_an_update_of_accumulated_gradients_is_named():
    def steep(b, output, y):
        return b.mul(find_loss("cross_entropy")(b, output, y), 1e4)

    step, message = run(network(), list(batches(-1)), 3e38, steep, accumulate=3)
    assert message.startswith("step 3 (epoch 1): the loss is finite, ")
    assert "update: " in message
    assert step.state_dict()["accumulated.batches"] == 2


def test_growing_weights_are_noticed_at_the_end_of_the_epoch():
    """A gradient that is not finite in the last step has no later loss to show in."""
    _, message = run(network(Root()), list(batches(11)))
    assert message.startswith("step 12 (epoch 1): the loss is finite")


def test_without_the_watch_training_goes_on():
    step = TrainStep(network(Logarithm()), "cross_entropy", optim.SGD(lr=0.01), threads=1)
    history = fit(step, list(batches(2)), epochs=1, detect_nan=False)
    assert not np.isfinite(history.last["loss"])
