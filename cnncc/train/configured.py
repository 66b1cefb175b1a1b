"""From a checked configuration to a trained model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cnncc import nn, optim
from cnncc.errors import CnnccError, GraphError, ModelFileError
from cnncc.ir.graph import Graph
from cnncc.losses import LOSSES
from cnncc.optim import schedules
from cnncc.reference import call, find, is_reference
from cnncc.train import augment
from cnncc.train.config import Config
from cnncc.train.data import Arrays, as_data
from cnncc.train.evaluate import evaluate
from cnncc.train.files import check_folder
from cnncc.train.fit import as_step, fit
from cnncc.train.folders import ImageFolder
from cnncc.train.history import History
from cnncc.train.stopping import EarlyStopping

_NOT_BY_NAME = ("Schedule", "LambdaLR", "SequentialLR", "ChainedScheduler")  # they take more than numbers
TRANSFORMS = {"Flip": augment.Flip, "RandomCrop": augment.RandomCrop, "Normalise": augment.Normalise}


@dataclass(frozen=True)
class Outcome:
    """What a run gave: its history, metrics of the test data (where there is some), where the model was written."""

    history: History
    test: Mapping[str, float]
    output: Path | None


def run_config(config: Config, epochs: int | None = None, resume: bool = False, progress: Any = "auto") -> Outcome:
    """Train as a file says. Raises ModelFileError naming the key where a value does not work out."""
    values, tables = config.values, config.tables
    output = config.file("output")
    if output is not None and output.suffix != ".onnx":
        raise config.fail("output", f"must end with .onnx, got {output.name}")
    if output is not None:
        check_folder(output)
    nn.manual_seed(values["seed"])
    data = _source(config, "train")
    step = as_step(_model(config), _loss(config), _optimizer(config), values["target"], values["threads"])
    transforms = tuple(_named(config, f"augment {k}", t, TRANSFORMS) for k, t in enumerate(config.augment, 1))
    validation = tables["data"]["validation"]
    stopping = tables.get("early_stopping")
    history = fit(
        step, data,
        validation=validation if isinstance(validation, float) else _source(config, "validation", data),
        epochs=epochs or values["epochs"], batch=values["batch"], seed=values["seed"],
        schedule=_schedule(config, step.optimizer, epochs or values["epochs"], data), augment=transforms,
        early_stopping=None if stopping is None else EarlyStopping(**stopping),
        checkpoint=config.file("checkpoint"), checkpoint_every=values["checkpoint_every"], resume=resume,
        log=config.file("log"), plot=config.file("plot"), progress=progress, detect_nan=values["detect_nan"],
    )  # fmt: skip
    test: dict[str, float] = {}
    held = _source(config, "test", data)
    if held is not None:
        batches = as_data(held, values["batch"], values["seed"], transforms, training=False).batches(0)
        test = evaluate(step, batches, {})
    if output is not None:
        try:
            step.to_onnx(output)
        except OSError as error:
            raise ModelFileError(f"{output}: cannot be written, {error}") from None
    return Outcome(history, test, output)


def _model(config: Config) -> Any:
    text = config.values["model"]
    if is_reference(text):
        made = _python(config, "model", lambda: call(text, config.path.parent))
        if not isinstance(made, (nn.Module, Graph)):
            raise config.fail("model", f"must return a cnncc.nn module or a graph, got {type(made).__name__}")
        return made
    from cnncc.edges.onnx_import import load_onnx

    return load_onnx(config.path.parent / text)


def _loss(config: Config) -> Any:
    given = config.values["loss"]
    if isinstance(given, dict):
        if "name" not in given:
            raise config.fail("[loss] 'name'", "is missing: a class of cnncc.losses")
        return _named(config, "loss", given, {type(v).__name__: type(v) for v in LOSSES.values()})
    if is_reference(given):
        return _python(config, "loss", lambda: find(given, config.path.parent))
    if given not in LOSSES:
        raise config.fail("'loss'", f'must be one of {", ".join(LOSSES)}, or "module:function", got {given!r}')
    return LOSSES[given]


def _optimizer(config: Config) -> Any:
    known = {n: getattr(optim, n) for n in dir(optim) if _is_rule(getattr(optim, n))}
    table = dict(config.tables["optimizer"])
    groups = table.pop("groups", [])
    if not isinstance(groups, list) or not all(isinstance(g, dict) and "match" in g for g in groups):
        raise config.fail("[optimizer] 'groups'", f"must be tables with a key 'match', got {groups!r}")
    made = _named(config, "optimizer", table, known)
    if groups:
        made = replace(made, groups=tuple(optim.Group(**g) for g in groups))
    return made


def _is_rule(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, optim.Optimizer) and value is not optim.Optimizer


def _schedule(config: Config, optimizer: Any, epochs: int, data: Any) -> Any:
    """A schedule that is to last for the whole run need not be told how long that is."""
    table = config.tables.get("schedule")
    if table is None:
        return None
    known = {n: getattr(schedules, n) for n in schedules.__all__ if n not in _NOT_BY_NAME}
    name = str(table["name"]).lower()
    length = as_data(data, config.values["batch"]).length
    whole: dict[str, int] = {}
    if name == "onecyclelr" and "total_steps" not in table and length is not None:
        whole = {"epochs": epochs, "steps_per_epoch": length}
    elif name == "cosineannealinglr" and table.get("every") != "batch":
        whole = {"T_max": epochs}
    elif name == "cosineannealinglr" and length is not None:
        whole = {"T_max": epochs * length}
    return _named(config, "schedule", whole | dict(table), known, optimizer)


def _named(config: Config, place: str, table: Mapping[str, Any], known: Mapping[str, Any], *first: Any) -> Any:
    """An object by its class's name, with the other keys as arguments."""
    names = {n.lower(): n for n in known}
    name = names.get(str(table["name"]).lower())
    if name is None:
        raise config.fail(f"[{place}] 'name'", f"must be one of {', '.join(known)}, got {table['name']!r}")
    arguments = {k: v for k, v in table.items() if k != "name"}
    allowed = list(inspect.signature(known[name]).parameters)[len(first) :]
    for key in arguments:
        if key not in allowed:
            raise config.fail(f"[{place}]", f"{name} has no '{key}'; it has {', '.join(allowed)}")
    try:
        return known[name](*first, **arguments)
    except (CnnccError, TypeError, ValueError) as error:
        raise config.fail(f"[{place}]", str(error)) from None


