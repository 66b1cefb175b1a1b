"""Formulas of elementwise ops as numpy source: they run on texts instead of numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cnncc.ir.dtype import NUMPY
from cnncc.ops.plain import math as plain

ATOM, POWER, UNARY, PRODUCT, SUM, SHIFT, AND, XOR, OR, COMPARE = range(10)  # how tightly the outermost operator binds


class Expression:
    """Source text. Operators build larger texts, with parentheses only where they are needed."""

    def __init__(self, text: str, level: int = ATOM, number: float | None = None):
        self.text = text
        self.level = level
        self.number = number

    def at(self, level: int) -> str:
        """The text as an operand of an operator that binds with `level`."""
        return self.text if self.level <= level else f"({self.text})"

    def _with(self, other: Any, sign: str, level: int, left: int | None = None, right: int | None = None) -> Expression:
        text = f"{self.at(level if left is None else left)} {sign} {other.at(level - 1 if right is None else right)}"
        return Expression(text, level)

    def __add__(self, other: Any) -> Expression:
        return self._with(other, "+", SUM, right=SUM)

    def __sub__(self, other: Any) -> Expression:
        if self.number == 0 and other.number is not None:
            return number(-other.number)
        return self._with(other, "-", SUM)

    def __mul__(self, other: Any) -> Expression:
        return self._with(other, "*", PRODUCT, right=PRODUCT)

    def __truediv__(self, other: Any) -> Expression:
        return self._with(other, "/", PRODUCT)

    def __mod__(self, other: Any) -> Expression:
        return self._with(other, "%", PRODUCT)

    def __neg__(self) -> Expression:
        return Expression(f"-{self.at(UNARY)}", UNARY)

    def __lt__(self, other: Any) -> Any:
        return self._with(other, "<", COMPARE, left=OR)

    def __le__(self, other: Any) -> Any:
        return self._with(other, "<=", COMPARE, left=OR)

    def __gt__(self, other: Any) -> Any:
        return self._with(other, ">", COMPARE, left=OR)

    def __ge__(self, other: Any) -> Any:
        return self._with(other, ">=", COMPARE, left=OR)


def number(value: Any, dtype: str = "f32") -> Expression:
    """A number as Python writes it; of f32 the shortest decimal that is the same."""
    value = np.asarray(value)
    if value.dtype == np.bool_ or value.dtype.kind in "iu":
        text = str(value.item())
    elif np.isnan(value):
        text = "np.nan"
    elif np.isinf(value):
        text = "np.inf" if value > 0 else "-np.inf"
    else:
        text = repr(float(str(value.astype(np.float32)))) if dtype in ("f32", "f16") else repr(float(value))
    return Expression(text, UNARY if text.startswith("-") else ATOM, float(value))


class SourceMath:
    """`cnncc.ops.math.Math` on expressions. dtype: what numbers are made for; helper: notes a function that is used."""

    def __init__(self, dtype: str, helper: Callable[[Callable[..., Any]], str]):
        self.dtype = dtype
        self._helper = helper

    def __getattr__(self, name: str) -> Callable[..., Expression]:
        known = {"tan": "tan", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh",
                 "acosh": "arccosh", "atanh": "arctanh", "remainder": "fmod"}.get(name, name)  # fmt: skip
        if name.startswith("_") or not hasattr(np, known):
            raise AttributeError(name)
        return lambda *xs: Expression(f"np.{known}({', '.join(x.text for x in xs)})")

    def let(self, x: Expression, body: Callable[[Expression], Any]) -> Any:
        """body(x): operands are names, which may stand in several places."""
        return body(x)

    def like(self, value: float, x: Expression) -> Expression:
        """A number."""
        whole = self.dtype[0] in "iub"
        return number(int(value) if whole or value == int_or_none(value) else value, self.dtype)

    def sigmoid(self, x: Expression) -> Expression:
        """A helper: numpy has none."""
        return Expression(f"{self._helper(plain.sigmoid)}({x.text})")

    def erf(self, x: Expression) -> Expression:
        """A helper: numpy has none."""
        return Expression(f"{self._helper(plain.erf)}({x.text})")

    def divide(self, x: Expression, y: Expression) -> Expression:
        """Division; of integers towards zero."""
        if self.dtype[0] in "iu":
            return Expression(f"{self._helper(plain.whole_quotient)}({x.text}, {y.text})")
        return x / y

    def power(self, x: Expression, y: Expression) -> Expression:
        """x ** y."""
        return Expression(f"{x.at(ATOM)} ** {y.at(UNARY)}", POWER)

    def modulo(self, x: Expression, y: Expression) -> Expression:
        """The remainder with the sign of y."""
        return x % y

    def equal(self, x: Expression, y: Expression) -> Expression:
        """x == y."""
        return x._with(y, "==", COMPARE, left=OR)

    def not_equal(self, x: Expression, y: Expression) -> Expression:
        """x != y."""
        return x._with(y, "!=", COMPARE, left=OR)

    def logical_and(self, x: Expression, y: Expression) -> Expression:
        """x & y of bools."""
        return x._with(y, "&", AND)

    def logical_or(self, x: Expression, y: Expression) -> Expression:
        """x | y of bools."""
        return x._with(y, "|", OR)

    def logical_not(self, x: Expression) -> Expression:
        """~x of bools."""
        return Expression(f"~{x.at(UNARY)}", UNARY)

    def cast(self, x: Expression, dtype: str) -> Expression:
        """Conversion as numpy makes it."""
        return Expression(f"{x.at(ATOM)}.astype(np.{np.dtype(NUMPY[dtype]).name})")


def int_or_none(value: float) -> int | None:
    """The whole number that a number is, if any."""
    return int(value) if value == value and abs(value) < 1e9 and value == int(value) else None
