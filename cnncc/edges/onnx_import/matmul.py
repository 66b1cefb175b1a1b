"""MatMul, Gemm and Einsum."""

from __future__ import annotations

from collections.abc import Callable

from cnncc.edges.onnx_import.context import Call, Results
from cnncc.edges.onnx_import.einsum import einsum
from cnncc.edges.onnx_import.elementwise import broadcast_operands


def matmul(n: Call) -> Results:
    """MatMul."""
    x, w = n.value(0), n.value(1)
    if x.type.rank and w.type.rank:
        n.equate(x.type.shape[-1], w.type.shape[-2 if w.type.rank > 1 else -1], "inner sizes", True)
    return n.op("matmul", x, w)


def gemm(n: Call) -> Results:
    """Gemm: alpha A B + beta C."""
    a, b = n.value(0), n.value(1)
    if a.type.rank != 2 or b.type.rank != 2:
        n.fail(f"A and B must have rank 2, got {a.type.rank} and {b.type.rank}")
    left, right = bool(n.attr_int("transA")), bool(n.attr_int("transB"))
    n.equate(a.type.shape[0 if left else 1], b.type.shape[1 if right else 0], "inner sizes", True)
    y = n.op("matmul", a, b, transpose_x=left, transpose_w=right)
    alpha, beta = n.attr_float("alpha", 1.0), n.attr_float("beta", 1.0)
    if alpha != 1.0:
        y = n.op("mul", y, alpha)
    if not n.has(2) or beta == 0.0:
        return y
    c = n.value(2)
    if beta != 1.0:
        c = n.op("mul", c, beta)
    return n.op("add", *broadcast_operands(n, y, c))


TABLE: dict[str, Callable[[Call], Results]] = {"MatMul": matmul, "Gemm": gemm, "Einsum": einsum}
