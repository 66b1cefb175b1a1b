"""Options and output that the commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
from rich.console import Console

from cnncc.errors import ModelFileError

F = TypeVar("F", bound=Callable[..., Any])


def console() -> Console:
    """Where people read; honours NO_COLOR, and a pipe's width is not cut."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def print_json(data: Any) -> None:
    """Machine-readable output, one document."""
    click.echo(json.dumps(data, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


class ShapeType(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """NAME=1x3x224x224; a name in place of a number is a symbolic dimension."""

    name = "name=1x3x224x224"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        name, separator, text = str(value).rpartition("=")
        dims = [int(d) if d.isdigit() else d for d in text.split("x") if d]
        if not separator or not name or not dims:
            self.fail(f"a shape looks like input=1x3x224x224, got {value!r}", param, ctx)
        return name, tuple(dims)


def model_argument(function: F) -> F:
    """MODEL: a file that must exist."""
    return click.argument("model", type=click.Path(path_type=Path))(function)


def compile_options(function: F) -> F:
    """--shape, --target, --threads, --accuracy."""
    for option in (
        click.option(
            "--accuracy", type=click.Choice(["strict", "default", "fast"]), default="default", show_default=True
        ),
        click.option("--threads", type=click.IntRange(1), help="Threads a run may use.  [default: the processors]"),
        click.option("--target", default="native", show_default=True, help="native, avx2, avx512, cuda:sm_90, ..."),
        click.option("--shape", "shapes", multiple=True, type=ShapeType(), help="Fix an input's shape; repeatable."),
    ):
        function = option(function)
    return function


json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


def need_file(path: Path) -> Path:
    """The path, if there is such a file. Raises ModelFileError otherwise."""
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such file")
    return path


def read_arrays(inputs: tuple[str, ...]) -> dict[str, np.ndarray]:
    """NAME=file.npy pairs, or one .npz file --> arrays by name. Raises ModelFileError naming the file."""
    arrays: dict[str, np.ndarray] = {}
    for text in inputs:
        name, _, file = text.rpartition("=")
        try:
            loaded = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ModelFileError(f"{file}: must be a .npy or .npz file, {error}") from None
        if isinstance(loaded, np.ndarray):
            arrays[name] = loaded
        else:
            arrays.update({k: loaded[k] for k in loaded.files})
    return arrays


def random_inputs(arguments: Any, seed: int = 0, batch: int = 1) -> dict[str, np.ndarray]:
    """Seeded arrays for inputs: normal floats, small integers; symbolic sizes become `batch`."""
    rng = np.random.default_rng(seed)
    result = {}
    for a in arguments:
        shape = [d if isinstance(d, int) else batch for d in a.shape]
        dtype = np.dtype(a.dtype)
        data = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
        result[a.name] = data.astype(dtype)
    return result


def open_model(path: Path, target: str, threads: int | None, shapes: Any, accuracy: Any, progress: Any = None) -> Any:
    """A compiled file is loaded, anything else compiled."""
    import cnncc

    need_file(path)
    with path.open("rb") as file:
        head = file.read(4)
    if head == b"PK\x03\x04":
        return cnncc.load(path)
    return cnncc.compile(path, target, threads, dict(shapes) or None, accuracy, progress=progress)
