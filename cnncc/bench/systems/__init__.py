"""The systems that can be timed. Each is opened in a process of its own; nothing here imports any of them.

A system's module has one function, `start(job) -> Session`; it raises MissingError where the system cannot run the job
and that is nobody's mistake (not installed, or the model's form does not suit it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class MissingError(Exception):
    """A system cannot take part; the text says why and what would help."""


@dataclass(frozen=True)
class Job:
    """What a worker is asked to open. Paths are of files that outlive the worker.

    `instances`: how many runs are to be possible at once, with `threads` threads each.
    """

    onnx: str
    feeds: dict[str, np.ndarray]
    threads: int
    scratch: str
    torch: str | None = None  # "module:function" of the torch module, where the model came from one
    options: dict[str, Any] = field(default_factory=dict)
    instances: int = 1


@dataclass(frozen=True)
class Session:
    """An opened model: `run` is what is timed, `fetch` turns its result into arrays in the order of the outputs.

    `lanes`: what is timed where several instances are wanted: functions that may run at once, each on one thread.
    """

    version: str
    run: Callable[[], Any]
    fetch: Callable[[Any], Sequence[np.ndarray]]
    lanes: Sequence[Callable[[], Any]] = ()
    seconds: float | None = None  # opening, where that is not all of the time that `start` took


@dataclass(frozen=True)
class System:
    """A system by the name users give: where it is implemented, how it differs from its siblings, what it needs."""

    name: str
    module: str
    packages: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)


_CNNCC = ("tvm", "tvm_ffi_orcjit")
_TABLE = (
    System("cnncc", "cnncc_system", _CNNCC),
    System("cnncc-strict", "cnncc_system", _CNNCC, {"accuracy": "strict"}),
    System("cnncc-loaded", "cnncc_system", _CNNCC, {"loaded": True}),
    System("cnncc-fast", "cnncc_system", _CNNCC, {"accuracy": "fast"}),
    System("torch", "torch_system", ("torch",)),
    System("torch-channels-last", "torch_system", ("torch",), {"channels_last": True}),
    System("torch-compile", "torch_system", ("torch",), {"compile": True}),
    System("onnxruntime", "onnxruntime_system", ("onnxruntime",)),
    System("openvino", "openvino_system", ("openvino",)),
    System("ncnn", "ncnn_system", ("ncnn", "pnnx")),
)
SYSTEMS: dict[str, System] = {system.name: system for system in _TABLE}
WITHOUT = "cnncc-without-"  # cnncc without a kind of fusion (`cnncc.passes.fusion.KINDS`)


def find_system(name: str) -> System | None:
    """The system of a name; None where there is none."""
    if name.startswith(WITHOUT):
        return System(name, "cnncc_system", _CNNCC, {"without": [name.removeprefix(WITHOUT)]})
    return SYSTEMS.get(name)
