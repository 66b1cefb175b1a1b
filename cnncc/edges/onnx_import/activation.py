"""Activations and softmax."""

from __future__ import annotations

from collections.abc import Callable

from cnncc.edges.onnx_import.context import Call, Results
from cnncc.edges.onnx_import.elementwise import unary
from cnncc.ir.dims import product


def with_floats(op: str, **names: str) -> Callable[[Call], Results]:
    """An activation whose float attributes are (IR name = ONNX name); absent ones keep the IR's default."""

    def run(n: Call) -> Results:
        given = {k: n.attr_float(onnx) for k, onnx in names.items() if onnx in n.attributes}
        return n.op(op, n.value(0), **given)

    return run


def with_alpha(op: str, default: float) -> Callable[[Call], Results]:
    """An activation with one float, whose default in ONNX is given."""
    return lambda n: n.op(op, n.value(0), alpha=n.attr_float("alpha", default))


def hard_sigmoid(n: Call) -> Results:
    """HardSigmoid: ONNX's default slope is 0.2."""
    return n.op("hard_sigmoid", n.value(0), alpha=n.attr_float("alpha", 0.2), beta=n.attr_float("beta", 0.5))


def gelu(n: Call) -> Results:
    """Gelu, exact or by tanh."""
    return n.op("gelu", n.value(0), approximate=n.attr_str("approximate", "none") == "tanh")


def swish(n: Call) -> Results:
    """Swish: x sigmoid(alpha x)."""
    x, alpha = n.value(0), n.attr_float("alpha", 1.0)
    return n.op("silu", x) if alpha == 1.0 else n.op("mul", x, n.op("sigmoid", n.op("mul", x, alpha)))


def prelu(n: Call) -> Results:
    """PRelu."""
    return n.op("prelu", n.value(0), n.value(1))


def shrink(n: Call) -> Results:
    """Shrink: x + bias below -lambd, x - bias above lambd, else 0."""
    x, lambd, bias = n.value(0), n.attr_float("lambd", 0.5), n.attr_float("bias", 0.0)
    if x.type.dtype[0] in "iu":
        n.unsupported("integer input")
    inner = n.op("where", n.op("greater", x, lambd), n.op("sub", x, bias), n.op("mul", x, 0.0))
    return n.op("where", n.op("less", x, -lambd), n.op("add", x, bias), inner)


def softmax_like(op: str) -> Callable[[Call], Results]:
    """Softmax and LogSoftmax: along one axis; before opset 13 along all axes from `axis` on, taken together."""

    def run(n: Call) -> Results:
        x, rank = n.value(0), n.rank(0)
        if rank == 0:
            x = n.op("reshape", x, shape=(1,))
            return n.reshape(n.op(op, x, axis=0), ())
        axis = n.axis(n.attr_int("axis", -1 if n.version >= 13 else 1), rank)
        shape = x.type.shape
        if n.version >= 13 or product(shape[axis + 1 :]) == 1:
            return n.op(op, x, axis=axis)
        if product(shape[axis:]) == shape[-1]:
            return n.op(op, x, axis=rank - 1)
        flat = n.reshape(x, (*shape[:axis], product(shape[axis:])))
        return n.reshape(n.op(op, flat, axis=axis), shape)

    return run


def hardmax(n: Call) -> Results:
    """Hardmax: 1 at the first largest element along an axis."""
    x, rank = n.value(0), n.rank(0)
    axis = n.axis(n.attr_int("axis", -1 if n.version >= 13 else 1), rank)
    shape = x.type.shape
    if n.version < 13:
        x = n.reshape(x, (*shape[:axis], product(shape[axis:])))
    depth = x.type.shape[axis]
    if not isinstance(depth, int):
        n.unsupported(f"axis {axis} has symbolic size {depth}; fix the shapes (shapes=...)")
    best = n.op("argmax", x, axis=axis, keepdims=False)
    return n.reshape(n.cast(n.op("one_hot", best, depth=depth, axis=axis), x.type.dtype), shape)


TABLE: dict[str, Callable[[Call], Results]] = {
    **{
        name: unary(op)
        for name, op in (
            ("Relu", "relu"), ("Sigmoid", "sigmoid"), ("Tanh", "tanh"), ("Softplus", "softplus"),
            ("Softsign", "softsign"), ("Mish", "mish"), ("HardSwish", "hard_swish"),
        )
    },
    "LeakyRelu": with_alpha("leaky_relu", 0.01),
    "Elu": with_alpha("elu", 1.0),
    "Celu": with_alpha("celu", 1.0),
    "ThresholdedRelu": with_alpha("thresholded_relu", 1.0),
    "Selu": with_floats("selu", alpha="alpha", gamma="gamma"),
    "HardSigmoid": hard_sigmoid,
    "Gelu": gelu,
    "Swish": swish,
    "PRelu": prelu,
    "Shrink": shrink,
    "Softmax": softmax_like("softmax"),
    "LogSoftmax": softmax_like("log_softmax"),
    "Hardmax": hardmax,
}  # fmt: skip
