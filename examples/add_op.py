"""Add an operation from outside the package, and its ONNX import: everything about it stands in one declaration.

    python examples/add_op.py

hard_mish(x) = x / 2 min(max(x + 2, 0), 2): elementwise, so one formula serves the interpreter and every kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

import cnncc
from cnncc.edges.onnx_import.table import register
from cnncc.interpret import interpret
from cnncc.ir.types import Type
from cnncc.ops import Arg, Sample


def infer(attrs: Any, x: Type) -> Type:
    """x of any shape --> the same."""
    return x


def formula(m: Any, attrs: Any, x: Any) -> Any:
    """One element; m is numpy in the interpreter, TVM in kernels. m.let names what is used more than once."""

    def gated(v: Any) -> Any:
        return v * m.like(0.5, v) * m.minimum(m.maximum(v + m.like(2, v), m.like(0, v)), m.like(2, v))

    return m.let(x, gated)


def grad(g: Any) -> list[Any]:
    """1 above 0, x + 1 between -2 and 0, else 0."""
    (x,), b = g.inputs, g.b
    between = b.where(b.less(x, -2.0), b.zeros_like(x), b.add(x, 1.0))
    return [b.mul(g.dy, b.where(b.greater(x, 0.0), b.constant(np.ones((), x.type.numpy)), between))]


cnncc.define(
    "hard_mish", ("x",), infer=infer, grad=grad, formula=formula, samples=(Sample((Arg((2, 5), low=-3, high=3),)),)
)
register("HardMish", lambda n: n.op("hard_mish", n.value(0)), domain="my.domain")


def model() -> onnx.ModelProto:
    """An ONNX model with the operator, behind a convolution."""
    w = np.random.default_rng(0).standard_normal((16, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("HardMish", ["c"], ["y"], domain="my.domain"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [onnx.numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("my.domain", 1)])


def main() -> None:
    """Compile a model with the operator, compare with the interpreter, differentiate."""
    exe = cnncc.compile(model())
    x = np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)
    expected = interpret(cnncc.load_onnx(model()), {"x": x})["y"]
    print(exe.report())
    print("largest difference from the interpreter:", np.abs(exe(x) - expected).max())

    b = cnncc.Builder()
    b.output(b.reduce_sum(b.hard_mish(b.input("x", (4,))), keepdims=False), "loss")
    gradient = interpret(cnncc.grad(b.finish(), wrt=["x"], of="loss"), {"x": np.array([-3, -1, -0.5, 2], np.float32)})
    print("gradient at -3, -1, -0.5, 2:", *gradient.values())


if __name__ == "__main__":
    main()
