"""cnncc as a backend of the onnx package: onnx.backend.base.Backend.

    from cnncc.onnx_backend import Backend
    outputs = Backend.run_model(model, [x])
    tests = onnx.backend.test.BackendTest(Backend, __name__)

Operators take some inputs (axes, shapes, pads) only as numbers known before compilation. Where a model leaves such an
input open, as the operator tests of onnx do, the model is compiled for the values it gets, once for each set of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.backend.base import Backend as OnnxBackend
from onnx.backend.base import BackendRep, Device, DeviceType, namedtupledict

from cnncc.edges.onnx_import import UnsupportedOperators, load_onnx
from cnncc.errors import GraphError
from cnncc.ir.graph import Graph


class Prepared(BackendRep):  # type: ignore[misc]  # onnx has no types here
    """A model that runs."""

    def __init__(self, model: onnx.ModelProto, target: str = "native", **options: Any):
        self.model = model
        self.options = {"target": target, **options}
        stored = {t.name for t in model.graph.initializer}
        self.inputs = [i.name for i in model.graph.input if i.name not in stored]
        self.outputs = [o.name for o in model.graph.output]
        self._needed: tuple[str, ...] = ()
        self._compiled: dict[tuple[Any, ...], Any] = {}
        try:
            self._compiled[()] = self._compile(load_onnx(model))
        except UnsupportedOperators as error:
            self._needed = needed_inputs(error)
            if not self._needed:
                raise

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Outputs in order, for inputs in order (a sequence, one array, or a mapping by name)."""
        feeds = self._feeds(inputs)
        results = self._executable(feeds).run({k: v for k, v in feeds.items() if k not in self._needed})
        made: tuple[Any, ...] = namedtupledict("Outputs", self.outputs)(*(results[name] for name in self.outputs))
        return made

    def _feeds(self, inputs: Any) -> dict[str, np.ndarray]:
        if isinstance(inputs, Mapping):
            return {name: np.asarray(array) for name, array in inputs.items()}
        arrays = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        if len(arrays) != len(self.inputs):
            raise GraphError(f"the model takes {len(self.inputs)} inputs ({', '.join(self.inputs)}), got {len(arrays)}")
        return {name: np.asarray(array) for name, array in zip(self.inputs, arrays, strict=True)}

    def _executable(self, feeds: Mapping[str, np.ndarray]) -> Any:
        while True:
            key = tuple((n, feeds[n].shape, feeds[n].tobytes()) for n in self._needed)
            if key not in self._compiled:
                try:
                    graph = load_onnx(self.model, constants={n: feeds[n] for n in self._needed})
                except UnsupportedOperators as error:
                    more = tuple(n for n in needed_inputs(error) if n not in self._needed)
                    if not more:
                        raise
                    self._needed += more
                    continue
                self._compiled[key] = self._compile(graph)
            return self._compiled[key]

    def _compile(self, graph: Graph) -> Any:
        from cnncc.driver import compile

        return compile(graph, **self.options)


def needed_inputs(error: UnsupportedOperators) -> tuple[str, ...]:
    """Inputs whose values would make a model possible; none where something else is in the way too."""
    if not all(r.inputs for r in error.records):
        return ()
    return tuple(dict.fromkeys(name for r in error.records for name in r.inputs))


class Backend(OnnxBackend):  # type: ignore[misc]  # onnx has no types here
    """Compiles models with cnncc."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether every operator of the model is supported."""
        try:
            load_onnx(model)
        except UnsupportedOperators as error:
            return bool(needed_inputs(error))
        return True

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> Prepared:
        """Compile a model. Keywords go to `cnncc.compile`."""
        options = {"target": "cuda" if Device(device).type == DeviceType.CUDA else "native", **kwargs}
        return Prepared(model, **options)

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Compile a model and run it once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[Any, Sequence[int]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Compile and run one node. opset_version: of the standard domain, default the newest."""
        version = kwargs.pop("opset_version", onnx.defs.onnx_opset_version())
        names = [name for name in dict.fromkeys(node.input) if name]
        arrays = [np.asarray(a) for a in (inputs.values() if isinstance(inputs, Mapping) else inputs)]
        infos = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in zip(names, arrays, strict=True)
        ]
        results = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
        graph = helper.make_graph([node], "node", infos, results)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid(node.domain, version)])
        return cls.run_model(model, arrays, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """CPU always; CUDA where this machine has a device."""
        if Device(device).type == DeviceType.CPU:
            return True
        from cnncc.targets.cuda.machine import device_architecture

        return device_architecture() is not None


prepare = Backend.prepare
run_model = Backend.run_model
run_node = Backend.run_node
supports_device = Backend.supports_device
is_compatible = Backend.is_compatible
