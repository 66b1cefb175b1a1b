"""canonicalize: one form for each meaning, so that later rules need to know only that form."""

from __future__ import annotations

import numpy as np

from cnncc.builder import Builder
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ops.registry import lookup
from cnncc.passes.activations import RULES as ACTIVATIONS
from cnncc.passes.adaptive import RULES as ADAPTIVE
from cnncc.passes.manager import Context
from cnncc.passes.rules import Decline, Rule, apply_rules, rule

SAME = "the type would change"


def _same(x: Value, root: Node) -> Value | Decline:
    return x if x.type == root.output.type else Decline(SAME)


@rule("add(x, 0)")
def drop_add_zero(x: Value, root: Node) -> Value | Decline:
    """x + 0 --> x."""
    return _same(x, root)


@rule("sub(x, 0)")
def drop_sub_zero(x: Value, root: Node) -> Value | Decline:
    """x - 0 --> x."""
    return _same(x, root)


@rule("mul(x, 1)")
def drop_mul_one(x: Value, root: Node) -> Value | Decline:
    """x 1 --> x."""
    return _same(x, root)


@rule("div(x, 1)")
def drop_div_one(x: Value, root: Node) -> Value | Decline:
    """x / 1 --> x."""
    return _same(x, root)


@rule("cast(x)")
def drop_cast(x: Value, root: Node) -> Value | Decline:
    """cast(x) to x's own dtype --> x."""
    return _same(x, root)


@rule("dropout(x)")
def drop_dropout(x: Value) -> Value | Decline:
    """dropout(x) --> x, as inference has it."""
    return x


@rule("relu(relu(x))", shared=True)
def merge_relu(b: Builder, x: Value) -> Value | Decline:
    """relu(relu(x)) --> relu(x)."""
    return b.relu(x)


@rule("clip(x)")
def clip_to_relu(b: Builder, x: Value, root: Node) -> Value | Decline:
    """clip(x, low=0) --> relu(x); clip without bounds --> x."""
    if root.attrs.high != float("inf"):
        return Decline("clip has an upper bound")
    if root.attrs.low == float("-inf"):
        return x
    return b.relu(x) if root.attrs.low == 0 else Decline("the lower bound is not 0")


@rule("reshape(x)")
def drop_reshape(x: Value, root: Node) -> Value | Decline:
    """reshape(x) to x's own shape --> x."""
    return _same(x, root)


@rule("reshape(reshape(x))", shared=True)
def merge_reshapes(b: Builder, x: Value, root: Node) -> Value | Decline:
    """reshape(reshape(x)) --> reshape(x)."""
    return b.reshape(x, shape=root.output.type.shape)


@rule("expand(x)")
def drop_expand(x: Value, root: Node) -> Value | Decline:
    """expand(x) to x's own shape --> x."""
    return _same(x, root)


@rule("transpose(x)")
def drop_transpose(b: Builder, x: Value, root: Node) -> Value | Decline:
    """transpose(x) that moves only axes of extent 1 --> reshape(x)."""
    moved = [a for a in root.attrs.perm if x.type.shape[a] != 1]
    if moved != sorted(moved):
        return Decline("axes longer than 1 change their order")
    return b.reshape(x, shape=root.output.type.shape)


@rule("transpose(t := transpose(x))", shared=True)
def merge_transposes(b: Builder, x: Value, t: Node, root: Node) -> Value | Decline:
    """transpose(transpose(x, p), q) --> transpose(x, p[q])."""
    return b.transpose(x, perm=tuple(t.attrs.perm[a] for a in root.attrs.perm))


@rule("concat(x)")
def drop_concat(x: Value, root: Node) -> Value | Decline:
    """concat of one operand --> the operand."""
    return x if len(root.inputs) == 1 else Decline("concat has several operands")


@rule("pad(x)")
def drop_pad(x: Value, root: Node) -> Value | Decline:
    """pad by nothing --> x."""
    return Decline("the padding moves elements") if any(root.attrs.pads) else x


@rule("slice(x)")
def drop_slice(x: Value, root: Node) -> Value | Decline:
    """slice that takes everything, forwards --> x."""
    if any(s < 0 for s in root.attrs.steps):
        return Decline("the slice runs backwards")
    return _same(x, root)


@rule("sub(x, c)")
def sub_to_add(b: Builder, x: Value, c: Value) -> Value | Decline:
    """x - c --> x + (-c) for a floating-point constant c."""
    if c.data is None or c.type.dtype not in ("f32", "f64"):
        return Decline("the second operand is no floating-point constant")
    return b.add(x, -c.data)


@rule("div(x, c)")
def div_to_mul(b: Builder, x: Value, c: Value) -> Value | Decline:
    """x / c --> x (1 / c) for a constant c whose reciprocal is exact (powers of two)."""
    if c.data is None or c.type.dtype not in ("f32", "f64"):
        return Decline("the second operand is no floating-point constant")
    mantissa, _ = np.frexp(c.data)
    if not np.all(np.abs(mantissa) == 0.5):
        return Decline("the reciprocal would round")
    return b.mul(x, 1 / c.data)


@rule("pow(x, 2)")
def pow_to_square(b: Builder, x: Value, root: Node) -> Value | Decline:
    """x ** 2 --> x x, where a power takes a logarithm."""
    return b.square(x) if x.type == root.output.type else Decline(SAME)


@rule("pow(x, 3)")
def pow_to_cube(b: Builder, x: Value, root: Node) -> Value | Decline:
    """x ** 3 --> x x x."""
    return b.mul(b.mul(x, x), x) if x.type == root.output.type else Decline(SAME)


RULES: tuple[Rule, ...] = (
    drop_add_zero,
    drop_sub_zero,
    drop_mul_one,
    drop_div_one,
    drop_cast,
    drop_dropout,
    merge_relu,
    clip_to_relu,
    drop_reshape,
    merge_reshapes,
    drop_expand,
    merge_transposes,
    drop_transpose,
    drop_concat,
    drop_pad,
    drop_slice,
    sub_to_add,
    div_to_mul,
    pow_to_square,
    pow_to_cube,
    *ADAPTIVE,
    *ACTIVATIONS,
)


def canonicalize(graph: Graph, context: Context) -> None:
    """Apply RULES, then give every constant operand of an elementwise op the rank of the result."""
    apply_rules(graph, RULES, context)
    for node in graph.nodes:
        if node.body is None and lookup(node.op).elementwise:
            _align(graph, node)


def _align(graph: Graph, node: Node) -> None:
    """add(x [N, C, H, W], c [C, 1, 1]) --> add(x, c [1, C, 1, 1]) for constants c."""
    rank = node.outputs[0].type.rank
    for value in list(node.operands()):
        if value.data is not None and 0 < value.type.rank < rank:
            data = value.data.reshape((1,) * (rank - value.data.ndim) + value.data.shape)
            node.replace_input(value, graph.add_constant(data, value.name + ".aligned"))
