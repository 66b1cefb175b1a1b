"""remove-stop-gradients: behind differentiation, stop_gradient is the identity."""

from __future__ import annotations

from cnncc.ir.graph import Graph
from cnncc.passes.manager import Context


def remove_stop_gradients(graph: Graph, context: Context) -> None:
    """stop_gradient(x) --> x. A pass of its own: canonicalize may run on graphs that are still to be differentiated."""
    for node in graph.nodes:
        if node.op == "stop_gradient":
            (x,) = node.operands()
            graph.replace(node.output, x)
    graph.tidy()
