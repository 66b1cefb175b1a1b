"""cnncc: a symbolic compiler for convolutional networks.

    exe = cnncc.compile("model.onnx")
    y = exe.run({"input": x})["output"]

Names are loaded on first use, so that importing the package costs little.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LINKS = os.path.join(os.path.dirname(__file__), "passes")
if os.path.isfile(_LINKS):
    raise ImportError(
        "cnncc/passes must be a link to ../passes, but this checkout has a text file in its place; "
        "run `git config core.symlinks true` and check out again"
    )

_PUBLIC = {
    "Builder": "cnncc.builder",
    "CnnccError": "cnncc.errors",
    "Executable": "cnncc.runtime.executable",
    "Graph": "cnncc.ir.graph",
    "GraphError": "cnncc.errors",
    "InferenceSession": "cnncc.session",
    "ModelFileError": "cnncc.errors",
    "ParseError": "cnncc.errors",
    "RuntimeFault": "cnncc.errors",
    "ScheduleError": "cnncc.errors",
    "Target": "cnncc.targets.target",
    "UnsupportedError": "cnncc.errors",
    "VerifyError": "cnncc.errors",
    "compile": "cnncc.driver",
    "define": "cnncc.ops.registry",
    "grad": "cnncc.autodiff",
    "load": "cnncc.runtime.artifact",
    "load_onnx": "cnncc.edges.onnx_import",
    "parse": "cnncc.ir.parser",
    "to_numpy": "cnncc.edges.numpy_source",
    "to_onnx": "cnncc.edges.onnx_export",
    "value_and_grad": "cnncc.autodiff",
    "vjp": "cnncc.autodiff",
}
_MODULES = ("losses", "nn", "optim", "train", "onnx_backend", "errors")

__all__ = ["__version__", *sorted(_PUBLIC), *_MODULES]

if TYPE_CHECKING:
    from cnncc.builder import Builder as Builder
    from cnncc.driver import compile as compile
    from cnncc.ir.graph import Graph as Graph
    from cnncc.ir.parser import parse as parse
    from cnncc.runtime.artifact import load as load
    from cnncc.runtime.executable import Executable as Executable


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"cnncc.{name}")
    raise AttributeError(f"module 'cnncc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
