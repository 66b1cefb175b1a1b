"""How each operation of the table is written in ONNX: one function (e, node, *input names) -> result name(s)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cnncc.edges.onnx_export import Exporter
from cnncc.edges.onnx_export_double import DOUBLE
from cnncc.edges.onnx_export_index import TABLE as INDEX
from cnncc.edges.onnx_export_layers import TABLE as LAYERS
from cnncc.edges.onnx_export_unpool import TABLE as UNPOOL
from cnncc.edges.onnx_tensors import CODES
from cnncc.errors import UnsupportedError
from cnncc.ir.dtype import NUMPY, is_float
from cnncc.ir.graph import Node

Function = Callable[..., Any]


def direct(op_type: str, *attributes: str) -> Function:
    """One ONNX node with the same operands, and attributes of the same names."""

    def run(e: Exporter, node: Node, *x: str) -> Any:
        if node.outputs[0].type.dtype == "f64" and op_type in DOUBLE:
            return DOUBLE[op_type](e, node, *x)
        return e.emit(op_type, *x, **{a: getattr(node.attrs, a) for a in attributes})

    return run


def cast_to(e: Exporter, x: str, dtype: str) -> str:
    """A Cast node."""
    return str(e.emit("Cast", x, to=CODES[NUMPY[dtype]]))


# -- elementwise -----------------------------------------------------------------------------------------------------


def not_equal(e: Exporter, node: Node, x: str, y: str) -> Any:
    """not (x == y)."""
    return e.emit("Not", e.emit("Equal", x, y))


def mod(e: Exporter, node: Node, x: str, y: str) -> Any:
    """Mod; for floating point the remainder of truncation, corrected to the divisor's sign."""
    value = node.inputs[0]
    assert value is not None
    if not is_float(value.type.dtype) or node.attrs.fmod:
        return e.emit("Mod", x, y, fmod=int(node.attrs.fmod))
    rest = e.emit("Mod", x, y, fmod=1)
    wrong = e.emit("Less", e.emit("Mul", e.emit("Sign", rest), e.emit("Sign", y)), e.number(0, value))
    return e.emit("Where", wrong, e.emit("Add", rest, y), rest)


def cast(e: Exporter, node: Node, x: str) -> Any:
    """Cast."""
    return cast_to(e, x, node.attrs.dtype)


def clip(e: Exporter, node: Node, x: str) -> Any:
    """Clip; infinite bounds are left out."""
    value = node.inputs[0]
    assert value is not None
    low, high = (e.number(b, value) if np.isfinite(b) else "" for b in (node.attrs.low, node.attrs.high))
    return e.emit("Clip", x, low, high) if low or high else e.emit("Identity", x)


def square(e: Exporter, node: Node, x: str) -> Any:
    """x x."""
    return e.emit("Mul", x, x)


def log1p(e: Exporter, node: Node, x: str) -> Any:
    """log(1 + x), exact near 0: x log(u) / (u - 1) with u = 1 + x (Kahan)."""
    value = node.outputs[0]
    one = e.number(1, value)
    u = e.emit("Add", x, one)
    ratio = e.emit("Div", e.emit("Mul", x, e.emit("Log", u)), e.emit("Sub", u, one))
    small_or_infinite = e.emit("Or", e.emit("Equal", u, one), e.emit("IsInf", u))
    return e.emit("Where", small_or_infinite, x, ratio)


def expm1(e: Exporter, node: Node, x: str) -> Any:
    """exp(x) - 1 = tanh(x / 2) (exp(x) + 1)."""
    value = node.outputs[0]
    half = e.emit("Tanh", e.emit("Mul", x, e.number(0.5, value)))
    return e.emit("Mul", half, e.emit("Add", e.emit("Exp", x), e.number(1, value)))


def silu(e: Exporter, node: Node, x: str) -> Any:
    """x sigmoid(x)."""
    return e.emit("Mul", x, e.emit("Sigmoid", x))


def gelu(e: Exporter, node: Node, x: str) -> Any:
    """Gelu."""
    if node.outputs[0].type.dtype == "f64":
        return DOUBLE["Gelu"](e, node, x)
    return e.emit("Gelu", x, approximate="tanh" if node.attrs.approximate else "none")


