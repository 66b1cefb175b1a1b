"""Graph --> ONNX: what ONNX Runtime runs to the same result."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.edges.names import unused_name
from cnncc.edges.onnx_tensors import CODES
from cnncc.errors import GraphError, UnsupportedError
from cnncc.ir.dims import Dim, is_static
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.types import Type

if TYPE_CHECKING:
    import onnx

OPSET = 20  # Gelu; run by ONNX Runtime since 1.17
IR_VERSION = 9
_EXTERNAL_FROM = 2**31 - 2**20  # protobuf messages end at 2 GiB


class Exporter:
    """The ONNX graph under construction. Values are known by their ONNX names (strings)."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.names: dict[Value, str] = {}
        self.taken: set[str] = set(graph.output_names)
        self.node_names: set[str] = set()
        self.source = ""
        self.constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def fresh(self, hint: str) -> str:
        """An unused name."""
        return unused_name(hint, self.taken)

    def emit(self, op_type: str, *inputs: str, results: int = 1, **attributes: Any) -> Any:
        """Append a node; its result's name, or names. Absent optional inputs are empty strings."""
        from onnx import helper

        outputs = [self.fresh(f"{self.source or 'value'}.{op_type}") for _ in range(results)]
        trimmed = list(inputs)
        while trimmed and not trimmed[-1]:
            trimmed.pop()
        self.nodes.append(helper.make_node(op_type, trimmed, outputs, **attributes))
        return outputs[0] if results == 1 else tuple(outputs)

    def made(self, name: str) -> bool:
        """Whether the last node made this value."""
        return bool(self.nodes) and name in self.nodes[-1].output

    def constant(self, array: np.ndarray, hint: str = "") -> str:
        """An initializer; small equal ones are shared."""
        from onnx import TensorProto

        array = np.asarray(array)
        key = (str(array.dtype), array.shape, array.tobytes()) if array.size <= 64 and not hint else None
        if key is not None and key in self.constants:
            return self.constants[key]
        name = self.fresh(hint or f"{self.source or 'value'}.const")
        tensor = TensorProto(name=name, data_type=CODES[array.dtype], dims=array.shape)
        tensor.raw_data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        self.initializers.append(tensor)
        if key is not None:
            self.constants[key] = name
        return name

    def ints(self, values: Sequence[int]) -> str:
        """An i64 vector."""
        return self.constant(np.asarray(values, np.int64))

    def number(self, value: float, like: Value) -> str:
        """A scalar of a value's dtype."""
        return self.constant(np.asarray(value, like.type.numpy))

    def dims(self, shape: Sequence[Dim]) -> str:
        """A shape as an i64 vector, computed from the inputs where it has symbols."""
        if is_static(shape):
            return self.ints([int(d) for d in shape])
        parts = [self.emit("Reshape", self._dim(d), self.ints([1])) for d in shape]
        return parts[0] if len(parts) == 1 else str(self.emit("Concat", *parts, axis=0))

    def _dim(self, d: Any) -> str:
        """One dimension as an i64 scalar."""
        if isinstance(d, int):
            return self.constant(np.asarray(d, np.int64))
        import sympy

        if d.is_Integer:
            return self.constant(np.asarray(int(d), np.int64))
        if d.is_Symbol:
            return self._symbol(d)
        if isinstance(d, sympy.floor):
            top, bottom = d.args[0].as_numer_denom()
            return str(self.emit("Div", self._dim(top), self._dim(bottom)))
        op = {sympy.Add: "Add", sympy.Mul: "Mul", sympy.Max: "Max", sympy.Min: "Min"}.get(d.func)
        if op is None or any(a.is_Rational and not a.is_Integer for a in d.args):
            raise UnsupportedError(f"the size {d} cannot be written in ONNX; fix the shapes")
        total = self._dim(d.args[0])
        for part in d.args[1:]:
            total = str(self.emit(op, total, self._dim(part)))
        return total

    def _symbol(self, d: Any) -> str:
        for value in self.graph.inputs:
            if d in value.type.shape:
                shape = self.emit("Shape", self.names[value])
                return str(self.emit("Gather", shape, self.constant(np.asarray(value.type.shape.index(d), np.int64))))
        raise UnsupportedError(f"the symbol {d} is not the size of an input")

    # -- the walk ---------------------------------------------------------------------------------------------------

    def name_of(self, value: Value) -> str:
        """The ONNX name of a value; constants become initializers when first used."""
        if value not in self.names:
            assert value.data is not None, value
            self.names[value] = self.constant(value.data, value.name)
        return self.names[value]

    def run(self, graph: Graph, table: dict[str, Callable[..., Any]]) -> None:
        """Emit every node of a graph whose inputs have names. Bodies of kernels are written in place."""
        for node in graph.nodes:
            self.source = node.source or node.outputs[0].name
            inputs = ["" if v is None else self.name_of(v) for v in node.inputs]
            if node.body is not None:
                for inner, name in zip(node.body.inputs, (i for i in inputs if i), strict=True):
                    self.names[inner] = name
                self.run(node.body, table)
                made: Any = tuple(self.name_of(v) for v in node.body.outputs)
            else:
                start = len(self.nodes)
                made = table[node.op](self, node, *inputs)
                made = made if isinstance(made, tuple) else (made,)
                made = tuple(self._rename(start, old, v) for old, v in zip(made, node.outputs, strict=True))
                self._name_nodes(start, node)
            self.names.update(zip(node.outputs, made, strict=True))

    def _rename(self, start: int, old: str, value: Value) -> str:
        """Give a result the value's own name, if this node made it."""
        if not any(old in n.output for n in self.nodes[start:]):
            return old
        self.taken.discard(old)
        new = self.fresh(value.name)
        for n in self.nodes[start:]:
            n.input[:] = [new if i == old else i for i in n.input]
            n.output[:] = [new if o == old else o for o in n.output]
        return new

    def _name_nodes(self, start: int, node: Node) -> None:
        made = self.nodes[start:]
        for k, n in enumerate(made):
            hint = self.source if len(made) == 1 else f"{self.source}/{n.op_type}_{k}"
            n.name = unused_name(hint, self.node_names)


