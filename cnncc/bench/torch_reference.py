"""torch modules by name, "module:function" or "file.py:function?key=value&...": no pickle crosses a process."""

from __future__ import annotations

import importlib.util
from typing import Any

from cnncc.errors import GraphError
from cnncc.reference import call


def load(reference: str) -> tuple[Any, tuple[Any, ...] | None]:
    """Calls the function; it returns a torch.nn.Module, or (module, example inputs)."""
    made = call(reference)
    if isinstance(made, tuple):
        net, example = made
        return net, tuple(example) if isinstance(example, (tuple, list)) else (example,)
    return made, None


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
