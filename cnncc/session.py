"""onnxruntime's interface over a compiled model: ``InferenceSession(path).run(None, feeds)``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.errors import GraphError

if TYPE_CHECKING:
    import onnx

_TYPES = {
    "float16": "float16", "bfloat16": "bfloat16", "float32": "float", "float64": "double", "bool": "bool",
    "int8": "int8", "int16": "int16", "int32": "int32", "int64": "int64",
    "uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "uint64": "uint64",
}  # fmt: skip


@dataclass(frozen=True)
class NodeArg:
    """An input or output: its name, its shape (numbers, names of symbols), its type as onnxruntime writes it."""

    name: str
    shape: list[int | str]
    type: str


class InferenceSession:
    """A compiled model behind the signatures of onnxruntime.InferenceSession.

    sess_options: its intra_op_num_threads is taken where it is set; nothing else of it. providers: with
    "CUDAExecutionProvider" first the model is compiled for the GPU, otherwise for this CPU. Further keywords go to
    `cnncc.compile` (target, threads, shapes, accuracy).
    """

    def __init__(
        self,
        path_or_bytes: str | os.PathLike[str] | bytes | onnx.ModelProto,
        sess_options: Any = None,
        providers: Sequence[str | tuple[str, Any]] | None = None,
        provider_options: Any = None,
        **options: Any,
    ):
        from cnncc.driver import compile

        first = providers[0] if providers else "CPUExecutionProvider"
        name = first if isinstance(first, str) else first[0]
        if name == "CUDAExecutionProvider":
            options.setdefault("target", "cuda")
        threads = getattr(sess_options, "intra_op_num_threads", 0)
        if threads:
            options.setdefault("threads", threads)
        self._providers = [name]
        self.executable = compile(path_or_bytes, **options)

    def get_inputs(self) -> list[NodeArg]:
        """The model's inputs, in order."""
        return [_node_arg(a) for a in self.executable.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """The model's outputs, in order."""
        return [_node_arg(a) for a in self.executable.outputs]

    def get_providers(self) -> list[str]:
        """The provider that stands for the target."""
        return list(self._providers)

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None
    ) -> list[np.ndarray]:
        """Results in the order of output_names (None: all outputs). Raises GraphError for wrong names and shapes."""
        known = [a.name for a in self.executable.outputs]
        names = known if output_names is None else list(output_names)
        unknown = [n for n in names if n not in known]
        if unknown:
            raise GraphError(f"there is no output {', '.join(unknown)}; the outputs are {', '.join(known)}")
        results = self.executable.run(input_feed)
        return [results[n] for n in names]


def _node_arg(argument: Any) -> NodeArg:
    return NodeArg(argument.name, list(argument.shape), f"tensor({_TYPES[np.dtype(argument.dtype).name]})")
