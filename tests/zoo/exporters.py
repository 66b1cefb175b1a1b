"""torch module --> ONNX file, by both of torch's exporters."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch


def write_onnx(
    module: torch.nn.Module,
    shape: tuple[int, ...],
    path: Path,
    dynamo: bool,
    symbolic_batch: bool,
    opset: int | None,
) -> None:
    """Writes one self-contained file. A fixed batch is 1; a symbolic one is called "batch"."""
    example = torch.zeros(shape if symbolic_batch else (1, *shape[1:]))
    names = {"input_names": ["input"], "output_names": ["output"], "opset_version": opset}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters warn about their own internals
        if dynamo:
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            shapes = ({0: torch.export.Dim("batch", min=1, max=1024)},) if symbolic_batch else None
            torch.onnx.export(
                module,
                (example,),
                path,
                dynamo=True,
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
                **names,
            )
        else:
            axes = {"input": {0: "batch"}, "output": {0: "batch"}} if symbolic_batch else None
            torch.onnx.export(module, (example,), str(path), dynamo=False, dynamic_axes=axes, **names)
