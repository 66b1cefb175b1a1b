"""Small ONNX models for the tests of the edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

FLOAT = onnx.TensorProto.FLOAT
INT64 = onnx.TensorProto.INT64

node = helper.make_node


def info(name: str, shape: Sequence[int | str | None] | None, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    """A typed name; strings are dim_params, None a dimension without a name, no shape at all: unknown rank."""
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str | None] | None] | Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str],
    constants: Mapping[str, Any] | None = None,
    opset: int = 17,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """A model with f32 inputs (or typed ones), constants as initializers, outputs of unknown type."""
    values = [info(k, v) for k, v in inputs.items()] if isinstance(inputs, Mapping) else list(inputs)
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(list(nodes), "test", values, results, initializers)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(k, v) for k, v in (domains or {}).items())]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=9)


def conv_model(**attributes: Any) -> onnx.ModelProto:
    """One convolution, 3 to 4 channels, named "conv"."""
    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [node("Conv", ["x", "w"], ["y"], name="conv", **attributes)]
    return model(nodes, {"x": (1, 3, 8, 8)}, ["y"], {"w": weights})
