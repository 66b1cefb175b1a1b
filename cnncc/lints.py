"""What is worth a look in a model: pixels no window reads, channels that fill no vector, names that nothing uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cnncc.check import Finding
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ops.window import Geometry, geometry

_AXES = {1: ("width",), 2: ("height", "width"), 3: ("depth", "height", "width")}


def lint_graph(graph: Graph) -> list[Finding]:
    """Findings about the operations of a graph."""
    findings: list[Finding] = []
    for node in graph.nodes:
        findings += _windows(node)
        findings += _channels(graph, node)
    return findings


def _name(node: Node) -> str:
    return node.source or node.outputs[0].name


# -- windows -----------------------------------------------------------------------------------------------------------


def _windows(node: Node) -> Iterator[Finding]:
    """Pixels at the end that no window reaches, and pixels between windows."""
    if node.op not in ("conv", "max_pool", "average_pool", "locally_connected"):
        return
    x = node.inputs[0]
    assert x is not None
    size = x.type.shape[2:]
    g = geometry(node.attrs, _kernel(node))
    if any(s > f for s, f in zip(g.strides, g.extent, strict=True)):
        yield _gaps(node, g)
    for axis, i in enumerate(size):
        if isinstance(i, int) and g.strides[axis] <= g.extent[axis] and not getattr(node.attrs, "ceil", False):
            yield from _dropped(node, g, axis, i, _AXES[g.rank][axis])


def _kernel(node: Node) -> Any:
    if node.op in ("max_pool", "average_pool"):
        return node.attrs.kernel
    w = node.inputs[1]
    assert w is not None
    rank = w.type.rank - 2
    return w.type.shape[2:] if node.op == "conv" else w.type.shape[rank // 2 + 2 :]


def _dropped(node: Node, g: Geometry, axis: int, i: int, label: str) -> Iterator[Finding]:
    """(I - F + P) / S + 1 is no whole number, and more is left over than padding."""
    f, s, begin, end = g.extent[axis], g.strides[axis], g.begin[axis], g.end[axis]
    rest = (i + begin + end - f) % s
    lost = rest - end
    if lost <= 0:
        return
    places = (i + begin + end - f) / s + 1
    numbers = {"axis": axis, "input": i, "window": f, "stride": s, "pad_begin": begin, "pad_end": end,
               "places": round(places, 6), "dropped": lost}  # fmt: skip
    yield Finding(
        "window-does-not-tile",
        "warning",
        _name(node),
        f"{node.op} '{_name(node)}': the windows do not tile the {label}: ({i} - {f} + {begin} + {end}) / {s} + 1 = "
        f"{places:g}; the last {lost} of {i} {'is' if lost == 1 else 'are'} never read",
        numbers,
    )


def _gaps(node: Node, g: Geometry) -> Finding:
    read = 1.0
    for f, s in zip(g.extent, g.strides, strict=True):
        read *= min(f / s, 1.0)
    return Finding(
        "window-leaves-gaps",
        "note",
        _name(node),
        f"{node.op} '{_name(node)}': the stride {_times(g.strides)} is larger than the window {_times(g.extent)}: only "
        f"{read:.0%} of the input is read",
        {"window": list(g.extent), "stride": list(g.strides), "read": read},
    )


def _times(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))


# -- channels ----------------------------------------------------------------------------------------------------------


def _channels(graph: Graph, node: Node) -> Iterator[Finding]:
    """Channels that do not divide into the 8 or 16 elements of a vector."""
    if node.op not in ("conv", "conv_transpose"):
        return
    x = node.inputs[0]
    assert x is not None
    out = node.outputs[0].type.shape[1]
    sides: list[tuple[str, Any]] = [("output", out)]
    if x not in graph.inputs and not _depthwise(node, x):
        sides.insert(0, ("input", x.type.shape[1]))
    for side, channels in sides:
        if isinstance(channels, int) and channels % 8 and channels > 4:
            full = -(-channels // 8) * 8
            yield Finding(
                "channels-not-blocked",
                "note",
                _name(node),
                f"{node.op} '{_name(node)}': {channels} {side} channels are no multiple of 8 or 16, so the last vector "
                f"is partly empty ({full} would cost the same)",
                {"channels": channels, "side": side},
            )


def _depthwise(node: Node, x: Value) -> bool:
    return bool(node.attrs.groups == x.type.shape[1])


# -- the ONNX file -----------------------------------------------------------------------------------------------------


def lint_model(model: Any) -> list[Finding]:
    """Findings about an onnx.ModelProto: inputs, initializers and nodes that no output needs."""
    from cnncc.edges.onnx_import.order import reads

    graph = model.graph
    outputs = {o.name for o in graph.output}
    used = set(outputs)
    for node in graph.node:
        used |= reads(node)
    stored = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    findings = [
        _unused("unused-input", "warning", f"input '{i.name}' is not used by any node", i.name)
        for i in graph.input
        if i.name not in used and i.name not in stored
    ]
    findings += [
        _unused("unused-initializer", "note", f"initializer '{name}' is not used by any node", name)
        for name in sorted(stored - used)
    ]
    return findings + _dead_nodes(graph, outputs)


def _dead_nodes(graph: Any, outputs: set[str]) -> list[Finding]:
    from cnncc.edges.onnx_import.order import node_name, reads

    makers = {o: node for node in graph.node for o in node.output if o}
    live: set[int] = set()
    stack = list(outputs)
    while stack:
        node = makers.get(stack.pop())
        if node is not None and id(node) not in live:
            live.add(id(node))
            stack += reads(node)
    dead = [n for n in graph.node if id(n) not in live]
    return [_unused("dead-node", "note", f"{node_name(n)} computes nothing that an output needs", n.name) for n in dead]


def _unused(rule: str, severity: Any, message: str, name: str) -> Finding:
    return Finding(rule, severity, name, message)