def prelu(e: Exporter, node: Node, x: str, slope: str) -> Any:
    """PRelu."""
    return e.emit("PRelu", x, slope)


# -- matrices and reductions -------------------------------------------------------------------------------------------


def matmul(e: Exporter, node: Node, x: str, w: str) -> Any:
    """Gemm of two matrices, otherwise MatMul of transposed operands."""
    a, b = node.inputs
    assert a is not None
    assert b is not None
    left, right = node.attrs.transpose_x, node.attrs.transpose_w
    if a.type.rank == b.type.rank == 2 and is_float(a.type.dtype):
        return e.emit("Gemm", x, w, transA=int(left), transB=int(right))

    def matrix(name: str, rank: int, swap: bool, axis: int) -> str:
        """ONNX Runtime takes a vector beside a transposed matrix for a matrix: vectors get their axis of size 1."""
        if rank == 1:
            return str(e.emit("Unsqueeze", name, e.ints([axis])))
        return str(e.emit("Transpose", name, perm=[*range(rank - 2), rank - 1, rank - 2])) if swap else name

    y = e.emit("MatMul", matrix(x, a.type.rank, left, 0), matrix(w, b.type.rank, right, 1))
    extra = [axis for axis, v in ((-2, a), (-1, b)) if v.type.rank == 1]
    return e.emit("Squeeze", y, e.ints(extra)) if extra else y


def reduction(op_type: str) -> Function:
    """A reduction; its axes are an input."""

    def run(e: Exporter, node: Node, x: str) -> Any:
        value = node.inputs[0]
        assert value is not None
        if value.type.rank == 0:
            return e.emit("Identity", x)
        axes = e.ints(node.attrs.axes) if node.attrs.axes else ""
        narrow = value.type.dtype in ("i8", "u8", "i16", "u16", "u32", "u64")
        source = cast_to(e, x, "i64") if narrow else x
        y = e.emit(op_type, source, axes, keepdims=int(node.attrs.keepdims))
        return cast_to(e, y, value.type.dtype) if narrow else y

    return run


def size(e: Exporter, node: Node, x: str) -> Any:
    """The product of sizes, in the dtype of x."""
    shape = e.emit("Shape", x)
    chosen = e.emit("Gather", shape, e.ints(node.attrs.axes)) if node.attrs.axes else shape
    return cast_to(e, e.emit("ReduceProd", chosen, keepdims=0), node.outputs[0].type.dtype)


def arg_reduction(op_type: str) -> Function:
    """ArgMax and ArgMin."""

    def run(e: Exporter, node: Node, x: str) -> Any:
        a = node.attrs
        return e.emit(op_type, x, axis=a.axis, keepdims=int(a.keepdims), select_last_index=int(a.select_last))

    return run


def cumsum(e: Exporter, node: Node, x: str) -> Any:
    """CumSum."""
    a = node.attrs
    axis = e.constant(np.asarray(a.axis, np.int64))
    return e.emit("CumSum", x, axis, exclusive=int(a.exclusive), reverse=int(a.reverse))


# -- shapes ----------------------------------------------------------------------------------------------------------


def reshape(e: Exporter, node: Node, x: str) -> Any:
    """Reshape; a single symbolic size is what is left."""
    shape = node.attrs.shape
    symbolic = [i for i, d in enumerate(shape) if not isinstance(d, int)]
    if len(symbolic) == 1 and 0 not in shape:
        return e.emit("Reshape", x, e.ints([d if isinstance(d, int) else -1 for d in shape]))
    return e.emit("Reshape", x, e.dims(shape), allowzero=int(0 in shape))


def expand(e: Exporter, node: Node, x: str) -> Any:
    """Expand."""
    return e.emit("Expand", x, e.dims(node.attrs.shape))


def flip(e: Exporter, node: Node, x: str) -> Any:
    """Slice from the end to the front."""
    axes = node.attrs.axes or tuple(range(node.outputs[0].type.rank))
    count = len(axes)
    return e.emit("Slice", x, e.ints([-1] * count), e.ints([-(2**62)] * count), e.ints(axes), e.ints([-1] * count))


def tile(e: Exporter, node: Node, x: str) -> Any:
    """Tile."""
    return e.emit("Tile", x, e.ints(node.attrs.repeats))


