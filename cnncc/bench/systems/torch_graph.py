"""A graph of the IR as a torch module, so that ONNX files that came from elsewhere can be timed in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from cnncc.bench.systems import MissingError
from cnncc.bench.systems.torch_rules import RULES
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ops.registry import lookup

_BIASED = ("conv", "conv_transpose", "matmul")


def to_module(graph: Graph) -> torch.nn.Module:
    """The graph (its shapes fixed) as a torch.fx.GraphModule in eval mode; a tuple where there are several outputs.

    What depends on constants alone is computed here; a constant added to the channels of a convolution or product
    becomes its bias. Raises MissingError naming every operation that has no rule.
    """
    unknown = sorted({node.op for node in graph.nodes if node.op not in RULES} - _constant_ops(graph))
    if unknown:
        raise MissingError(f"the converter to torch does not know {', '.join(unknown)}; give module:function instead")
    made = _Conversion(graph)
    for node in graph.nodes:
        made.node(node)
    outputs = tuple(made.proxy(v).node for v in graph.outputs)
    made.fx.output(outputs if len(outputs) > 1 else outputs[0])
    return torch.fx.GraphModule(made.root, made.fx).eval()


def _constant_ops(graph: Graph) -> set[str]:
    """Operations that only ever read constants, directly or through others: they need no rule."""
    known = set(graph.constants)
    computed: set[str] = set()
    for node in graph.nodes:
        if all(v in known for v in node.operands()):
            known.update(node.outputs)
        else:
            computed.add(node.op)
    return {node.op for node in graph.nodes} - computed


class _Conversion:
    def __init__(self, graph: Graph) -> None:
        self.root, self.fx = torch.nn.Module(), torch.fx.Graph()
        self.tracer = torch.fx.proxy.GraphAppendingTracer(self.fx)
        self.graph = graph
        self.constants: dict[Value, np.ndarray] = {v: v.data for v in graph.constants if v.data is not None}
        self.proxies: dict[Value, Any] = {}
        self.merged: dict[Value, Value] = {}  # result of a product --> the bias that its only reader adds
        for i, value in enumerate(graph.inputs):
            self.proxies[value] = self._wrapped(self.fx.placeholder(f"input_{i}"))

    def node(self, node: Node) -> None:
        """Adds what an operation does."""
        operands = [None if v is None else self.constants.get(v) for v in node.inputs]
        if all(a is not None for v, a in zip(node.inputs, operands, strict=True) if v is not None):
            results: Sequence[Any] = lookup(node.op).run(node.attrs, operands)
            self.constants.update(zip(node.outputs, results, strict=True))
            return
        source = self._biased(node)
        if source is not None:
            self.proxies[node.output] = source
            return
        if node.op in _BIASED and self._bias(node) is not None:
            return  # made with its bias, where that is added
        if node.op == "sigmoid" and self._gated(node) is not None:
            return
        if node.op == "mul":
            gates = [v.node for v in node.operands() if v.node is not None and v.node.op == "sigmoid"]
            if any(self._gated(gate) is node for gate in gates):
                self.proxies[node.output] = RULES["silu"](node, self.proxy(next(gates[0].operands())))
                return
        arguments = [None if v is None else self.proxy(v) for v in node.inputs]
        result = RULES[node.op](node, *arguments)
        self.proxies[node.output] = result

    def proxy(self, value: Value) -> Any:
        """What stands for a value; a constant becomes a parameter (numbers of other kinds: a buffer)."""
        if value not in self.proxies:
            self.proxies[value] = self._parameter(self.constants[value])
        return self.proxies[value]

    def _parameter(self, array: np.ndarray) -> Any:
        name = f"constant_{len(self.proxies)}"
        tensor = torch.from_numpy(np.array(array))  # a copy: torch does not take read-only memory
        if tensor.is_floating_point():
            self.root.register_parameter(name, torch.nn.Parameter(tensor, requires_grad=False))
        else:
            self.root.register_buffer(name, tensor)
        return self._wrapped(self.fx.get_attr(name))

    def _wrapped(self, node: torch.fx.Node) -> Any:
        return torch.fx.Proxy(node, self.tracer)

    def _bias(self, node: Node) -> tuple[Node, np.ndarray] | None:
        """The addition behind a product, and the vector it adds, where it adds a constant to the channels."""
        result = node.output
        if result in self.graph.outputs or len(result.users) != 1:
            return None
        (reader,) = result.users
        if reader.op != "add" or result.users[reader] != 1:
            return None
        other = next(v for v in reader.operands() if v is not result)
        array, rank = self._folded(other), result.type.rank
        axis = rank - 1 if node.op == "matmul" else 1
        if array is None or array.ndim > rank or reader.output.type.shape != result.type.shape:
            return None
        extents = (1,) * (rank - array.ndim) + array.shape
        if any(d != 1 for k, d in enumerate(extents) if k != axis) or extents[axis] != result.type.shape[axis]:
            return None
        return reader, array.reshape(-1)

    def _folded(self, value: Value) -> np.ndarray | None:
        """A constant, also one that a reshape of a constant makes later in the graph's order."""
        if value not in self.constants and value.node is not None and value.node.op == "reshape":
            inner = self._folded(next(value.node.operands()))
            return None if inner is None else inner.reshape(tuple(value.node.attrs.shape))
        return self.constants.get(value)

    def _gated(self, sigmoid: Node) -> Node | None:
        """The product x sigmoid(x), where nothing else reads the sigmoid: exporters write silu so."""
        result, x = sigmoid.output, next(sigmoid.operands())
        if result in self.graph.outputs or len(result.users) != 1:
            return None
        (reader,) = result.users
        return reader if reader.op == "mul" and set(reader.operands()) == {x, result} else None

    def _biased(self, node: Node) -> Any:
        """The product with bias, where an addition adds the bias of a product."""
        for value in node.operands() if node.op == "add" else ():
            product = value.node
            if product is not None and product.op in _BIASED and value not in self.proxies:
                found = self._bias(product)
                if found is not None and found[0] is node:
                    arguments = [self.proxy(v) for v in product.operands()]
                    return RULES[product.op](product, *arguments, self._parameter(found[1]))
        return None
