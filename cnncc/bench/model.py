"""MODEL and shapes --> files that every system can open, and the arrays they all get."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from cnncc.bench.client import Client
from cnncc.bench.macs import count_macs
from cnncc.errors import GraphError, ModelFileError, UnsupportedError
from cnncc.reference import is_reference


@dataclass(frozen=True)
class Prepared:
    """A model ready for all workers."""

    label: str
    onnx: str
    torch: str | None
    feeds: str
    shapes: dict[str, tuple[int, ...]]
    macs: int | None


def prepare(model: Any, shapes: Mapping[str, tuple[int, ...]] | None, scratch: str, batch: int, seed: int) -> Prepared:
    """Resolves what the user gave: the path of an ONNX file, an onnx.ModelProto, or a torch module's "module:function".

    Symbolic first axes become `batch`. Raises GraphError where another symbol has no shape, ModelFileError,
    UnsupportedError where a torch module cannot be exported.
    """
    reference: str | None = None
    if isinstance(model, onnx.ModelProto):
        label, path = model.graph.name or "model", os.path.join(scratch, "model.onnx")
        onnx.save(model, path)
    elif is_reference(str(model)):
        label, reference, path = str(model), str(model), os.path.join(scratch, "model.onnx")
        with Client(threads=1) as exporter:
            reply = exporter.ask(
                "export", limit=600, torch=reference, path=path, shapes=dict(shapes) if shapes else None
            )
        if not reply["ok"]:
            raise UnsupportedError(f"{reference}: cannot be exported to ONNX: {reply['reason']}")
    else:
        path = os.path.abspath(model)
        label = Path(path).name
    try:
        proto = onnx.load(path, load_external_data=False)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file") from None
    except Exception as error:  # protobuf's own exception type has moved between its versions
        raise ModelFileError(f"{path}: not an ONNX file: {error}") from None
    arrays = _arrays(proto, shapes or {}, batch, seed)
    feeds = os.path.join(scratch, "feeds.npz")
    np.savez(feeds, **arrays)  # type: ignore[arg-type]  # a name may be one of numpy's own keywords: it does not know
    fixed = {name: array.shape for name, array in arrays.items()}
    return Prepared(label, path, reference, feeds, fixed, count_macs(proto, fixed))


def _arrays(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], batch: int, seed: int
) -> dict[str, np.ndarray]:
    """Seeded inputs: N(0, 1), or 0 and 1 for integers and bools."""
    rng = np.random.default_rng(seed)
    constants = {i.name for i in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    unknown = set(shapes) - {value.name for value in inputs}
    if unknown:
        names = ", ".join(value.name for value in inputs)
        raise GraphError(f"{', '.join(sorted(unknown))}: not an input of the model, which has {names}")
    arrays = {}
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        declared: list[int | str] = [d.dim_value if d.HasField("dim_value") else (d.dim_param or "?") for d in dims]
        if declared and isinstance(declared[0], str):
            declared[0] = batch
        given = shapes.get(value.name, declared)
        shape = tuple(d for d in given if isinstance(d, int))
        if len(shape) < len(given):
            raise GraphError(
                f"{value.name}: every extent needs a number to be timed, got {tuple(given)}; give its shape"
            )
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        normal = np.issubdtype(kind, np.floating)
        arrays[value.name] = (rng.standard_normal(shape) if normal else rng.integers(0, 2, shape)).astype(kind)
    return arrays
