"""Dimensions: Python integers, or sympy expressions over named symbols (positive integers).

sympy is imported only when a symbol appears, so static graphs never pay for it.
"""

from __future__ import annotations

import ast
import keyword
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from cnncc.errors import GraphError

if TYPE_CHECKING:
    import sympy

    Dim: TypeAlias = int | sympy.Expr
else:
    Dim = object

Shape: TypeAlias = "tuple[Dim, ...]"
_RESERVED = ("inf", "nan")
_MAX_EXPONENT = 8  # of a power in text: real shapes need 2 or 3, and 9**9**9 would not come to an end


def symbol(name: str) -> Dim:
    """The dimension called `name`; characters an identifier cannot have become underscores.

    Words that mean something else in the textual form (``in``, ``None``, ``inf``) get a ``d_`` in front.
    """
    import sympy

    identifier = re.sub(r"\W", "_", unicodedata.normalize("NFKC", name))  # as ast.parse reads it back
    if not identifier.isidentifier() or keyword.iskeyword(identifier) or identifier in _RESERVED:
        identifier = "d_" + identifier
    return sympy.Symbol(identifier, integer=True, positive=True)


def is_static(shape: Iterable[Dim]) -> bool:
    """Whether every dimension is a number."""
    return all(isinstance(d, int) for d in shape)


def normal(dim: Dim) -> Dim:
    """An expression without symbols --> the integer; others expanded to one normal form."""
    if isinstance(dim, int):
        return int(dim)
    import sympy

    dim = sympy.expand(dim)
    return int(dim) if dim.is_Integer else dim


def product(dims: Iterable[Dim]) -> Dim:
    """The product of dimensions, 1 for none."""
    total: Dim = 1
    for d in dims:
        total = total * d
    return normal(total)


def symbols_of(dims: Iterable[Dim]) -> tuple[str, ...]:
    """Names of the symbols in some dimensions, sorted."""
    return tuple(sorted({s.name for d in dims if not isinstance(d, int) for s in d.free_symbols}))


def substitute(dim: Dim, values: Mapping[str, int]) -> Dim:
    """The dimension with symbols replaced by numbers."""
    if isinstance(dim, int):
        return dim
    return normal(dim.subs({s: values[s.name] for s in dim.free_symbols if s.name in values}))


def substitute_shape(shape: Iterable[Dim], values: Mapping[str, int]) -> Shape:
    """`substitute` for each dimension of a shape."""
    return tuple(substitute(d, values) for d in shape)


def affine(dim: Dim) -> tuple[int, dict[str, int]]:
    """A dimension as constant + sum of coefficient * symbol. Raises GraphError where it is not of that form."""
    if isinstance(dim, int):
        return dim, {}
    import sympy

    poly = sympy.Poly(dim, *sorted(dim.free_symbols, key=lambda s: s.name)) if dim.is_polynomial() else None
    if poly is None or poly.total_degree() > 1 or not all(c.is_Integer for c in poly.coeffs()):
        raise GraphError(f"a symbolic size must be linear in its symbols here, got {dim}; fix the shapes (shapes=...)")
    coefficients = {s.name: int(poly.coeff_monomial(s)) for s in poly.gens}
    return int(poly.coeff_monomial(1)), coefficients


def shape_text(shape: Iterable[Dim]) -> str:
    """A shape as users write it: 1x3x224x224, Nx3x224x224."""
    return "x".join(str(d) for d in shape) or "scalar"


def same_or_unknown(a: Dim, b: Dim) -> bool:
    """False only where two dimensions are certainly different: N and M may be equal, N and 4 may be, 3 and 4 not."""
    return a == b or not (isinstance(a, int) and isinstance(b, int))


def broadcast(shapes: Sequence[Sequence[Dim]]) -> Shape:
    """numpy's broadcasting. A symbol against another size than 1 must be the same symbol."""
    rank = max((len(s) for s in shapes), default=0)
    result: list[Dim] = []
    for axis in range(rank):
        extent: Dim = 1
        for shape in shapes:
            k = axis - rank + len(shape)
            d = shape[k] if k >= 0 else 1
            if d == 1 or d == extent:
                continue
            if extent != 1:
                raise GraphError(
                    "shapes must broadcast (equal or 1 on every axis), got "
                    + " and ".join(shape_text(s) for s in shapes)
                )
            extent = d
        result.append(extent)
    return tuple(result)


def parse_dim(text: str) -> Dim:
    """Inverse of `str` for a dimension: integers, names, + - * / and floor(). Raises GraphError otherwise."""
    if text.isdecimal():
        return int(text)
    dim: Dim | None
    try:
        dim = normal(_evaluate(ast.parse(text.strip(), mode="eval").body))
    except (SyntaxError, KeyError, TypeError, AttributeError, ZeroDivisionError, RecursionError):
        dim = None
    if dim is None or not (isinstance(dim, int) or dim.free_symbols):
        raise GraphError(f"a dimension must be a number or an expression of names, got {text!r}")
    return dim


def _evaluate(node: ast.expr) -> Dim:
    import sympy

    if isinstance(node, ast.Constant) and type(node.value) is int:
        return sympy.Integer(node.value)
    if isinstance(node, ast.Name):
        return symbol(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand)
    if isinstance(node, ast.BinOp):
        a, b = sympy.sympify(_evaluate(node.left)), sympy.sympify(_evaluate(node.right))
        if isinstance(node.op, ast.Add):
            return a + b
        if isinstance(node.op, ast.Sub):
            return a - b
        if isinstance(node.op, ast.Mult):
            return a * b
        if isinstance(node.op, ast.Div):
            return a / b
        if isinstance(node.op, ast.FloorDiv):
            return a // b
        if isinstance(node.op, ast.Pow) and b.is_Integer and abs(b) <= _MAX_EXPONENT:
            return a**b
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        functions = {f.__name__: f for f in (sympy.floor, sympy.ceiling, sympy.Max, sympy.Min, sympy.Mod)}
        return functions[node.func.id](*map(_evaluate, node.args))
    raise TypeError("not a dimension")
