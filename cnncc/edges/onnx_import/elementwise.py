"""Arithmetic, comparison, logic, casts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cnncc.edges.onnx_import.context import Call, Results
from cnncc.edges.onnx_tensors import element_type
from cnncc.ir.dtype import is_float, short_name
from cnncc.ir.graph import Value


def broadcast_operands(n: Call, *operands: Value) -> list[Value]:
    """Operands whose sizes agree under broadcasting; sizes that are formulas may turn out equal later."""
    rank = max(v.type.rank for v in operands)
    result = list(operands)
    for axis in range(1, rank + 1):
        sizes = [v.type.shape[-axis] for v in result if v.type.rank >= axis and v.type.shape[-axis] != 1]
        if all(d == sizes[0] for d in sizes):
            continue
        chosen = next((d for d in sizes if isinstance(d, int)), sizes[0])
        for i, v in enumerate(result):
            if v.type.rank >= axis and v.type.shape[-axis] not in (1, chosen):
                n.equate(v.type.shape[-axis], chosen, "broadcast sizes")
                k = v.type.rank - axis
                result[i] = n.agree(v, (*v.type.shape[:k], chosen, *v.type.shape[k + 1 :]))
    return result


def unary(op: str) -> Callable[[Call], Results]:
    """An operation of one operand without attributes."""
    return lambda n: n.op(op, n.value(0))


def binary(op: str) -> Callable[[Call], Results]:
    """An operation of two operands, broadcast."""

    def run(n: Call) -> Results:
        return n.op(op, *broadcast_operands(n, n.value(0), n.value(1)))

    return run


def chain(op: str) -> Callable[[Call], Results]:
    """An operation of any number of operands, from the left."""

    def run(n: Call) -> Results:
        values = n.values()
        if not values:
            n.fail("takes at least one input, got none")
        values = broadcast_operands(n, *values)
        total = values[0]
        for value in values[1:]:
            total = n.op(op, total, value)
        return total if len(values) > 1 else n.tensor(0)

    return run


def mean(n: Call) -> Results:
    """Mean of any number of operands."""
    total = chain("add")(n)
    if len(n.inputs) == 1:
        return total
    return n.op("mul", total, 1.0 / len(n.inputs))


def power(n: Call) -> Results:
    """Pow: the result has the base's dtype, whatever the exponent's."""
    x, dtype = n.value(0), n.type(0).dtype
    exponent = n.known(1)
    if exponent is not None and exponent.size == 1 and exponent.ndim <= x.type.rank:
        e = exponent.reshape(-1)[0].item()
        if e == 2:
            return n.op("mul", x, x)
        if e == 0.5 and is_float(dtype):
            return n.op("sqrt", x)
        if not is_float(dtype) and e == int(e) and 1 <= e <= 16:
            total = x
            for _ in range(int(e) - 1):
                total = n.op("mul", total, x)
            return total if e > 1 else n.tensor(0)
    x, y = broadcast_operands(n, x, n.value(1))
    if not is_float(dtype):
        return n.cast(n.op("pow", n.cast(x, "f64"), n.cast(y, "f64")), dtype)
    return n.op("pow", x, n.cast(y, dtype))


def modulo(n: Call) -> Results:
    """Mod: the sign of the divisor, or with fmod that of the dividend."""
    x, y = broadcast_operands(n, n.value(0), n.value(1))
    fmod = bool(n.attr_int("fmod"))
    if not is_float(x.type.dtype) or fmod:
        return n.op("mod", x, y, fmod=fmod)
    rest = n.op("mod", x, y, fmod=True)
    wrong = n.op("less", n.op("mul", n.op("sign", rest), n.op("sign", y)), 0.0)
    return n.op("where", wrong, n.op("add", rest, y), rest)


def is_infinite(n: Call) -> Results:
    """IsInf, of either sign or one."""
    x = n.value(0)
    tests = [
        n.op("equal", x, n.constant(np.asarray(sign), x.type.dtype))
        for sign, name in ((np.inf, "detect_positive"), (-np.inf, "detect_negative"))
        if n.attr_int(name, 1)
    ]
    if not tests:
        return n.op("expand", n.constant(np.asarray(False)), shape=x.type.shape)
    return n.op("or", *tests) if len(tests) == 2 else tests[0]


def where(n: Call) -> Results:
    """Where, broadcast."""
    return n.op("where", *broadcast_operands(n, *n.values()))


def cast(n: Call) -> Results:
    """Cast to an element type."""
    return _cast(n, short_name(element_type(n.attr_int("to"))))


def cast_like(n: Call) -> Results:
    """Cast to the element type of the second input."""
    return _cast(n, n.type(1).dtype)


def _cast(n: Call, dtype: str) -> Results:
    return n.tensor(0) if n.type(0).dtype == dtype else n.op("cast", n.value(0), dtype=dtype)


def clip(n: Call) -> Results:
    """Clip with numbers as bounds, or with values."""
    x = n.value(0)
    if n.version < 11:
        low, high = n.attr_float("min", -np.inf), n.attr_float("max", np.inf)
        limit = float(np.finfo(np.float32).max)
        return _clip(n, x, None if low <= -limit else low, None if high >= limit else high)
    bounds: list[Any] = []
    for i in (1, 2):
        data = n.known(i) if n.has(i) else None
        bounds.append(data.item() if data is not None and data.size == 1 else n.value(i) if n.has(i) else None)
    if any(isinstance(b, Value) for b in bounds):
        for op, bound in zip(("max", "min"), bounds, strict=True):
            x = x if bound is None else n.op(op, x, bound)
        return x
    return _clip(n, x, *bounds)


def _clip(n: Call, x: Value, low: Any, high: Any) -> Results:
    if low is None and high is None:
        return n.tensor(0)
    if low == 0 and high is None:
        return n.op("relu", x)
    attributes = {k: v for k, v in (("low", low), ("high", high)) if v is not None}
    return n.op("clip", x, **attributes, closed=(low, high) != (0, 6))  # exporters write ReLU6 as Clip from 0 to 6


TABLE: dict[str, Callable[[Call], Results]] = {
    **{
        name: unary(op)
        for name, op in (
            ("Abs", "abs"), ("Neg", "neg"), ("Exp", "exp"), ("Log", "log"), ("Sqrt", "sqrt"), ("Sin", "sin"),
            ("Cos", "cos"), ("Tan", "tan"), ("Asin", "asin"), ("Acos", "acos"), ("Atan", "atan"), ("Sinh", "sinh"),
            ("Cosh", "cosh"), ("Asinh", "asinh"), ("Acosh", "acosh"), ("Atanh", "atanh"), ("Erf", "erf"),
            ("Floor", "floor"), ("Ceil", "ceil"), ("Round", "round"), ("Sign", "sign"), ("Reciprocal", "reciprocal"),
            ("Not", "not"), ("IsNaN", "isnan"),
        )
    },
    **{
        name: binary(op)
        for name, op in (
            ("Add", "add"), ("Sub", "sub"), ("Mul", "mul"), ("Div", "div"), ("And", "and"), ("Or", "or"),
            ("Xor", "xor"), ("Equal", "equal"), ("Less", "less"), ("LessOrEqual", "less_equal"),
            ("Greater", "greater"), ("GreaterOrEqual", "greater_equal"),
        )
    },
    "Sum": chain("add"),
    "Max": chain("max"),
    "Min": chain("min"),
    "Mean": mean,
    "Pow": power,
    "Mod": modulo,
    "IsInf": is_infinite,
    "Where": where,
    "Cast": cast,
    "CastLike": cast_like,
    "Clip": clip,
}  # fmt: skip
