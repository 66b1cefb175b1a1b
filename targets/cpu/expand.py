"""Replace calls of mathematical functions by their vector forms (see math.py)."""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import ir, tirx

from cnncc.targets.cpu import math

_FUNCTIONS = {
    "tirx.exp": math.exp,
    "tirx.log": math.log,
    "tirx.log1p": math.log1p,
    "tirx.tanh": math.tanh,
    "tirx.erf": math.erf,
    "tirx.sigmoid": math.sigmoid,
    "tirx.pow": math.pow,
}
_WIDE = "float64"  # stays with the C library


def _power(base: Any, exponent: Any) -> Any:
    """pow with small constant exponents as products."""
    value = float(exponent.value) if isinstance(exponent, tirx.FloatImm | tirx.IntImm) else None
    if value == 1.0:
        return base
    if value == 2.0:
        return math.let(base, lambda b: b * b)
    if value == 3.0:
        return math.let(base, lambda b: b * b * b)
    return math.pow(base, exponent)


def expand_math(func: Any) -> Any:
    """exp(x) --> the polynomial of math.exp(x), in a PrimFunc or an expression.

    The last step of a schedule: every call gets its own `Let` variables.
    """

    def expand(call: Any) -> Any:
        name = call.op.name if isinstance(call.op, ir.Op) else ""
        if name not in _FUNCTIONS or call.args[0].ty.dtype == _WIDE:
            return call
        if name == "tirx.pow":
            return _power(*call.args)
        return _FUNCTIONS[name](*call.args)

    return tvm_ffi.structural_map(func, (ir.Call, expand))
