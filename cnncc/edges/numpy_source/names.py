"""Names of values and stages in printed numpy: those of the layers, as far as they are known."""

from __future__ import annotations

import keyword
import re

from cnncc.edges.names import unused_name
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ops.registry import lookup

_GRAD = "grad of "
_RESERVED = frozenset(keyword.kwlist) | {
    "np",
    "math",
    "params",
    "forward",
    "step",
    "min",
    "max",
    "int",
    "bool",
    "float",
}


def stage_of(node: Node) -> tuple[int, str]:
    """How often the node's layer was differentiated, and the layer's name ("" where the model gives none)."""
    source, depth = node.source, 0
    while source.startswith(_GRAD):
        source, depth = source[len(_GRAD) :], depth + 1
    return depth, layer_name(source)


def layer_name(source: str) -> str:
    """/layer1/layer1.0/conv1/Conv, as PyTorch exports it --> layer1.0.conv1."""
    if "/" not in source:
        return source
    parts = [p for p in source.split("/") if p]
    if len(parts) > 1 and re.fullmatch(r"[A-Z][A-Za-z]*(_\d+)?", parts[-1]):
        parts.pop()
    kept: list[str] = []
    for p in parts:
        if kept and p.startswith(kept[-1] + "."):
            kept.pop()
        kept.append(p)
    return ".".join(kept)


def identifier(name: str) -> str:
    """A name with what Python does not allow in it replaced."""
    plain = re.sub(r"\W+", "_", name).strip("_") or "value"
    return f"layer_{plain}" if plain[0].isdigit() else f"{plain}_" if plain in _RESERVED else plain


class Names:
    """Gives every value of a graph a Python name."""

    def __init__(self, graph: Graph, taken: set[str]):
        self._taken = set(taken)
        self._of: dict[Value, str] = {}
        self._known = {v.name: v for v in graph.values()}
        self._outputs = dict(zip(graph.outputs, graph.output_names, strict=True))
        self._last = _last_of_stages(graph)
        for value in graph.inputs:
            self._of[value] = self.fresh(identifier(value.name))

    def fresh(self, name: str) -> str:
        """The name, or the name with a number."""
        return unused_name(name, self._taken)

    def __getitem__(self, value: Value) -> str:
        return self._of[value]

    def name(self, value: Value) -> str:
        """The name of a value, given now where it has none."""
        if value not in self._of:
            self._of[value] = self.fresh(self._propose(value))
        return self._of[value]

    def _propose(self, value: Value) -> str:
        node = value.node
        if node is None:
            return _name_of_constant(value)
        differentiated = re.fullmatch(r"d_(.+?)(_\d+)?", value.name)
        if differentiated:
            for base in (value.name[2:], differentiated[1]):
                if base in self._known and self._known[base] in self._of:
                    return "d_" + self._of[self._known[base]]
        depth, stage = stage_of(node)
        if stage.startswith("%"):  # a layer without a name: of its result
            inner = self._known.get(stage[1:])
            stage = self._of.get(inner, "") if inner is not None else ""
        if not stage and value.name[0].isdigit() and value in self._outputs:
            return identifier(self._outputs[value])
        if not stage:
            return identifier(value.name) if not value.name[0].isdigit() else identifier(node.op)
        if depth == 0 and value in self._last:
            return identifier(stage) if not stage[0].isdigit() else identifier(f"{self._last[value]}_{stage}")
        return identifier(f"{stage}_{node.op}" if not stage[0].isdigit() else f"{node.op}_{stage}")


def _name_of_constant(value: Value) -> str:
    """Its own name; one that an exporter numbered (onnx::Conv_193) is named after the layer that reads it."""
    if not value.name.isdigit() and "::" not in value.name:
        return identifier(value.name)
    reader = next(iter(value.users), None)
    if reader is None or not stage_of(reader)[1]:
        return "constant"
    names = lookup(reader.op).inputs
    operand = names[min(reader.inputs.index(value), len(names) - 1)].rstrip("?*")
    return identifier(f"{stage_of(reader)[1]}_{'b' if reader.op in ('reshape', 'add') else operand}")


def _last_of_stages(graph: Graph) -> dict[Value, str]:
    """The first results of the last operations of all forward stages, with the op that the stage starts with."""
    last: dict[Value, str] = {}
    first = ""
    for node, after in zip(graph.nodes, [*graph.nodes[1:], None], strict=False):
        stage = stage_of(node)
        first = first or node.op
        if after is None or stage_of(after) != stage:
            last[node.outputs[0]] = first
            first = ""
    return last
