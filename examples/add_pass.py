"""Add a pass from outside the package: a rewrite rule with a pattern, run before those that cnncc brings.

python examples/add_pass.py
"""

from __future__ import annotations

import numpy as np

import cnncc
from cnncc import Builder, Graph
from cnncc.interpret import interpret
from cnncc.ir.graph import Node, Value
from cnncc.passes import INFERENCE, Context, Step, run_passes
from cnncc.passes.rules import Decline, apply_rules, rule


@rule("max_pool(r := relu(x))")
def relu_behind_pool(b: Builder, x: Value, r: Node, root: Node) -> Value | Decline:
    """max_pool(relu(x)) --> relu(max_pool(x)): the same numbers, and fewer of them go through the relu.

    The pattern's names are the function's parameters: values, `name := op(...)` nodes, `root` the node that matched.
    """
    if root.op != "max_pool" or root.output.type.elements == x.type.elements:
        return Decline("the pooling does not make the image smaller")
    a = root.attrs
    pooled = b.max_pool(x, kernel=a.kernel, strides=a.strides, pads=a.pads, dilations=a.dilations, ceil=a.ceil)
    return b.relu(pooled)


def delay_relu(graph: Graph, context: Context) -> None:
    """A pass changes the graph in place; the manager has copied it, and verifies it afterwards."""
    apply_rules(graph, [relu_behind_pool], context)


DELAY_RELU = Step("delay-relu", delay_relu)


def main() -> None:
    """Run the pass alone, see what it declined, then compile with it."""
    graph = cnncc.parse("""
    graph g(%x: f32[1, 1, 8, 8]) {
      %1: f32[1, 1, 8, 8] = relu(%x)
      %2: f32[1, 1, 4, 4] = max_pool(%1, kernel=2, strides=2)
      %3: f32[1, 1, 4, 4] = relu(%2)
      %4: f32[1, 1, 4, 4] = max_pool(%3, kernel=3, pads=1)
      return %4 as "y"
    }""")
    context = Context()
    print(run_passes(graph, [DELAY_RELU], context))
    for d in context.declined:
        print(f"# {d.rule} declined at {d.where}: {d.reason}")

    exe = cnncc.compile(graph, passes=(DELAY_RELU, *INFERENCE))
    x = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)
    assert np.array_equal(exe(x), interpret(graph, {"x": x})["y"])
    print("stages:", ", ".join(p.name for p in (DELAY_RELU, *INFERENCE)))


if __name__ == "__main__":
    main()
