"""Functions: those a model brings along, and those by which the ONNX standard itself defines operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnncc.edges.onnx_import.context import Call
from cnncc.edges.onnx_import.frame import Frame, domain_of, opsets_of
from cnncc.edges.onnx_import.order import ordered
from cnncc.edges.onnx_import.tensor import Tensor
from cnncc.errors import UnsupportedError
from cnncc.ir.dtype import NUMPY

if TYPE_CHECKING:
    from cnncc.edges.onnx_import.importer import Importer
    from cnncc.edges.onnx_reader import ModelFile

# Operators without an import function of their own, which the standard defines by operators that have one.
STANDARD = frozenset(
    ("AffineGrid", "Attention", "CenterCropPad", "LpNormalization", "NegativeLogLikelihoodLoss", "RotaryEmbedding",
     "SoftmaxCrossEntropyLoss", "SwiGLU", "DynamicQuantizeLinear")
)  # fmt: skip


class Functions:
    """Finds the function that a node calls."""

    def __init__(self, file: ModelFile):
        self.file = file
        self.local = {(f.domain, f.name, f.overload): f for f in file.proto.functions}
        self.active: list[tuple[str, str, str]] = []

    def find(self, call: Call, domain: str) -> Any:
        """The FunctionProto for a node, or None."""
        overload = getattr(call.proto, "overload", "")
        found = self.local.get((domain, call.op_type, overload))
        if found is not None or domain or call.op_type not in STANDARD:
            return found
        return _standard(call)

    def inline(self, importer: Importer, call: Call, function: Any) -> tuple[Tensor | None, ...]:
        """Import a function's body in place of its call."""
        key = (function.domain, function.name, function.overload)
        if key in self.active:
            raise UnsupportedError("it is a function that calls itself")
        self.active.append(key)
        given = {a.name: a for a in function.attribute_proto} | dict(call.attributes)
        scope = {
            name: call.inputs[i]
            for i, name in enumerate(function.input)
            if i < len(call.inputs) and call.inputs[i] is not None
        }
        nodes = ordered(function.node, function.input, importer.file.label)
        for name in function.input:
            scope.setdefault(name, None)
        prefix = f"{call.source or call.first_output}/"
        frame = Frame(scope, opsets_of(function), given, prefix, call.frame.depth + 1)
        importer.run(nodes, frame)
        self.active.pop()
        return tuple(importer.output(name, frame) if call.wants(i) else None for i, name in enumerate(function.output))


def _standard(call: Call) -> Any:
    """The standard's own definition of an operator, for the types at hand."""
    import onnx
    from onnx import helper

    try:
        schema = onnx.defs.get_schema(call.op_type, call.version, "")
    except onnx.defs.SchemaError:
        return None
    if schema.has_function:
        return schema.function_body
    if not schema.has_context_dependent_function or any(t is not None and t.broken is not None for t in call.inputs):
        return None
    types = []
    for tensor in call.inputs:
        made = onnx.TypeProto()
        if tensor is not None:
            dims = [d if isinstance(d, int) else str(d) for d in tensor.type.shape]
            made = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(NUMPY[tensor.type.dtype]), dims)
        types.append(made.SerializeToString())
    node = onnx.NodeProto()
    node.CopyFrom(call.proto)
    del node.attribute[:]
    for name, attribute in call.attributes.items():  # those of a function's call instead of references to them
        node.attribute.add().CopyFrom(attribute)
        node.attribute[-1].name = name
    body = schema.get_context_dependent_function_with_opset_version(call.version, node.SerializeToString(), types)
    if not body:
        return None
    function = onnx.FunctionProto()
    function.ParseFromString(body)
    return function


__all__ = ["STANDARD", "Functions", "domain_of"]
