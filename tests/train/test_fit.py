"""`fit`: the loop, what it reports, early stopping, checkpoints that go on with the same bits, kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cnncc import nn, optim
from cnncc.errors import GraphError, ModelFileError
from cnncc.optim import schedules
from cnncc.train import EarlyStopping, TrainStep, fit
from tests.train.fitting import SGD, X, Y, bits, mlp, network, numbers, train

ROOT = Path(__file__).parent.parent.parent


def test_it_learns_and_tells():
    step, history = train(epochs=12)
    assert [e.epoch for e in history.epochs] == list(range(1, 13))
    assert [e.step for e in history.epochs] == [4 * k for k in range(1, 13)]
    assert history.last["loss"] < 0.5 * history.epochs[0].row()["loss"]
    assert history.last["val_accuracy"] >= 0.9
    assert history.stopped == "epochs"
    assert history.model is step.model
    state = step.state_dict()
    assert all(np.array_equal(a, state[n]) for n, a in history.model.state_dict().items())


def test_a_seed_gives_the_same_run_and_another_one_another():
    (first, a), (second, b), (third, _) = train(), train(), train(seed=4)
    assert bits(first) == bits(second)
    assert numbers(a) == numbers(b)
    assert bits(first) != bits(third)


def test_validation_is_in_evaluation_mode_with_present_parameters():
    """Against the interpreter on the module as it is after the last epoch; batch norm has its running statistics."""
    net = network()
    history = fit(net, (X, Y), optimizer=optim.SGD(lr=0.1), validation=(X[:30], Y[:30]), epochs=2, batch=25, threads=1)
    logits = net.eval()(X[:30])
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(30), Y[:30]]
    assert history.last["val_loss"] == pytest.approx(expected.mean(), rel=1e-5)
    assert history.last["val_accuracy"] == pytest.approx((logits.argmax(1) == Y[:30]).mean())


def test_validation_of_several_batches_is_a_mean_over_samples():
    whole, parts = (train(batch=b, validation=(X, Y), epochs=1, schedule=lambda s: 0.0)[1] for b in (50, 16))
    assert whole.last["val_loss"] == pytest.approx(parts.last["val_loss"], rel=1e-6)


def test_a_fraction_is_held_back():
    _, history = train(validation=0.2, epochs=1)
    assert history.last["step"] == 3  # 40 samples are left
    with pytest.raises(GraphError, match=r"must leave samples on both sides, got 0\.001 of 50"):
        train(validation=0.001)


def test_early_stopping_restores_the_best_weights():
    """The rate grows until it does damage; the parameters of the best epoch come back."""
    kept = {}

    def keep(history):
        kept[len(history.epochs)] = bits(step)

    step = TrainStep(mlp(), "cross_entropy", optim.SGD(**SGD), threads=1)
    history = fit(
        step, (X, Y), validation=(X[:20], Y[:20]), batch=16, epochs=50, schedule=lambda s: 0.01 * 1.3**s,
        early_stopping=EarlyStopping(3, monitor="loss"), on_epoch=keep, detect_nan=False,
    )  # fmt: skip
    assert history.stopped == "early stopping"
    assert history.restored
    assert len(history.epochs) == history.best + 3 < 50
    assert history.best_row["val_loss"] == min(history.column("val_loss"))
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert [bits(step)[n] for n in names] == [kept[history.best][n] for n in names]


def test_of_equal_accuracies_the_lesser_loss_is_better():
    from cnncc.train.stopping import Best

    best = Best(EarlyStopping(2))
    rows = [(0.5, 1.0), (0.5, 0.9), (0.6, 2.0), (0.6, 2.0), (0.5, 0.1)]
    assert [best.update(k, {"accuracy": a, "loss": l}) for k, (a, l) in enumerate(rows)] == [1, 1, 1, 0, 0]
    assert best.exhausted
    with pytest.raises(GraphError, match="monitor must be one of loss, got 'iou'"):
        Best(EarlyStopping(monitor="iou")).update(1, {"loss": 1.0})


def test_user_metrics_are_means_over_samples():
    _, history = train(epochs=1, metrics={"ones": lambda output, y: (y == 1).mean()})
    assert history.last["val_ones"] == pytest.approx((Y[:20] == 1).mean())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"validation": None, "early_stopping": 3}, "early_stopping needs validation data"),
        ({"resume": True}, "resume needs the checkpoint's file"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1 step, got 0"),
        ({"progress": "loud"}, "progress must be 'auto', 'bar', 'lines' or 'none', got 'loud'"),
        ({"schedule": 0.1}, "schedule must be"),
        ({"checkpoint": "nowhere/run.npz"}, "nowhere/run.npz: cannot be written, there is no folder nowhere"),
        ({"schedule": lambda steps: "0.1"}, "a function of the steps done must give a number, got '0.1'"),
        ({"optimizer": optim.SGD()}, "a TrainStep has its optimizer already"),
    ],
)
def test_arguments_that_do_not_fit(options, words):
    with pytest.raises((GraphError, ModelFileError), match=words):
        train(**options)


@pytest.mark.parametrize("data", [[], lambda epoch: iter([])])
def test_an_epoch_without_batches_is_refused(data):
    with pytest.raises(GraphError, match="an epoch must have at least one batch, got none"):
        fit(mlp(), data, optimizer=optim.SGD(**SGD))


def test_targets_may_be_probabilities():
    history = fit(mlp(), (X, np.eye(2, dtype=np.float32)[Y]), optimizer=optim.SGD(**SGD), validation=0.2, epochs=2)
    assert 0 < history.last["val_accuracy"] <= 1


def test_a_model_of_two_inputs_trains_from_arrays():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, a, b):
            return self.left(a) + self.right(b)

    def go(x):
        nn.manual_seed(0)
        return fit(Both(), (x, Y), optimizer=optim.SGD(**SGD), validation=0.25, epochs=2, batch=16, threads=1)

    assert numbers(go((X, X))) == numbers(go({"b": X, "a": X}))


# -- checkpoints ------------------------------------------------------------------------------------------------------


class Stop(Exception):
    """Ends a run from inside, at a batch."""


class StopAfter:
    """A reporter that raises after some batches."""

    def __init__(self, batches: int):
        self.left = batches

    def start(self, *arguments):
        pass

    def batch(self, *arguments):
        self.left -= 1
        if self.left == 0:
            raise Stop

    epoch = close = start


@pytest.mark.parametrize("batches", [1, 4, 6, 11])
def test_a_resumed_run_has_the_same_bits(batches, tmp_path):
    """Interrupted at the start, at the end of an epoch, and within epochs, up to two steps after a checkpoint."""
    expected_step, expected = train()
    with pytest.raises(Stop):
        train(tmp_path, checkpoint_every=3, progress=StopAfter(batches))
    step, history = train(tmp_path, checkpoint_every=3, resume=True)
    assert bits(step) == bits(expected_step)
    assert numbers(history) == numbers(expected)


SCHEDULES = {
    "cosine": lambda o: schedules.CosineAnnealingLR(o, 4),
    "one cycle": lambda o: schedules.OneCycleLR(o, 0.5, total_steps=16),
    "plateau": lambda o: schedules.ReduceLROnPlateau(o, factor=0.5, patience=0, threshold=0.99),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_followed_and_resumed(name, tmp_path):
    """The rates of every epoch's last step; the plateau's follow the validation loss."""
    expected_step, expected = train(scheduled=SCHEDULES[name])
    rates = expected.column("lr")
    if name == "cosine":
        assert rates == pytest.approx([0.1 * (1 + np.cos(np.pi * k / 4)) / 2 for k in range(4)])
    elif name == "one cycle":
        assert rates[0] > 0.4
        assert rates[3] == pytest.approx(0.5 / 25 / 1e4)
    else:
        assert rates == [0.1, 0.1, 0.05, 0.025]  # no epoch takes 99 percent off the loss of the one before
    with pytest.raises(Stop):
        train(tmp_path, checkpoint_every=3, progress=StopAfter(10), scheduled=SCHEDULES[name])
    step, history = train(tmp_path, checkpoint_every=3, resume=True, scheduled=SCHEDULES[name])
    assert bits(step) == bits(expected_step)
    assert numbers(history) == numbers(expected)
    with pytest.raises(ModelFileError, match=r"run\.npz: .* (was made with|another optimizer)"):
        train(tmp_path, resume=True, schedule=None)


def test_schedules_belong_to_the_optimizer():
    with pytest.raises(GraphError, match="must be made with the optimizer of this run"):
        train(schedule=schedules.StepLR(optim.SGD(lr=0.1), 3))


def test_a_finished_run_goes_on_with_more_epochs(tmp_path):
    expected_step, expected = train(epochs=4)
    train(tmp_path, epochs=2)
    step, history = train(tmp_path, epochs=4, resume=True)
    assert bits(step) == bits(expected_step)
    assert numbers(history) == numbers(expected)


def test_resuming_a_finished_run_does_nothing_more(tmp_path):
    first, _ = train(tmp_path, early_stopping=2)
    second, history = train(tmp_path, early_stopping=2, resume=True)
    assert {n: bits(first)[n] for n in ("0.weight", "2.bias")} == {n: bits(second)[n] for n in ("0.weight", "2.bias")}
    assert history.restored


def test_early_stopping_survives_an_interruption(tmp_path):
    options = {"epochs": 30, "schedule": lambda s: 0.01 * 1.3**s, "early_stopping": 3, "detect_nan": False}
    expected_step, expected = train(**options)
    with pytest.raises(Stop):
        train(tmp_path, progress=StopAfter(4 * (expected.best + 1) + 2), **options)
    step, history = train(tmp_path, resume=True, **options)
    assert (history.best, len(history.epochs), history.stopped) == (
        expected.best,
        len(expected.epochs),
        "early stopping",
    )
    assert bits(step)["0.weight"] == bits(expected_step)["0.weight"]


def test_dropout_and_loaders_are_resumed(tmp_path):
    """Random numbers are state of the step; a function of the epoch gives the same batches again."""

    def batches(epoch):
        order = np.random.default_rng(epoch).permutation(50)
        return [(X[order[k : k + 16]], Y[order[k : k + 16]]) for k in range(0, 50, 16)]

    def go(**options):
        nn.manual_seed(1)
        net = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        step = TrainStep(net, "cross_entropy", optim.Adam(lr=0.01), threads=1)
        return step, fit(step, batches, epochs=3, validation=[(X[:9], Y[:9]), (X[9:12], Y[9:12])], **options)

    expected_step, expected = go()
    with pytest.raises(Stop):
        go(checkpoint=tmp_path / "run.npz", checkpoint_every=2, progress=StopAfter(7))
    step, history = go(checkpoint=tmp_path / "run.npz", checkpoint_every=2, resume=True)
    assert bits(step) == bits(expected_step)
    assert numbers(history) == numbers(expected)


def test_a_torch_loader_trains():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    loader = torch.utils.data.DataLoader(data, batch_size=16)
    history = fit(mlp(), loader, optimizer=optim.SGD(**SGD), validation=loader, epochs=3, threads=1)
    assert history.last["loss"] < history.epochs[0].train["loss"]
    assert history.last["step"] == 12
    assert "accuracy" in history.last


CHILD = """
import sys, time
sys.path[:0] = [{root!r}]
from pathlib import Path
from tests.train.test_fit import Silent, train
class Slow(Silent):
    def batch(self, epoch, position, means, speed):
        print(4 * epoch + position, flush=True)
        time.sleep(0.02)
