"""Rewrite rules: a pattern over ops, and a function that builds the replacement or declines with a reason.

    @rule("mul(c := conv(x, w), s)")
    def fold_scale(b, c, x, w, s): ...

The pattern is an expression: op names are calls, free names bind operands (Value), ``name := op(...)`` binds the node
itself, numbers match constants with that value everywhere. The names must be the function's parameters (`b` is the
Builder, `root` the matched node, both optional). Results inside the pattern must have no other user, unless the rule
says shared=True. Commutative ops match in both orders. A rule returns the new Value, or Decline.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnncc.builder import Builder
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ops.registry import lookup
from cnncc.passes.manager import Context


@dataclass(frozen=True)
class Decline:
    """Why a rule that matched does not apply."""

    reason: str


@dataclass(frozen=True)
class Rule:
    """A named rewrite; see the module's text."""

    name: str
    pattern: ast.Call
    rewrite: Callable[..., Value | Decline]
    parameters: frozenset[str]
    shared: bool

    @property
    def op(self) -> str:
        """The op at the root of the pattern."""
        return _op_name(self.pattern)


def rule(pattern: str, *, shared: bool = False) -> Callable[[Callable[..., Value | Decline]], Rule]:
    """Make a function a rule. Unknown ops and names that do not agree with the parameters fail at import."""

    def make(function: Callable[..., Value | Decline]) -> Rule:
        tree = ast.parse(pattern, mode="eval").body
        assert isinstance(tree, ast.Call), pattern
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                lookup(_op_name(node))
        ops = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
        names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in ops}
        parameters = frozenset(inspect.signature(function).parameters)
        assert parameters - {"b", "root"} <= names, f"{function.__name__}: {parameters} against {pattern}"
        return Rule(function.__name__.replace("_", "-"), tree, function, parameters, shared)

    return make


def apply_rules(graph: Graph, rules: Sequence[Rule], context: Context) -> None:
    """Apply rules, in order, at every node until none applies any more; declined ones are noted in the context."""
    table: dict[str, list[Rule]] = {}
    for r in rules:
        table.setdefault(r.op, []).append(r)
    pending = list(graph.nodes)
    budget = 200 * (len(pending) + 10)
    while pending:
        node = pending.pop(0)
        if not any(v.users or v in graph.outputs for v in node.outputs):
            _drop_dead(graph, node)
            continue
        for r in table.get(node.op, ()):
            start = len(graph.nodes)
            result = _try(graph, r, node, context)
            if result is None:
                continue
            budget -= 1
            assert budget > 0, f"{r.name} does not come to an end at {node.where}"
            made = graph.nodes[start:]
            for new in made:
                new.source = new.source or node.source
            users = list(node.output.users)
            graph.replace(node.output, result)
            _drop_dead(graph, node)
            around = [result.node] if result.node is not None else []
            pending += [n for n in (*made, *around, *users) if n not in pending]
            break
    graph.tidy()


def _try(graph: Graph, r: Rule, node: Node, context: Context) -> Value | None:
    for found in _match(graph, r.pattern, node, {}, r.shared, root=True):
        arguments = {k: v for k, v in found.items() if k in r.parameters}
        if "b" in r.parameters:
            arguments["b"] = Builder(graph)
        if "root" in r.parameters:
            arguments["root"] = node
        result = r.rewrite(**arguments)
        if isinstance(result, Decline):
            context.decline(r.name, node.where, result.reason)
            continue
        have, wanted = result.type.plain, node.output.type.plain
        assert have == wanted, f"{r.name} at {node.where}: the type must stay {wanted}, got {have}"
        return result
    return None


def _match(
    graph: Graph, pattern: ast.expr, value: Value | Node | None, bound: dict[str, Any], shared: bool, root: bool = False
) -> Iterator[dict[str, Any]]:
    if isinstance(pattern, ast.NamedExpr):
        node = value.node if isinstance(value, Value) else value
        for found in _match(graph, pattern.value, value, bound, shared, root):
            yield {**found, pattern.target.id: node}
    elif isinstance(pattern, ast.Name):
        if isinstance(value, Value) and bound.get(pattern.id, value) is value:
            yield {**bound, pattern.id: value}
    elif isinstance(pattern, ast.Constant):
        if (
            isinstance(value, Value)
            and value.data is not None
            and value.data.size
            and np.all(value.data == pattern.value)
        ):
            yield bound
    else:
        assert isinstance(pattern, ast.Call)
        node = value.node if isinstance(value, Value) else value
        if node is None or node.op != _op_name(pattern) or len(node.inputs) < len(pattern.args):
            return
        if not root and not shared and graph.uses(node.output) != 1:
            return
        orders = [tuple(node.inputs[: len(pattern.args)])]
        if len(pattern.args) == 2 and lookup(node.op).commutative:
            orders.append(orders[0][::-1])
        for operands in orders:
            yield from _match_all(graph, pattern.args, operands, bound, shared)


def _match_all(
    graph: Graph, patterns: Sequence[ast.expr], operands: Sequence[Value | None], bound: dict[str, Any], shared: bool
) -> Iterator[dict[str, Any]]:
    if not patterns:
        yield bound
        return
    for found in _match(graph, patterns[0], operands[0], bound, shared):
        yield from _match_all(graph, patterns[1:], operands[1:], found, shared)


def _op_name(pattern: ast.Call) -> str:
    assert isinstance(pattern.func, ast.Name)
    return pattern.func.id.rstrip("_")  # `and_`, `not_`: Python keywords


def _drop_dead(graph: Graph, node: Node) -> None:
    if any(v.users or v in graph.outputs for v in node.outputs) or not node.inputs:
        return
    producers = [v.node for v in node.operands() if v.node is not None]
    node.drop()
    if node in graph.nodes:
        graph.nodes.remove(node)
    for producer in producers:
        _drop_dead(graph, producer)
