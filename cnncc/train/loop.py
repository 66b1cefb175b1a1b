"""The loop of `fit`: what a run is at any moment, and how it goes on, is saved and is taken up again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from cnncc.errors import GraphError, ModelFileError
from cnncc.optim import Optimizer
from cnncc.train.checkpoint import META, Checkpoint, check_arrays, check_equal, load_checkpoint, save_checkpoint
from cnncc.train.data import Data, count_samples
from cnncc.train.evaluate import ArrayMetric, evaluate
from cnncc.train.history import Epoch, History
from cnncc.train.nonfinite import Watch
from cnncc.train.progress import Reporter
from cnncc.train.schedule import Rate
from cnncc.train.step import TrainStep
from cnncc.train.stopping import Best, EarlyStopping


@dataclass(frozen=True)
class Plan:
    """What `fit` was asked for."""

    data: Data
    validation: Data | None
    epochs: int
    schedule: Any
    early_stopping: EarlyStopping | None
    metrics: Mapping[str, ArrayMetric]
    checkpoint: Path | None
    every: int | None
    log: Path | None
    plot: Path | None
    detect_nan: bool
    on_epoch: Callable[[History], None] | None


@dataclass
class Position:
    """Where a run is: the epoch (from 0), batches and samples done in it, sums of what they gave, steps in total.

    weights: samples of the batches that gave each result (not every batch makes an update, whose norm is one). seconds:
    of the steps of this epoch; compiling is not in it.
    """

    epoch: int = 0
    batch: int = 0
    samples: int = 0
    steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, result: Mapping[str, float], samples: int, seconds: float) -> None:
        """One step is done."""
        for name, value in result.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value) * samples
            self.weights[name] = self.weights.get(name, 0) + samples
        self.batch, self.steps = self.batch + 1, self.steps + 1
        self.samples, self.seconds = self.samples + samples, self.seconds + seconds

    def means(self) -> dict[str, float]:
        """Means over the samples of this epoch."""
        return {name: value / self.weights[name] for name, value in self.sums.items()}

    def next_epoch(self) -> None:
        """An epoch is done."""
        self.epoch, self.batch, self.samples, self.seconds = self.epoch + 1, 0, 0, 0.0
        self.sums, self.weights = {}, {}

    @property
    def speed(self) -> float:
        """Samples per second."""
        return self.samples / max(self.seconds, 1e-9)


class Run:
    """A training run in progress."""

    def __init__(self, step: TrainStep, plan: Plan, reporter: Reporter):
        self.step, self.plan, self.reporter = step, plan, reporter
        self.at = Position()
        self.history = History()
        self.rate = Rate(step.optimizer, plan.schedule)
        self.best = Best(plan.early_stopping or EarlyStopping(patience=plan.epochs))
        self.lr = float(step.optimizer.lr)  # of the last step
        self.settings = optimizer_settings(step.optimizer)  # some schedules change more than the rate later
        self.best_state: Mapping[str, np.ndarray] = {}
        self._found: Mapping[str, np.ndarray] | None = None  # the state of a checkpoint, not taken back yet
        self.watch = Watch(step) if plan.detect_nan else None

    def train(self, resume: bool) -> History:
        """All epochs that are left."""
        if resume and self.plan.checkpoint is not None and self.plan.checkpoint.exists():
            self._restore(self.plan.checkpoint)
        self.reporter.start(self.plan.epochs, self.at.epoch, self.plan.data.length)
        try:
            while self.at.epoch < self.plan.epochs and self.history.stopped != "early stopping":
                self._epoch()
        finally:
            self.reporter.close()
            if self.plan.plot is not None and self.history.epochs:
                self.history.plot(self.plan.plot)
        self._finish()
        return self.history

    # -- one epoch ----------------------------------------------------------------------------------------------------

    def _epoch(self) -> None:
        for x, y in self.plan.data.batches(self.at.epoch, self.at.batch):
            if self.step.executable is None or self._found is not None:
                self._prepare(x, y)
            begin = time.perf_counter()
            self.rate.before_step(self.at.steps)
            self.lr = float(self.step.optimizer.lr)
            feeds = self.step.feeds(x, y)
            if self.watch is not None:
                self.watch.before(feeds, self.at.epoch, self.at.steps)
            result = self.step.run(feeds)
            if self.watch is not None:
                self.watch.after(result)
            self.at.add(result, count_samples(x), time.perf_counter() - begin)
            self.reporter.batch(self.at.epoch, self.at.batch, self.at.means(), self.at.speed)
            self.rate.after_step()
            if self.plan.every is not None and self.at.steps % self.plan.every == 0:
                self._save()
        self._close_epoch()

    def _prepare(self, x: Any, y: Any) -> None:
        """Compile, before the first step of this process; only then is it known what state there is to take back."""
        self.step.prepare(x, y)
        if self._found is not None:
            assert self.plan.checkpoint is not None
            check_arrays(self.plan.checkpoint, self._found, self.step.state_dict())
            self.step.load_state_dict(self._found)
            self._found = None

    def _close_epoch(self) -> None:
        if not self.at.batch:
            raise GraphError("data: an epoch must have at least one batch, got none")
        if self.watch is not None:
            self.watch.check_state()
        at, validation = self.at, self._validate()
        record = Epoch(
            at.epoch + 1, at.steps, self.lr, at.means(), validation,
            at.speed, at.seconds,
        )  # fmt: skip
        self.history.epochs.append(record)
        better = bool(validation) and self.best.update(record.epoch, validation)
        if better:
            self.history.best = record.epoch
            if self.plan.early_stopping is not None:
                self.best_state = self._model_state()
        self.rate.after_epoch(record)
        at.next_epoch()
        if self.plan.early_stopping is not None and self.best.exhausted:
            self.history.stopped = "early stopping"
        if self.plan.checkpoint is not None:
            self._save()
        if self.plan.log is not None:
            self.history.write_csv(self.plan.log)
        self.reporter.epoch(record, better)
        if self.plan.on_epoch is not None:
            self.plan.on_epoch(self.history)

    def _validate(self) -> dict[str, float]:
        if self.plan.validation is None:
            return {}
        return evaluate(self.step, self.plan.validation.batches(0), self.plan.metrics)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        if self._found is not None:  # there was nothing left to do
            try:
                self.step.load_state_dict(self._found)
            except GraphError as error:
                raise ModelFileError(f"{self.plan.checkpoint}: the checkpoint is of another model, {error}") from None
        self.history.stopped = self.history.stopped or "epochs"
        if self.best_state:
            self.step.load_state_dict({**self.step.state_dict(), **self.best_state})
            self.history.restored = True
        self.history.model = self.step.sync()

    def _model_state(self) -> dict[str, np.ndarray]:
        """Parameters and buffers, without the optimizer's."""
        own = self.step.module.state_dict()
        return {n: a for n, a in self.step.state_dict().items() if n in own}

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        assert self.plan.checkpoint is not None
        meta = {
            "optimizer": self.settings,
            "data": self.plan.data.describe(),
            "position": asdict(self.at),
            "rate": self.rate.to_dict(),
            "best": self.best.to_dict(),
            "history": self.history.to_dict(),
        }
        save_checkpoint(self.plan.checkpoint, Checkpoint(meta, self.step.state_dict(), self.best_state))

    def _restore(self, path: Path) -> None:
        found = load_checkpoint(path)
        try:
            meta = {k: found.meta[k] for k in ("optimizer", "data", "position", "rate", "best", "history")}
            check_equal(path, meta["optimizer"], self.settings, "optimizer")
            check_equal(path, meta["data"], self.plan.data.describe(), "data")
            self.at, self.history = Position(**meta["position"]), History.from_dict(meta["history"])
            self.best.load(meta["best"])
            self.rate.load(meta["rate"])
        except (KeyError, TypeError) as error:
            raise ModelFileError(f"{path}: entry '{META}' lacks what a run needs, {error}") from None
        except GraphError as error:
            raise ModelFileError(f"{path}: {error}") from None
        self._found, self.best_state = found.state, found.best
        if self.history.stopped == "epochs":
            self.history.stopped = ""


def optimizer_settings(optimizer: Optimizer) -> dict[str, Any]:
    """What must be equal when a run is resumed: the rule and its numbers, without learning rates (see `Rate`)."""
    names = [f.name for f in fields(optimizer)]  # type: ignore[arg-type]  # optimizers are dataclasses
    numbers = {name: _plain(getattr(optimizer, name)) for name in names if name not in ("lr", "groups")}
    groups = [
        {"match": g.match, "frozen": g.frozen, **{k: _plain(v) for k, v in g.overrides.items() if k != "lr"}}
        for g in optimizer.groups
    ]
    settings: dict[str, Any] = json.loads(json.dumps({"rule": type(optimizer).__name__, **numbers, "groups": groups}))
    return settings


def _plain(value: Any) -> Any:
    """A hyperparameter as JSON has it: numbers of numpy are Python's."""
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value