train(Path(sys.argv[1]), epochs=50, checkpoint_every=3, resume=True, progress=Slow())
"""


class Silent(StopAfter):
    """A reporter that says nothing."""

    def __init__(self) -> None:
        super().__init__(-1)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_kill_9_loses_at_most_the_steps_since_the_last_checkpoint(tmp_path):
    from cnncc.train.checkpoint import load_checkpoint

    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(root=str(ROOT)), str(tmp_path)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    done = 0
    for line in process.stdout:
        done = int(line)
        if done >= 17:
            time.sleep(0.01)  # somewhere within the next step
            process.send_signal(signal.SIGKILL)
            break
    done = max([done, *map(int, process.stdout)])  # what it had done when the signal came
    assert process.wait() == -signal.SIGKILL
    saved = load_checkpoint(tmp_path / "run.npz").meta["position"]["steps"]
    assert done - 3 <= saved <= done + 1
    expected, _ = train(epochs=7)
    step, _ = train(tmp_path, epochs=7, checkpoint_every=3, resume=True)
    assert bits(step) == bits(expected)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    train(tmp_path, epochs=1)
    path = tmp_path / "run.npz"
    with pytest.raises(ModelFileError, match=r"run.npz: .* another data: batch was 16, now 8; seed was 3, now 5"):
        train(tmp_path, resume=True, batch=8, seed=5)
    same = TrainStep(mlp(), "cross_entropy", optim.SGD(**SGD), threads=1)
    with pytest.raises(ModelFileError, match=r"another data: fingerprint was \d+, now \d+"):
        fit(same, (X + 1, Y), batch=16, seed=3, checkpoint=path, resume=True, schedule=lambda s: 0.1)
    other = TrainStep(mlp(), "cross_entropy", optim.SGD(lr=0.1, momentum=0.5), threads=1)
    with pytest.raises(ModelFileError, match=r"another optimizer: momentum was 0.9, now 0.5"):
        fit(other, (X, Y), batch=16, seed=3, checkpoint=path, resume=True, schedule=lambda s: 0.1)
    nn.manual_seed(0)
    wide = TrainStep(nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 2)), "cross_entropy", optim.SGD(**SGD))
    with pytest.raises(ModelFileError, match=r"0.weight must be float32\(9, 6\), got float32\(8, 6\)"):
        fit(wide, (X, Y), batch=16, seed=3, checkpoint=path, resume=True, schedule=lambda s: 0.1)


def test_a_checkpoint_of_another_model_is_refused_though_nothing_is_left_to_do(tmp_path):
    train(tmp_path, epochs=1)
    other = TrainStep(nn.Sequential(nn.Linear(6, 2)), "cross_entropy", optim.SGD(**SGD), threads=1)
    path = tmp_path / "run.npz"
    with pytest.raises(ModelFileError, match=r"run.npz: the checkpoint is of another model"):
        fit(other, (X, Y), batch=16, seed=3, epochs=1, checkpoint=path, resume=True, schedule=lambda s: 0.1)


def test_numbers_of_numpy_are_hyperparameters(tmp_path):
    optimizer = optim.AdamW(
        lr=np.float32(0.125), weight_decay=np.float32(0.5), groups=[optim.Group("*.bias", weight_decay=np.float64(0))]
    )
    plain = optim.AdamW(lr=0.125, weight_decay=0.5, groups=[optim.Group("*.bias", weight_decay=0)])
    path = tmp_path / "run.npz"
    fit(mlp(), (X, Y), optimizer=optimizer, epochs=1, checkpoint=path, threads=1)
    history = fit(mlp(), (X, Y), optimizer=plain, epochs=2, checkpoint=path, resume=True, threads=1)
    assert [e.lr for e in history.epochs] == [0.125, 0.125]


def test_resuming_without_a_file_begins(tmp_path):
    _, history = train(tmp_path, epochs=1, resume=True)
    assert len(history.epochs) == 1


# -- what is written --------------------------------------------------------------------------------------------------