def to_onnx(graph: Graph, path: str | os.PathLike[str] | None = None) -> onnx.ModelProto:
    """The graph as an ONNX model of opset 20, checked by onnx.checker; also written to `path` if given.

    Symbolic dimensions become dim_params. Kernels made by passes are written as their bodies. Above 2 GiB the weights
    go into a second file beside it. Raises UnsupportedError naming all operations that ONNX cannot express.
    """
    import onnx
    from onnx import helper

    from cnncc.edges.onnx_export_ops import TABLE

    _check(graph, TABLE)
    e = Exporter(graph)
    for value in graph.inputs:
        e.names[value] = e.fresh(value.name)
        if e.names[value] != value.name:
            raise GraphError(f"input '{value.name}': inputs and outputs must have different names")
    e.run(graph, TABLE)
    outputs = []
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        e.nodes.append(helper.make_node("Identity", [e.name_of(value)], [name], name=f"output/{name}"))
        outputs.append(_info(name, value.type))
    _shorten(e, graph)
    inputs = [_info(v.name, v.type) for v in graph.inputs]
    made = helper.make_graph(e.nodes, graph.name or "graph", inputs, outputs, e.initializers)
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="cnncc"
    )
    big = sum(t.ByteSize() for t in e.initializers) >= _EXTERNAL_FROM
    if not big:
        onnx.checker.check_model(model)
    if path is not None:
        _write(model, Path(path), big)
    return model


def _check(graph: Graph, table: dict[str, Callable[..., Any]]) -> None:
    missing: dict[str, list[str]] = defaultdict(list)

    def visit(g: Graph) -> None:
        for node in g.nodes:
            if node.body is not None:
                visit(node.body)
            elif node.op not in table:
                missing[node.op].append(node.source or f"%{node.outputs[0].name}")

    visit(graph)
    if missing:
        lines = [f"  {op}, {len(names)}: {', '.join(names[:8])}" for op, names in missing.items()]
        raise UnsupportedError("to_onnx: these operations have no ONNX form:\n" + "\n".join(lines))


def _info(name: str, type: Type) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(
        name, CODES[type.numpy], [d if isinstance(d, int) else str(d) for d in type.shape]
    )


def _shorten(e: Exporter, graph: Graph) -> None:
    """x --> y --> Identity --> output  becomes  x --> output, where y has no other use."""
    uses: dict[str, int] = defaultdict(int)
    makers = {}
    for n in e.nodes:
        for i in n.input:
            uses[i] += 1
        for o in n.output:
            makers[o] = n
    kept = []
    for n in e.nodes:
        if n.name.startswith("output/") and n.op_type == "Identity":
            source, target = n.input[0], n.output[0]
            maker = makers.get(source)
            if maker is not None and uses[source] == 1 and source not in graph.output_names:
                maker.output[:] = [target if o == source else o for o in maker.output]
                continue
        kept.append(n)
    e.nodes = kept


def _write(model: onnx.ModelProto, path: Path, big: bool) -> None:
    """Through a temporary file, so that nothing half-written stays."""
    import onnx

    if big:
        onnx.save(model, path, save_as_external_data=True, location=path.name + ".data")
        onnx.checker.check_model(path)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(model.SerializeToString())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
