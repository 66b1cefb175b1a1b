"""torch modules by name, "module:function" or "file.py:function?key=value&...": no pickle crosses a process."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from typing import Any
from urllib.parse import parse_qsl

from cnncc.errors import GraphError


def is_reference(text: str) -> bool:
    """Whether a MODEL names a torch module (and not a file)."""
    place, colon, call = text.partition(":")
    return bool(colon) and call.partition("?")[0].isidentifier() and not place.endswith(".onnx")


def load(reference: str) -> tuple[Any, tuple[Any, ...] | None]:
    """Calls the function; it returns a torch.nn.Module, or (module, example inputs).

    Arguments behind "?" are passed by keyword, as Python literals where they are ones, else as text.
    """
    place, _, call = reference.partition(":")
    name, _, query = call.partition("?")
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location("cnncc_bench_model", place)
        if spec is None or spec.loader is None:
            raise GraphError(f"{place}: not a Python file that can be imported")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    made = getattr(module, name)(
        **{key: _literal(value) for key, value in parse_qsl(query, strict_parsing=bool(query))}
    )
    if isinstance(made, tuple):
        net, example = made
        return net, tuple(example) if isinstance(example, (tuple, list)) else (example,)
    return made, None


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def export(reference: str, path: str, shapes: dict[str, tuple[int, ...]] | None) -> None:
    """Writes the module as an ONNX file, at the shapes of its example inputs or at the given ones."""
    import warnings

    import torch

    net, example = load(reference)
    if shapes:
        example = tuple(torch.zeros(shape) for shape in shapes.values())
    if example is None:
        raise GraphError(f"{reference}: the function returns no example inputs; give shapes, e.g. input=1x3x224x224")
    dynamo = importlib.util.find_spec("onnxscript") is not None
    kinds: dict[str, Any] = {"dynamo": True, "external_data": False, "verbose": False} if dynamo else {"dynamo": False}
    if shapes:
        kinds["input_names"] = list(shapes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        torch.onnx.export(net.eval(), example, path, **kinds)
