"""`check`: what of a model is supported, and what in it is worth a look, without compiling anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cnncc.edges.onnx_import.importer import Unsupported
from cnncc.edges.onnx_import.inputs import Shapes
from cnncc.edges.onnx_reader import ModelSource
from cnncc.ir.dims import Dim
from cnncc.ir.graph import Graph

Severity = Literal["warning", "note"]


@dataclass(frozen=True)
class Finding:
    """Something worth a look. rule: kebab-case, stable. node: its name in the model. numbers: those in the message."""

    rule: str
    severity: Severity
    node: str
    message: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Port:
    """An input or output: shape with numbers and formulas of symbols."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class Layer:
    """An operation with parameters or multiply-adds."""

    op: str
    node: str
    shape: tuple[int | str, ...]
    parameters: int
    macs: int | str


@dataclass(frozen=True)
class Report:
    """The result of `check`.

    operators: ONNX operators and how often each occurs. unsupported: one entry a node. error: shapes or types that do
    not fit. parameters: trained numbers; buffers: statistics of batch norms. macs: multiply-adds of one inference, a
    formula where a size is symbolic; None where the model could not be imported.
    """

    name: str
    opsets: Mapping[str, int]
    operators: Mapping[str, int]
    unsupported: tuple[Unsupported, ...]
    error: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    layers: tuple[Layer, ...]
    parameters: int
    buffers: int
    macs: int | str | None
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether the model can be compiled as far as the graph tells."""
        return not self.unsupported and not self.error

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"ok": self.ok, **asdict(self)}


def check(model: ModelSource | Graph, shapes: Shapes | None = None) -> Report:
    """Look at a model: a path, bytes, onnx.ModelProto, or a Graph.

    Raises ModelFileError for what is no model; everything else is in the report.
    """
    if isinstance(model, Graph):
        return _report(model, model.name, {}, Counter(n.op for n in model.nodes), (), "", [])
    from cnncc.edges.onnx_import.frame import opsets_of
    from cnncc.edges.onnx_import.load import import_model
    from cnncc.edges.onnx_reader import read_model
    from cnncc.errors import GraphError, UnsupportedError
    from cnncc.lints import lint_model

    file = read_model(model)
    graph: Graph | None = None
    unsupported: tuple[Unsupported, ...] = ()
    error = ""
    try:
        result = import_model(file, shapes)
        graph, unsupported = result.graph, tuple(result.unsupported)
        error = "" if result.error is None else str(result.error)
    except (GraphError, UnsupportedError) as failure:
        error = str(failure)
    operators = Counter(f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in file.proto.graph.node)
    findings = lint_model(file.proto)
    opsets = {domain or "ai.onnx": version for domain, version in opsets_of(file.proto).items()}
    return _report(graph, file.label, opsets, operators, unsupported, error, findings)


def _report(
    graph: Graph | None,
    name: str,
    opsets: Mapping[str, int],
    operators: Mapping[str, int],
    unsupported: tuple[Unsupported, ...],
    error: str,
    findings: list[Finding],
) -> Report:
    from cnncc.lints import lint_graph

    operators = dict(sorted(operators.items()))
    if graph is None:
        return Report(name, opsets, operators, unsupported, error, (), (), (), 0, 0, None, tuple(findings))
    layers, parameters, buffers, macs = count(graph)
    outputs = zip(graph.output_names, graph.outputs, strict=True)
    return Report(
        name=name,
        opsets=opsets,
        operators=operators,
        unsupported=unsupported,
        error=error,
        inputs=tuple(Port(v.name, dims_text(v.type.shape), v.type.dtype) for v in graph.inputs),
        outputs=tuple(Port(n, dims_text(v.type.shape), v.type.dtype) for n, v in outputs),
        layers=layers,
        parameters=parameters,
        buffers=buffers,
        macs=_plain(macs),
        findings=(*findings, *lint_graph(graph)),
    )


def dims_text(shape: Iterable[Dim]) -> tuple[int | str, ...]:
    """Sizes as numbers, formulas as text."""
    return tuple(_plain(d) for d in shape)


def _plain(d: Dim) -> int | str:
    return d if isinstance(d, int) else str(d)


# -- counting ----------------------------------------------------------------------------------------------------------


def count(graph: Graph) -> tuple[tuple[Layer, ...], int, int, Dim]:
    """Layers with their parameters and multiply-adds; all parameters, all buffers, all multiply-adds.

    A parameter that several layers share counts once in the total and in the first of them.
    """
    from cnncc.ir.dims import normal
    from cnncc.ir.dtype import is_float

    buffers = {v for n in graph.nodes if n.op == "batch_norm" for v in n.inputs[3:5] if v is not None and v.is_constant}
    seen = set(buffers)
    layers: list[Layer] = []
    total: Dim = 0
    parameters = 0
    for node in graph.nodes:
        own = 0
        for v in node.operands():
            if v.data is not None and is_float(v.type.dtype) and v.type.rank and v not in seen:
                seen.add(v)
                own += v.data.size
        macs = macs_of(node)
        parameters += own
        total = normal(total + macs)
        if own or macs != 0:
            out = node.outputs[0]
            layers.append(Layer(node.op, node.source or out.name, dims_text(out.type.shape), own, _plain(macs)))
    return tuple(layers), parameters, sum(v.data.size for v in buffers if v.data is not None), total


def macs_of(node: Any) -> Dim:
    """Multiply-adds of convolutions and matrix products; 0 for other operations."""
    from cnncc.ir.dims import product

    if node.op in ("conv", "locally_connected"):
        w = node.inputs[1].type.shape
        each = w[1:] if node.op == "conv" else w[len(node.outputs[0].type.shape) - 1 :]
        return product((*node.outputs[0].type.shape, *each))
    if node.op == "conv_transpose":
        return product((*node.inputs[0].type.shape, *node.inputs[1].type.shape[1:]))
    if node.op == "matmul":
        x = node.inputs[0].type.shape
        inner = x[-2] if node.attrs.transpose_x and len(x) > 1 else x[-1]
        return product((*node.outputs[0].type.shape, inner))
    return 0


# -- the op table ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OpRow:
    """One operation of the table, for `cnncc check --ops` and docs.

    gradient: "yes", or why there is none. lowering: "formula" (elementwise), "element" (evaluated at any index) or
    "definition" (a te computation). onnx: the operators that to_onnx writes; empty where ONNX has none.
    """

    name: str
    operands: tuple[str, ...]
    attributes: Mapping[str, str]
    gradient: str
    lowering: str
    onnx: str
    doc: str


def op_rows() -> list[OpRow]:
    """The op table in its order."""
    from dataclasses import fields

    from cnncc.edges import onnx_export_ops
    from cnncc.ops import TABLE

    exports = onnx_export_ops.TABLE
    rows = []
    for op in TABLE.values():
        lowering = "formula" if op.formula is not None else "element" if op.element is not None else "definition"
        rows.append(
            OpRow(
                op.name,
                op.inputs,
                {f.name: repr(f.default) for f in fields(op.attrs)},
                "yes" if op.grad is not None else op.no_grad,
                lowering,
                written_as(op, exports) if op.name in exports else "",
                op.doc,
            )
        )
    return rows


def written_as(op: Any, exports: dict[str, Any]) -> str:
    """The ONNX operators that an operation is written as, found by writing its first sample."""
    from dataclasses import fields

    from cnncc.builder import Builder
    from cnncc.edges.onnx_export import Exporter

    sample = op.samples[0]
    b = Builder()
    args = [None if a is None else b.input(f"x{i}", a.shape, a.dtype) for i, a in enumerate(sample.args)]
    b.op(op.name, *args, **{f.name: getattr(sample.attrs, f.name) for f in fields(sample.attrs)})
    e = Exporter(b.graph)
    e.names.update((v, v.name) for v in b.graph.inputs)
    e.run(b.graph, exports)
    return ", ".join(dict.fromkeys(n.op_type for n in e.nodes))


def onnx_operators() -> list[str]:
    """Operators of the standard ONNX domain that can be imported."""
    from cnncc.edges.onnx_import import functions, table

    return sorted({*table.STANDARD, *functions.STANDARD})