def slice_(e: Exporter, node: Node, x: str) -> Any:
    """Slice of the axes that are cut."""
    a, value = node.attrs, node.inputs[0]
    assert value is not None
    if a.axes:
        raise UnsupportedError(f"{node.where}: the slice is not in canonical form")
    steps = a.steps or (1,) * len(a.starts)
    rows = list(zip(range(len(steps)), a.starts, a.ends, steps, value.type.shape, strict=True))
    cut = [r for r in rows if (r[1], r[2], r[3]) != (0, r[4], 1)]
    if not cut:
        return e.emit("Identity", x)
    axes, starts, ends, step, _ = zip(*cut, strict=True)
    return e.emit("Slice", x, e.dims(starts), e.dims(ends), e.ints(axes), e.ints(step))


def pad(e: Exporter, node: Node, x: str) -> Any:
    """Pad."""
    a, value = node.attrs, node.inputs[0]
    assert value is not None
    number = e.number(a.value, value) if a.mode == "constant" and a.value else ""
    return e.emit("Pad", x, e.ints(a.pads), number, mode=a.mode)


TABLE: dict[str, Function] = {
    **{
        name: direct(op_type)
        for name, op_type in (
            ("add", "Add"), ("sub", "Sub"), ("mul", "Mul"), ("div", "Div"), ("pow", "Pow"), ("max", "Max"),
            ("min", "Min"), ("neg", "Neg"), ("abs", "Abs"), ("exp", "Exp"), ("log", "Log"), ("sqrt", "Sqrt"),
            ("sin", "Sin"), ("cos", "Cos"), ("tan", "Tan"), ("asin", "Asin"), ("acos", "Acos"), ("atan", "Atan"),
            ("sinh", "Sinh"), ("cosh", "Cosh"), ("asinh", "Asinh"), ("acosh", "Acosh"), ("atanh", "Atanh"),
            ("erf", "Erf"), ("floor", "Floor"), ("ceil", "Ceil"), ("round", "Round"), ("sign", "Sign"),
            ("reciprocal", "Reciprocal"), ("isnan", "IsNaN"), ("isinf", "IsInf"), ("equal", "Equal"), ("less", "Less"),
            ("less_equal", "LessOrEqual"), ("greater", "Greater"), ("greater_equal", "GreaterOrEqual"), ("and", "And"),
            ("or", "Or"), ("xor", "Xor"), ("not", "Not"), ("where", "Where"), ("relu", "Relu"),
            ("sigmoid", "Sigmoid"), ("tanh", "Tanh"), ("softplus", "Softplus"), ("softsign", "Softsign"),
            ("mish", "Mish"), ("hard_swish", "HardSwish"), ("to_layout", "Identity"),
            ("stop_gradient", "Identity"),
        )
    },
    "not_equal": not_equal,
    "mod": mod,
    "cast": cast,
    "clip": clip,
    "square": square,
    "log1p": log1p,
    "expm1": expm1,
    "silu": silu,
    "gelu": gelu,
    "prelu": prelu,
    "leaky_relu": direct("LeakyRelu", "alpha"),
    "elu": direct("Elu", "alpha"),
    "celu": direct("Celu", "alpha"),
    "selu": direct("Selu", "alpha", "gamma"),
    "thresholded_relu": direct("ThresholdedRelu", "alpha"),
    "hard_sigmoid": direct("HardSigmoid", "alpha", "beta"),
    "softmax": direct("Softmax", "axis"),
    "log_softmax": direct("LogSoftmax", "axis"),
    "matmul": matmul,
    **{f"reduce_{k}": reduction(f"Reduce{k.capitalize()}") for k in ("sum", "mean", "max", "min", "prod")},
    "size": size,
    "argmax": arg_reduction("ArgMax"),
    "argmin": arg_reduction("ArgMin"),
    "cumsum": cumsum,
    "reshape": reshape,
    "transpose": direct("Transpose", "perm"),
    "expand": expand,
    "flip": flip,
    "concat": direct("Concat", "axis"),
    "tile": tile,
    "slice": slice_,
    "pad": pad,
    **LAYERS,
    **INDEX,
    **UNPOOL,
}  # fmt: skip
