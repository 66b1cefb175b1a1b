"""`load_onnx`: reads a model and imports it whole, or says everything that stands in the way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cnncc.edges.onnx_import import host
from cnncc.edges.onnx_import.frame import Frame, opsets_of
from cnncc.edges.onnx_import.importer import EquateError, Importer, Unsupported
from cnncc.edges.onnx_import.inputs import Shapes, Symbols, fixed_later, input_types
from cnncc.edges.onnx_import.order import ordered
from cnncc.edges.onnx_import.tensor import Tensor
from cnncc.edges.onnx_reader import ModelFile, ModelSource, read_model
from cnncc.errors import GraphError, ModelFileError, UnsupportedError
from cnncc.ir.graph import Graph
from cnncc.ir.types import Type
from cnncc.ir.verify import verify

OLDEST_OPSET = 7


class UnsupportedOperators(UnsupportedError):
    """A model uses operators that cnncc cannot import; `records` has one entry a node."""

    def __init__(self, label: str, records: Sequence[Unsupported]):
        self.records = tuple(records)
        super().__init__(f"{label}: {describe(records)}")


@dataclass
class ImportResult:
    """What an import came to: a graph, or what is not supported, or the first error of shapes and types."""

    graph: Graph | None
    unsupported: list[Unsupported]
    error: GraphError | None
    bound: dict[str, str]  # symbols without a name that turned out to be other dimensions


def load_onnx(
    model: ModelSource,
    shapes: Shapes | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    training: bool = False,
) -> Graph:
    """The graph of an ONNX model: a path, bytes, or an onnx.ModelProto.

    shapes: {"input": (1, 3, 224, 224)} fixes symbolic dimensions; None in a shape leaves one symbolic, a string names
    it. constants: inputs that are known already ({"sizes": array}); they are no inputs of the graph. training: nodes
    with training_mode=1 (an export for training) are taken in their form for inference: batch norm by its running
    statistics, no dropout. A `cnncc.train.TrainStep` trains them.
    Values keep their ONNX names, nodes carry theirs as `source`.
    Raises ModelFileError (not an ONNX model, or a damaged one), UnsupportedOperators (all of them at once, with node
    names), GraphError (shapes and types that do not fit).
    """
    file = read_model(model)
    result = import_model(file, shapes, constants, training)
    if result.unsupported:
        raise UnsupportedOperators(file.label, result.unsupported)
    if result.error is not None:
        raise GraphError(f"{file.label}: {result.error}")
    assert result.graph is not None
    return result.graph


def import_model(
    file: ModelFile,
    shapes: Shapes | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
    training: bool = False,
) -> ImportResult:
    """Import a model as far as possible. Raises ModelFileError and errors about inputs only."""
    check_opset(file)
    symbols = Symbols()
    while True:  # each round knows one more symbol
        file.taken = 0
        try:
            return _attempt(file, shapes, constants or {}, symbols, training)
        except EquateError as found:
            symbols.bound[found.name] = found.dim


def _attempt(
    file: ModelFile, shapes: Shapes | None, constants: Mapping[str, np.ndarray], symbols: Symbols, training: bool
) -> ImportResult:
    proto = file.proto.graph
    types = input_types(file, {k: v.shape for k, v in constants.items()} | dict(shapes or {}), symbols)
    importer = Importer(file, proto.name or "graph", symbols.unnamed)
    importer.training = training
    importer.fixed_later = fixed_later(types.values())
    frame = Frame({}, opsets_of(file.proto))
    for name, type_ in types.items():
        if name in constants:
            frame.scope[name] = _given(name, type_, constants[name])
            continue
        frame.scope[name] = Tensor(name, type_, importer.builder.graph.add_input(name, type_))
    importer.define_initializers(proto, frame, file.weights)
    importer.run(ordered(proto.node, frame.scope, file.label), frame)
    outputs = [(o.name, importer.output(o.name, frame)) for o in proto.output]
    graph = None
    if not importer.unsupported and importer.error is None:
        graph = importer.builder.graph
        for name, tensor in outputs:
            graph.add_output(importer.as_value(tensor), name)
        graph.tidy()
        verify(graph)
    bound = {name: str(d) for name, d in symbols.bound.items() if name not in symbols.fixed}
    return ImportResult(graph, importer.unsupported, importer.error, bound)


def _given(name: str, type_: Type, array: np.ndarray) -> Tensor:
    if Type.of(array).dtype != type_.dtype:
        raise GraphError(f"input '{name}': must be {type_.dtype}, got a constant of {array.dtype}")
    return Tensor(name, Type.of(array), data=array, shape_like=array.size <= host.LIMIT)


def check_opset(file: ModelFile) -> None:
    """Raise ModelFileError or UnsupportedError for a model whose opset of the standard domain is missing or too old."""
    opsets = opsets_of(file.proto)
    if "" not in opsets:
        if any(not n.domain for n in file.proto.graph.node):
            raise ModelFileError(f"{file.label}: the model does not say which opset of the standard domain it uses")
        return
    if opsets[""] < OLDEST_OPSET:
        raise UnsupportedError(
            f"{file.label}: opset must be at least {OLDEST_OPSET}, got {opsets['']}; "
            "onnx.version_converter.convert_version can raise it"
        )


def describe(records: Sequence[Unsupported]) -> str:
    """The list for a message: operator, opset, count, node names, reason."""
    groups: dict[tuple[str, str, int, str], list[str]] = defaultdict(list)
    for r in records:
        groups[r.op, r.domain, r.opset, r.reason].append(r.node)
    lines = []
    for (op, domain, opset, reason), nodes in groups.items():
        shown = ", ".join(repr(n) for n in nodes[:8]) + (f" and {len(nodes) - 8} more" if len(nodes) > 8 else "")
        name = f"{domain}.{op}" if domain else op
        why = f": {reason}" if reason else ""
        lines.append(f"  {name} (opset {opset}), {len(nodes)} node{'s' if len(nodes) > 1 else ''}: {shown}{why}")
    count = len(lines)
    return f"{count} operation{'s are' if count > 1 else ' is'} not supported:\n" + "\n".join(lines)
