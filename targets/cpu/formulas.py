"""The functions of formulas on CPUs: polynomials that vectorise, where the C library would be called per element."""

from __future__ import annotations

from typing import Any

from cnncc.targets.tir_math import TirMath

Expr = Any


class CpuMath(TirMath):
    """`TirMath` with cnncc.targets.cpu.math's functions (errors are stated there)."""

    def exp(self, x: Expr) -> Expr:
        """e to the power of x."""
        from cnncc.targets.cpu import math

        return math.exp(x)

    def expm1(self, x: Expr) -> Expr:
        """e to the power of x, less 1."""
        from cnncc.targets.cpu import math

        return math.expm1(x)

    def log(self, x: Expr) -> Expr:
        """The natural logarithm."""
        from cnncc.targets.cpu import math

        return math.log(x)

    def log1p(self, x: Expr) -> Expr:
        """log(1 + x)."""
        from cnncc.targets.cpu import math

        return math.log1p(x)

    def tanh(self, x: Expr) -> Expr:
        """The hyperbolic tangent."""
        from cnncc.targets.cpu import math

        return math.tanh(x)

    def erf(self, x: Expr) -> Expr:
        """The error function."""
        from cnncc.targets.cpu import math

        return math.erf(x)

    def sigmoid(self, x: Expr) -> Expr:
        """1 / (1 + exp(-x))."""
        from cnncc.targets.cpu import math

        return math.sigmoid(x)

    def power(self, x: Expr, y: Expr) -> Expr:
        """x to the power of y."""
        from cnncc.targets.cpu import math

        return math.pow(x, y)
