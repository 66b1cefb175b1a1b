"""Runs the nodes of an ONNX model, one import function each, and collects what is not supported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnncc.builder import Builder
from cnncc.edges.onnx_import import host, symbolic
from cnncc.edges.onnx_import.context import Call
from cnncc.edges.onnx_import.frame import Frame, domain_of
from cnncc.edges.onnx_import.functions import Functions
from cnncc.edges.onnx_import.order import node_name, ordered
from cnncc.edges.onnx_import.schema import check_arity
from cnncc.edges.onnx_import.table import lookup
from cnncc.edges.onnx_import.tensor import NeedsInputError, Tensor, broken_tensor, known
from cnncc.edges.onnx_reader import ModelFile
from cnncc.edges.onnx_tensors import sparse_array, to_array
from cnncc.errors import GraphError, ModelFileError, UnsupportedError
from cnncc.ir.dims import Dim
from cnncc.ir.dtype import NUMPY, short_name
from cnncc.ir.graph import Node, Value
from cnncc.ir.types import Type
from cnncc.ops import registry as op_table

FOLD_LIMIT = 2**24  # elements of a constant computed at import because an operation needs its numbers


@dataclass(frozen=True)
class Unsupported:
    """One node that cannot be imported. reason: empty where the whole operation is unknown."""

    op: str
    domain: str
    opset: int
    node: str
    reason: str = ""
    inputs: tuple[str, ...] = ()  # inputs of the model which, were they known, would make it possible


class EquateError(Exception):
    """An unnamed symbol turned out to be another dimension; the import starts again with that known."""

    def __init__(self, name: str, dim: Dim):
        super().__init__(f"{name} = {dim}")
        self.name = name
        self.dim = dim


class Importer:
    """The state of one import."""

    def __init__(self, file: ModelFile, name: str, unnamed: set[str]):
        self.file = file
        self.builder = Builder(name)
        self.unnamed = unnamed  # symbols that the importer invented
        self.fixed_later: set[str] = set()  # symbols that are numbers before anything is compiled: all but the batch
        self.training = False  # training_mode=1 means the form for inference, as the graph is to be trained
        self.functions = Functions(file)
        self.unsupported: list[Unsupported] = []
        self.error: GraphError | None = None
        self.constant_values: set[Value] = set()
        self.folded: dict[Value, np.ndarray] = {}
        self.appended: set[Value] = set()  # results made by the node being imported
        self.count = 0

    # -- nodes ----------------------------------------------------------------------------------------------------

    def run(self, nodes: Sequence[Any], frame: Frame) -> None:
        """Import nodes, defining their results in the frame's scope."""
        if frame.depth > self.file.limits.depth:
            raise ModelFileError(
                f"{self.file.label}: functions and subgraphs may nest {self.file.limits.depth} deep, got more"
            )
        self.count += len(nodes)
        if self.count > self.file.limits.nodes:
            raise ModelFileError(f"{self.file.label}: a model may have {self.file.limits.nodes} nodes, got more")
        for node in nodes:
            self.run_node(node, frame)

    def run_node(self, node: Any, frame: Frame) -> None:
        """Import one node. What it cannot do is recorded; its results are then broken."""
        domain = domain_of(node)
        version = frame.opsets.get(domain, 1 if domain else 0)
        inputs = [self._input(node, name, frame) for name in node.input]
        call = Call(self, node, version, inputs, frame)
        results: tuple[Any, ...] | None = None
        outer, self.appended = self.appended, set()
        try:
            if any(t is not None and t.broken is not None for t in inputs):
                self._check_broken(call, domain)
            else:
                made = self._dispatch(call, domain)
                results = made if isinstance(made, tuple) else (made,)
        except UnsupportedError as error:
            self._refuse(call, domain, error)
        except GraphError as error:
            self.error = self.error or _named(call, error)
        except (ArithmeticError, IndexError, KeyError, MemoryError, TypeError, ValueError) as error:
            # Attributes and shapes that no exporter writes: a damaged or hostile file. The cause stays in the chain.
            raise ModelFileError(
                f"{self.file.label}: {call.where}: malformed: {error or type(error).__name__}"
            ) from error
        self._bind(node, results, frame)
        self.appended |= outer

    def _dispatch(self, call: Call, domain: str) -> Any:
        function = lookup(domain, call.op_type)
        if domain == "" and (function is not None or call.op_type in host.HOST):
            check_arity(call)
        if domain == "" and call.op_type in host.HOST:
            result = self._on_host(call)
            if result is not None:
                return result
        if function is not None:
            return function(call)
        body = self.functions.find(call, domain)
        if body is None:
            raise UnsupportedError("")
        return self.functions.inline(self, call, body)

    def _check_broken(self, call: Call, domain: str) -> None:
        """A node behind an unsupported one: is it at least known itself?"""
        for tensor in call.inputs:
            if tensor is not None and tensor.broken:
                raise UnsupportedError(tensor.broken)
        if lookup(domain, call.op_type) is None and not self.functions.find(call, domain):
            raise UnsupportedError("")

    def _refuse(self, call: Call, domain: str, error: UnsupportedError) -> None:
        name = call.frame.prefix + (call.proto.name or call.first_output)
        inputs = error.inputs if isinstance(error, NeedsInputError) else ()
        self.unsupported.append(Unsupported(call.op_type, domain, call.version, name, str(error), inputs))

    def _input(self, node: Any, name: str, frame: Frame) -> Tensor | None:
        if not name:
            return None
        try:
            return frame.scope[name]
        except KeyError:
            raise ModelFileError(
                f"{self.file.label}: {node_name(node)} reads '{name}', which nothing defines"
            ) from None

    def _bind(self, node: Any, results: tuple[Any, ...] | None, frame: Frame) -> None:
        for i, name in enumerate(node.output):
            if not name:
                continue
            result = None if results is None or i >= len(results) else results[i]
            if result is None and results is not None and self.error is None:
                self.unsupported.append(
                    Unsupported(node.op_type, domain_of(node), 0, node.name or name, f"its output {i} ('{name}')")
                )
            if result is None:
                frame.scope[name] = broken_tensor(name)
            elif isinstance(result, Tensor):
                frame.scope[name] = result
            else:
                if result in self.appended:
                    self.appended.discard(result)
                    result.name = self.builder.graph.fresh_name(name)
                frame.scope[name] = Tensor(name, result.type, result)

    def _on_host(self, call: Call) -> Any:
        """The result of arithmetic on small known tensors; None where the graph has to compute it."""
        tensors = [t for t in call.inputs if t is not None]
        if not tensors or not all(t.is_known for t in tensors):
            return None
        if not all(t.shape_like for t in tensors) and not any(t.symbolic for t in tensors):
            return None
        arrays = [t.data for t in tensors]
        if any(a is None or a.size > host.LIMIT for a in arrays):
            return None
        function, dtype = host.HOST[call.op_type]
        try:
            made = function(call, *arrays)
        except symbolic.UndecidedError:
            return None
        parts = tuple(map(np.asarray, made if isinstance(made, tuple) else (made,)))
        names = [*call.proto.output, *[""] * len(parts)]
        return tuple(known(name, part, dtype(call)) for name, part in zip(names, parts, strict=False))

    # -- subgraphs ------------------------------------------------------------------------------------------------

    def run_subgraph(self, call: Call, graph: Any) -> tuple[Tensor, ...]:
        """Import a subgraph that certainly runs, in place; its outputs."""
        frame = call.frame.inner()
        self.define_initializers(graph, frame)
        nodes = ordered(graph.node, {i.name for i in graph.initializer}, self.file.label)
        self.run(nodes, frame)
        return tuple(self.output(o.name, frame) for o in graph.output)

    def output(self, name: str, frame: Frame) -> Tensor:
        """A graph's output by name."""
        tensor = frame.scope.get(name)
        if tensor is None:
            raise ModelFileError(f"{self.file.label}: nothing defines the output '{name}'")
        return tensor

    def define_initializers(self, graph: Any, frame: Frame, weights: Mapping[int, np.ndarray] | None = None) -> None:
        """Enter a graph's initializers, read only when used. `weights`: see `ModelFile`."""
        weights = weights or {}
        for k, tensor in enumerate(graph.initializer):
            frame.scope[tensor.name] = self.stored(tensor, tensor.name, weights.get(k))
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            array = sparse_array(self.file, sparse)
            frame.scope[name] = Tensor(name, Type.of(array), data=array)

    def stored(self, proto: Any, name: str, raw: np.ndarray | None = None) -> Tensor:
        """A TensorProto as a tensor that reads its elements when they are needed; `raw`: see `to_array`."""
        from cnncc.edges.onnx_tensors import element_type

        try:
            dtype = short_name(element_type(proto.data_type))
        except UnsupportedError as error:
            return broken_tensor(name, f"{error} (of '{name}')")
        shape = tuple(int(d) for d in proto.dims)
        shape_like = dtype[0] in "iu" or dtype == "bool" or not shape
        small = int(np.prod(shape, dtype=np.float64)) <= host.LIMIT
        return Tensor(
            name, Type(dtype, shape), load=lambda: to_array(self.file, proto, raw), shape_like=shape_like and small
        )

    # -- values ---------------------------------------------------------------------------------------------------

    def append(
        self, call: Call, name: str, operands: Sequence[Any], attributes: Mapping[str, Any]
    ) -> tuple[Value, ...]:
        """Append an operation for a node; its results."""
        values = [self.as_value(x) if isinstance(x, Tensor) else x for x in operands]
        hint = f"{call.first_output}.{name}"
        try:
            results = self.builder.results(name, *values, source=call.source, hint=hint, **attributes)
        except GraphError as error:
            raise GraphError(str(error) if call.source else f"{call.where}: {error}") from None
        self.appended.update(results)
        node = results[0].node
        assert node is not None
        if all(v.is_constant or v in self.constant_values for v in node.operands()):
            self.constant_values.update(v for v in results if v.type.static)
        return results

    def constant(self, call: Call, data: Any, dtype: str | None) -> Value:
        """A constant that a node needs."""
        array = np.asarray(data, None if dtype is None else NUMPY[dtype])
        return self.builder.graph.add_constant(array, f"{call.first_output}.const")

    def as_value(self, tensor: Tensor) -> Value:
        """A tensor as a value of the graph: known data becomes a constant, symbolic sizes are computed."""
        if tensor.value is None:
            data = tensor.data
            assert data is not None, tensor.name
            if data.dtype == object:
                tensor.value = symbolic.materialize(Call.helper(self, tensor.name), data, tensor.type.dtype)
            else:
                tensor.value = self.builder.graph.add_constant(data, tensor.name)
        return tensor.value

    def numbers(self, tensor: Tensor) -> np.ndarray | None:
        """The elements of a tensor where they are numbers that follow from constants."""
        if tensor.is_known:
            return None if tensor.symbolic else tensor.data
        value = tensor.value
        if value is None or value not in self.constant_values:
            return None
        if value not in self.folded:
            self._fold(value)
        return self.folded.get(value)

    def inputs_behind(self, *tensors: Tensor) -> tuple[str, ...]:
        """Names of the graph inputs that tensors depend on."""
        names: dict[str, None] = {}
        stack, seen = [t.value for t in tensors], set[Value]()
        while stack:
            value = stack.pop()
            if value is None or value in seen:
                continue
            seen.add(value)
            if value.node is not None:
                stack += value.node.operands()
            elif not value.is_constant:
                names[value.name] = None
        return tuple(names)

    def _fold(self, value: Value) -> None:
        needed: list[Node] = []
        stack, seen = [value.node], set()
        while stack:
            node = stack.pop()
            if node is None or node in seen or node.outputs[0] in self.folded:
                continue
            seen.add(node)
            if any(int(v.type.elements) > FOLD_LIMIT for v in node.outputs):
                return
            needed.append(node)
            stack += [v.node for v in node.operands()]
        order = {node: i for i, node in enumerate(self.builder.graph.nodes) if node in seen}
        for node in sorted(needed, key=lambda k: order[k]):
            arrays = [None if v is None else v.data if v.is_constant else self.folded[v] for v in node.inputs]
            self.folded.update(zip(node.outputs, op_table.lookup(node.op).run(node.attrs, arrays), strict=True))

    # -- symbols --------------------------------------------------------------------------------------------------

    def equate(self, a: Dim, b: Dim, what: str, fact: bool) -> None:
        """See `Call.equate`."""
        if isinstance(a, int) and isinstance(b, int):
            raise GraphError(f"{what} must be equal, got {a} and {b}")
        for one, other in ((a, b), (b, a)):
            if isinstance(one, int) or not one.is_Symbol:
                continue
            free = one.name in self.unnamed or (fact and isinstance(other, int))
            if free and (isinstance(other, int) or one not in other.free_symbols):
                raise EquateError(one.name, other)
        if not symbolic.may_be_equal(a, b, self.fixed_later):
            raise GraphError(f"{what} must be equal, got {a} and {b}; if they are, fix them (shapes=...)")


def _named(call: Call, error: GraphError) -> GraphError:
    return error if call.source and call.source in str(error) else GraphError(_prefixed(call, str(error)))


def _prefixed(call: Call, text: str) -> str:
    return text if text.startswith(call.where) else f"{call.where}: {text}"
