"""Python objects by name: "module:function" or "file.py:function?key=value&...". Loading one runs its code."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from cnncc.errors import GraphError


def is_reference(text: str) -> bool:
    """Whether a text names a function (and not a file)."""
    place, colon, call = text.partition(":")
    return bool(colon) and call.partition("?")[0].isidentifier() and not place.endswith(".onnx")


def find(reference: str, folder: Path | None = None) -> Any:
    """What a reference names, without calling it. Files are looked for in `folder` (else here).

    Raises GraphError where there is no such file, module or name.
    """
    place, _, call = reference.partition(":")
    name = call.partition("?")[0]
    if place.endswith(".py"):
        path = Path(place) if folder is None else folder / place
        spec = importlib.util.spec_from_file_location(f"cnncc_reference_{path.stem}", path)
        if spec is None or spec.loader is None or not path.is_file():
            raise GraphError(f"{path}: not a Python file that can be imported")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except ModuleNotFoundError as error:
            raise GraphError(f"{reference}: {error}") from None
    else:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise GraphError(f"{reference}: {error}") from None
    if not hasattr(module, name):
        raise GraphError(f"{reference}: {place} has no {name}")
    return getattr(module, name)


def call(reference: str, folder: Path | None = None) -> Any:
    """Calls the function; arguments behind "?" are passed by keyword, as Python literals where they are ones."""
    query = reference.partition(":")[2].partition("?")[2]
    arguments = {key: _literal(value) for key, value in parse_qsl(query, strict_parsing=bool(query))}
    return find(reference, folder)(**arguments)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
