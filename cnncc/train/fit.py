"""`fit`: epochs of training steps, with validation, early stopping, checkpoints, logs and a watch on NaN."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnncc.errors import GraphError
from cnncc.ir.graph import Graph
from cnncc.losses import NLL, CrossEntropy, MultiMargin, find_loss
from cnncc.nn.module import Module
from cnncc.optim import Optimizer
from cnncc.train.augment import Transform
from cnncc.train.data import Arrays, as_data, is_pair
from cnncc.train.evaluate import ArrayMetric
from cnncc.train.files import check_folder
from cnncc.train.history import History
from cnncc.train.loop import Plan, Run
from cnncc.train.progress import Reporter, Style, find_reporter
from cnncc.train.step import TrainStep
from cnncc.train.stopping import EarlyStopping

PathLike = str | os.PathLike[str]


def fit(
    model: TrainStep | Module | Graph | PathLike,
    data: Any,
    *,
    loss: Any = "cross_entropy",
    optimizer: Optimizer | None = None,
    validation: Any = None,
    epochs: int = 10,
    batch: int = 64,
    schedule: Any = None,
    early_stopping: int | EarlyStopping | None = None,
    metrics: Mapping[str, ArrayMetric] | None = None,
    augment: Sequence[Transform] = (),
    checkpoint: PathLike | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    log: PathLike | None = None,
    plot: PathLike | None = None,
    progress: Style | Reporter = "auto",
    detect_nan: bool = True,
    seed: int = 0,
    target: str = "native",
    threads: int | None = None,
    on_epoch: Callable[[History], None] | None = None,
) -> History:
    """Train a model; returns the History, whose `model` is the trained one.

    model: a TrainStep, or what one is made of (a module, a graph, an .onnx file) with `loss` and `optimizer`; one that
        is made here measures accuracy where the loss is of classes.
    data: a pair of arrays (x, y), each also a tuple or dict of arrays, an ImageFolder, an iterable of batches (x, y)
        such as a torch DataLoader, or a function epoch -> iterable; x and y of a batch are what the step takes. Arrays
        and folders are cut into batches of `batch` samples, shuffled anew every epoch by `seed`; the last batch may be
        smaller.
    validation: the same kinds of data; or a number, the fraction of arrays (x, y) to hold back.
    schedule: a schedule of `cnncc.optim.schedules`, or a function of the number of steps done -> learning rate.
    early_stopping: an EarlyStopping, or its patience in epochs; needs `validation`. The model then ends with the
        parameters of its best epoch.
    metrics: functions (output, y) -> mean over a batch, of the validation data. "accuracy" is there by itself where
        outputs [N, C, ...] stand beside integer labels [N, ...].
    augment: transforms of `cnncc.train.augment`, or functions (rng, x, y) -> (x, y), for training data.
    checkpoint: a file, written after every epoch and every `checkpoint_every` steps; with `resume` a run goes on from
        it, where there is one, to the same bits as a run that was never interrupted.
    log, plot: a .csv file of a row per epoch; a .png or .svg chart of the losses.
    progress: "bar", "lines", "none" or "auto" (a bar on a terminal).
    detect_nan: on a loss, parameter or statistic that is not finite, find the first layer that made it, and raise
        NonFiniteError; the step is left as it was before that update. See `cnncc.train.nonfinite` for what it costs.
    on_epoch: called with the History so far after every epoch.

    Raises GraphError for arguments that do not fit together, ModelFileError for a checkpoint that is damaged or of
    another run, UnsupportedError where a chart is asked for without matplotlib, NonFiniteError.
    """
    step = as_step(model, loss, optimizer, target, threads)
    if plot is not None:
        from cnncc.bench.plot import check_plot

        check_plot(Path(plot))
    for path in (checkpoint, log, plot):
        if path is not None:
            check_folder(Path(path))
    if epochs < 1:
        raise GraphError(f"epochs must be at least 1, got {epochs}")
    if isinstance(early_stopping, int):
        early_stopping = EarlyStopping(early_stopping)
    if early_stopping is not None and validation is None:
        raise GraphError("early_stopping needs validation data: give validation=(x, y), or a fraction of the data")
    if resume and checkpoint is None:
        raise GraphError("resume needs the checkpoint's file: give checkpoint=PATH")
    if checkpoint_every is not None and checkpoint_every < 1:
        raise GraphError(f"checkpoint_every must be at least 1 step, got {checkpoint_every}")
    if isinstance(validation, float):
        if not isinstance(data, Arrays) and not is_pair(data):
            raise GraphError("validation as a fraction needs data as a pair of arrays (x, y)")
        data, validation = (data if isinstance(data, Arrays) else Arrays(*data)).split(validation, seed)
    plan = Plan(
        data=as_data(data, batch, seed, tuple(augment)),
        validation=None if validation is None else as_data(validation, batch, seed, tuple(augment), training=False),
        epochs=epochs,
        schedule=schedule,
        early_stopping=early_stopping,
        metrics=dict(metrics or {}),
        checkpoint=None if checkpoint is None else Path(checkpoint),
        every=checkpoint_every,
        log=None if log is None else Path(log),
        plot=None if plot is None else Path(plot),
        detect_nan=detect_nan,
        on_epoch=on_epoch,
    )
    return Run(step, plan, find_reporter(progress)).train(resume)


def as_step(model: Any, loss: Any, optimizer: Optimizer | None, target: str, threads: int | None) -> TrainStep:
    """The step that `fit` was given, or one made of a model."""
    if isinstance(model, TrainStep):
        if optimizer is not None:
            raise GraphError("fit: a TrainStep has its optimizer already; give a model to choose another")
        return model
    if optimizer is None:
        raise GraphError("fit: a model needs an optimizer, e.g. optimizer=cnncc.optim.SGD(lr=0.1, momentum=0.9)")
    if isinstance(model, (str, os.PathLike, bytes)) or hasattr(model, "SerializeToString"):
        from cnncc.edges.onnx_import import load_onnx

        model = load_onnx(model)
    measured = ["accuracy"] if isinstance(find_loss(loss), (CrossEntropy, NLL, MultiMargin)) else []
    return TrainStep(model, loss, optimizer, target, threads, metrics=measured)