def _source(config: Config, key: str, trained: Any = None) -> Any:
    """The data of a key of [data], None where it is not given."""
    table = config.tables["data"]
    text = table[key]
    if text is None:
        return None
    if is_reference(text):
        return _python(config, f"[data] '{key}'", lambda: call(text, config.path.parent))
    path = config.path.parent / text
    if path.is_dir():
        classes = trained.classes if isinstance(trained, ImageFolder) else None
        return ImageFolder(path, _size(config), table["channels"], classes)
    return _arrays(config, key, path, table["x"], table["y"])


def _arrays(config: Config, key: str, path: Path, x: str, y: str) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            if not hasattr(file, "files"):
                raise config.fail(f"[data] '{key}'", f"must be an .npz file, got {path.name}")
            for name, label in ((x, "x"), (y, "y")):
                if name not in file.files:
                    names = ", ".join(file.files)
                    raise config.fail(f"[data] '{label}'", f"must be a name in {path.name} ({names}), got {name!r}")
            return Arrays(file[x], file[y])
    except (OSError, ValueError, EOFError, GraphError) as error:
        raise config.fail(f"[data] '{key}'", f"cannot be used, {error}") from None


def _size(config: Config) -> tuple[int, int] | None:
    size = config.tables["data"]["size"]
    if size is None:
        return None
    if len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise config.fail("[data] 'size'", f"must be [height, width], got {size}")
    return size[0], size[1]


def _python(config: Config, key: str, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except (GraphError, TypeError) as error:
        raise config.fail(key, f"cannot be used, {error}") from None
