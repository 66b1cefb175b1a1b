"""The file that `cnncc train` runs: its keys, their kinds and defaults, and errors that name the key.

`SECTIONS` is all there is to know of the format; docs/training.md has the same table.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnncc.errors import ModelFileError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Key:
    """A key: its name, what its value may be (types, and in words), its default. `...`: it must be given."""

    name: str
    kinds: tuple[type, ...]
    what: str
    default: Any = None
    least: float | None = None


FILE = "a path, relative to this file"
SOURCE = 'an .npz file, a folder of images with a folder per class, or "module:function"'
ANY = "more keys are arguments of the one named"

SECTIONS: dict[str, tuple[Key, ...]] = {
    "": (
        Key(
            "model",
            (str,),
            'an .onnx file, or "module:function" or "file.py:function?width=8" (a cnncc.nn module)',
            ...,
        ),
        Key("loss", (str, dict), 'a name, "module:function", or a table with name and arguments', "cross_entropy"),
        Key("epochs", (int,), "a number of epochs", 10, 1),
        Key("batch", (int,), "samples in a batch", 64, 1),
        Key("seed", (int,), "a number: of weights, shuffling and augmentation", 0, 0),
        Key("threads", (int,), "a number; left out, the processors", None, 1),
        Key("target", (str,), '"native", "avx2", ...', "native"),
        Key("detect_nan", (bool,), "true or false", True),
        Key("output", (str,), f"where the trained model goes: {FILE} (.onnx)"),
        Key("checkpoint", (str,), f"{FILE} (.npz), written after every epoch"),
        Key("checkpoint_every", (int,), "also after so many steps", None, 1),
        Key("log", (str,), f"{FILE} (.csv): a row per epoch"),
        Key("plot", (str,), f"{FILE} (.png or .svg): loss and accuracy"),
        Key("data", (dict,), "a table", ...),
        Key("optimizer", (dict,), "a table", ...),
        Key("schedule", (dict,), "a table"),
        Key("early_stopping", (dict,), "a table"),
        Key("augment", (list,), "tables [[augment]]", ()),
    ),
    "data": (
        Key("train", (str,), SOURCE, ...),
        Key("validation", (str, float), f"{SOURCE}; or a fraction of the training data"),
        Key("test", (str,), f"{SOURCE}; evaluated at the end"),
        Key("x", (str,), "the name of the inputs in .npz files", "x"),
        Key("y", (str,), "the name of the targets in .npz files", "y"),
        Key("size", (list,), "[height, width] that images of folders are resized to"),
        Key("channels", (int,), "of images in folders, 1 or 3", 3, 1),
    ),
    "optimizer": (Key("name", (str,), f"a class of cnncc.optim; {ANY}", ...),),
    "schedule": (Key("name", (str,), f"a class of cnncc.optim.schedules; {ANY}", ...),),
    "early_stopping": (
        Key("patience", (int,), "epochs without improvement", ..., 1),
        Key("monitor", (str,), "a validation metric; left out, accuracy where there is one, else loss"),
        Key("least", (float, int), "by how much it must improve", 0.0, 0),
        Key("higher", (bool,), "true where more is better", False),
    ),
    "augment": (Key("name", (str,), f'"Flip", "RandomCrop" or "Normalise"; {ANY}', ...),),
}
OPEN = ("optimizer", "schedule", "augment")  # sections that take arguments of what they name


@dataclass(frozen=True)
class Config:
    """A checked file. `values` has every key of the top section, `tables` every given section with its defaults."""

    path: Path
    values: Mapping[str, Any]
    tables: Mapping[str, Mapping[str, Any]]
    augment: Sequence[Mapping[str, Any]]

    def file(self, key: str) -> Path | None:
        """A path given at the top, resolved against the file's folder."""
        given = self.values[key]
        return None if given is None else self.path.parent / given

    def fail(self, key: str, rule: str) -> ModelFileError:
        """The error about a key."""
        return ModelFileError(f"{self.path}: {key} {rule}")


def read_config(path: Path) -> Config:
    """Read and check a file. Raises ModelFileError naming the file, the key and what it may be."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path}: cannot be read, {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ModelFileError(f"{path}: must be TOML, {error}") from None
    values = _checked(path, "", data)
    tables = {
        name: _checked(path, name, values[name])
        for name in SECTIONS
        if name not in ("", "augment") and values[name] is not None
    }
    augment = []
    for k, table in enumerate(values["augment"], 1):
        if not isinstance(table, dict):
            raise ModelFileError(f"{path}: augment must be tables [[augment]], got {table!r}")
        augment.append(_checked(path, "augment", table, f"augment {k}"))
    return Config(path, values, tables, augment)


def _checked(path: Path, section: str, data: Mapping[str, Any], shown: str = "") -> dict[str, Any]:
    keys = {key.name: key for key in SECTIONS[section]}
    place = f"[{shown or section}] " if section else ""
    for name in data:
        if name not in keys and section not in OPEN:
            close = difflib.get_close_matches(name, keys, 1)
            hint = f" (did you mean '{close[0]}'?)" if close else ""
            raise ModelFileError(f"{path}: {place}there is no key '{name}'{hint}; keys are {', '.join(keys)}")
    result = dict(data)
    for name, key in keys.items():
        if name not in data:
            if key.default is ...:
                raise ModelFileError(f"{path}: {place}'{name}' is missing: {key.what}")
            result[name] = key.default
            continue
        value = data[name]
        wrong = not isinstance(value, key.kinds) or (isinstance(value, bool) and bool not in key.kinds)
        if wrong or (key.least is not None and value < key.least):
            least = f" of at least {key.least:g}" if key.least is not None else ""
            raise ModelFileError(f"{path}: {place}'{name}' must be {key.what}{least}, got {value!r}")
    return result
