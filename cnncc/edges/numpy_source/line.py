"""What an op's `numpy` rule sees: one operation, the names of its operands, and the words to write it with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnncc.ir.dims import Dim
from cnncc.ir.graph import Node
from cnncc.ir.types import Type


class Line:
    """One operation. `s[k]` is the name of operand k ("None" where it is absent), `s.x` all of them."""

    def __init__(self, node: Node, x: Sequence[str], helper: Callable[[Callable[..., Any]], str]):
        self.attrs = node.attrs
        self.x = tuple(x)
        self.types: tuple[Type | None, ...] = tuple(None if v is None else v.type for v in node.inputs)
        self.out = node.outputs[0].type
        self._helper = helper

    def __getitem__(self, k: int) -> str:
        return self.x[k]

    def call(self, function: Callable[..., Any], *operands: str, **numbers: Any) -> str:
        """A call of a function of cnncc/ops/plain, whose source is printed with the graph; defaults are left out."""
        defaults = {p.name: p.default for p in inspect.signature(function).parameters.values()}
        keywords = [f"{name}={text(value)}" for name, value in numbers.items() if value != defaults[name]]
        return f"{self._helper(function)}({', '.join([*operands, *keywords])})"

    def text(self, value: Any) -> str:
        """A number, a dimension, a dtype or a tuple of these as Python writes it."""
        return text(value)


def text(value: Any) -> str:
    """See `Line.text`."""
    if isinstance(value, (tuple, list)):
        inner = ", ".join(text(v) for v in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if hasattr(value, "free_symbols"):
        return dim_text(value)
    if isinstance(value, (type, np.dtype)):
        return f"np.{np.dtype(value).name}"
    return "-np.inf" if value == -np.inf else "np.inf" if value == np.inf else repr(value)


def dim_text(d: Dim) -> str:
    """A dimension as a Python expression of its symbols."""
    if isinstance(d, int):
        return str(d)
    import sympy

    if isinstance(d, sympy.floor):
        top, bottom = d.args[0].as_numer_denom()
        return f"({dim_text(top)}) // {bottom}"
    if isinstance(d, (sympy.Max, sympy.Min)):
        return f"{type(d).__name__.lower()}({', '.join(map(dim_text, d.args))})"
    if isinstance(d, sympy.Add):
        return " + ".join(dim_text(a) for a in d.args).replace("+ -", "- ")
    if isinstance(d, sympy.Mul):
        parts = [f"({dim_text(a)})" if isinstance(a, (sympy.Add, sympy.floor)) else dim_text(a) for a in d.args]
        return " * ".join(parts).replace("-1 * ", "-")
    return str(d)
