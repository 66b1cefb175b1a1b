"""The source of the functions that printed numpy calls, without annotations, in the order in which they are needed."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

PLAIN = "cnncc.ops.plain"


class Helpers:
    """Functions that are used, and those that they use."""

    def __init__(self) -> None:
        self._functions: dict[str, Callable[..., Any]] = {}

    def use(self, function: Callable[..., Any]) -> str:
        """Note a function; gives its name."""
        name = function.__name__
        if name not in self._functions:
            for inner in _names(function):
                found = function.__globals__.get(inner)
                if inspect.isfunction(found) and found.__module__.startswith(PLAIN):
                    self.use(found)
            self._functions[name] = function
        return name

    @property
    def names(self) -> set[str]:
        """Names of all functions used so far."""
        return set(self._functions)

    def imports(self) -> list[str]:
        """What the functions import beside numpy."""
        return ["import math"] if any("math" in _names(f) for f in self._functions.values()) else []

    def source(self) -> list[str]:
        """One text for each function."""
        return [_source(f) for f in self._functions.values()]


def _names(function: Callable[..., Any]) -> set[str]:
    """Names that a function reads."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}


def _source(function: Callable[..., Any]) -> str:
    text = textwrap.dedent(inspect.getsource(function))
    (tree,) = ast.parse(text).body
    assert isinstance(tree, ast.FunctionDef)
    for argument in (*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs):
        argument.annotation = None
    lines = text.splitlines()[tree.body[0].lineno - 1 :]
    body = "\n".join(lines)
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            body = body.replace(f"{node.target.id}: {ast.unparse(node.annotation)} =", f"{node.target.id} =")
    return f"def {tree.name}({ast.unparse(tree.args)}):\n{body}"
