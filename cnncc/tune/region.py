"""What names a tuned kernel: its problem, and of what is fused around it that which its time depends on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cnncc.ir.graph import Graph
from cnncc.ir.kernel import anchor
from cnncc.targets.describe import describe
from cnncc.targets.problem import ConvProblem, MatmulProblem, PoolProblem

# Operations of an instruction or two: which of them follow a convolution does not decide about its tile.
CHEAP = frozenset({
    "abs", "add", "cast", "clip", "equal", "greater", "greater_equal", "hard_sigmoid", "hard_swish", "leaky_relu",
    "less", "less_equal", "maximum", "minimum", "mul", "neg", "prelu", "relu", "sub", "where",
})  # fmt: skip
SYMBOL = "N"  # whatever a model calls its batch


def problem_text(problem: Any) -> str:
    """The problem as the database names it: a symbolic batch has one name in all models. Records from outside the
    package are taken as they are."""
    fields = {ConvProblem: ("n",), PoolProblem: ("n",), MatmulProblem: ("m",)}.get(type(problem), ())
    symbols = [name for name in fields if isinstance(getattr(problem, name), str)]
    return str(replace(problem, **dict.fromkeys(symbols, SYMBOL)) if symbols else problem)


def region_text(body: Graph) -> str:
    """What is fused around the anchor, where it matters: `reads2` (tensors as large as the result that the epilogue
    reads), and operations that cost more than an instruction or two, by name. Bias and ReLU are nothing."""
    root = anchor(body)
    if root is None:
        return ""
    result = body.outputs[0].type
    large = sum(v.type.shape == result.shape and any(n is not root for n in v.users) for v in body.inputs)
    costly = sorted(n.op for n in body.nodes if n is not root and n.op not in CHEAP)
    return " ".join([*([f"reads{large}"] if large else []), *costly])


def kernel_name(body: Graph) -> tuple[str, str] | None:
    """Problem and region of a kernel's body; None where its anchor has no problem record."""
    problem = describe(body)
    return None if problem is None else (problem_text(problem), region_text(body))
