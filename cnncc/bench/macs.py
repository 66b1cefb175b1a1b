"""Multiplications of an ONNX model at given input shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx
from onnx import TensorProto, helper

_KEPT = 4096  # elements: initializers up to this size keep their values (they may be shapes)


def count_macs(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Multiply-adds of convolutions and matrix products by their definition; None where a shape stays unknown."""
    graph = _skeleton(model.graph, shapes)
    bare = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=max(4, model.ir_version))
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        return None
    known = {v.name: _dims(v) for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    known |= {i.name: tuple(i.dims) for i in inferred.initializer}
    total = 0
    for node in inferred.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        x, w, out = (known.get(name) for name in (*node.input[:2], node.output[0]))
        if x is None or w is None or out is None:
            return None
        if node.op_type == "Conv":
            total += math.prod(out) * math.prod(w[1:])
        elif node.op_type == "ConvTranspose":
            total += math.prod(x) * math.prod(w[1:])
        else:
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            total += math.prod(out) * (x[0] if transposed else x[-1])
    return total


def _dims(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    tensor = value.type.tensor_type
    dims = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
    return dims if tensor.HasField("shape") and -1 not in dims else None


def _skeleton(old: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> onnx.GraphProto:
    """The graph at fixed input shapes, its large initializers turned into inputs: nothing heavy is copied."""
    constants = {i.name for i in old.initializer}
    inputs = []
    for value in old.input:
        if value.name not in constants:
            kind = value.type.tensor_type.elem_type
            inputs.append(helper.make_tensor_value_info(value.name, kind, shapes.get(value.name) or _dims(value)))
    small = []
    for tensor in old.initializer:
        if math.prod(tensor.dims) <= _KEPT and tensor.data_location != TensorProto.EXTERNAL:
            small.append(tensor)
        else:
            inputs.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    outputs = [helper.make_empty_tensor_value_info(out.name) for out in old.output]
    for made, out in zip(outputs, old.output, strict=True):
        made.type.tensor_type.elem_type = out.type.tensor_type.elem_type
    return helper.make_graph(list(old.node), old.name or "graph", inputs, outputs, small)
