"""Conv and ConvTranspose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cnncc.edges.onnx_import.context import Call, Results
from cnncc.ir.dims import normal
from cnncc.ir.graph import Value


def window(n: Call, rank: int) -> dict[str, Any]:
    """strides, pads and dilations; pads may be the name of a rule (auto_pad)."""
    auto = n.attr_str("auto_pad", "NOTSET").lower()
    strides, dilations = n.attr_ints("strides"), n.attr_ints("dilations")
    pads: Any = n.attr_ints("pads") or (0,) * (2 * rank)
    for name, values, count in (("strides", strides, rank), ("dilations", dilations, rank), ("pads", pads, 2 * rank)):
        if values is not None and len(values) != count:
            n.fail(f"{name} must have {count} numbers for {rank} spatial axes, got {values}")
    if auto in ("same_upper", "same_lower", "valid"):
        pads = auto
    elif auto not in ("notset", ""):
        n.fail(f"auto_pad must be NOTSET, SAME_UPPER, SAME_LOWER or VALID, got {auto.upper()}")
    return {"strides": strides or (1,) * rank, "pads": pads, "dilations": dilations or (1,) * rank}


def cropped(n: Call, x: Value, attributes: dict[str, Any]) -> Value:
    """Negative pads cut from the input; the window keeps the others."""
    pads = attributes["pads"]
    if isinstance(pads, str) or all(p >= 0 for p in pads):
        return x
    r = len(pads) // 2
    cut = [min(p, 0) for p in pads]
    attributes["pads"] = tuple(max(p, 0) for p in pads)
    return n.op("pad", x, pads=(0, 0, *cut[:r], 0, 0, *cut[r:]))


def add_bias(n: Call, y: Value, index: int) -> Value:
    """y plus an input [C] along axis 1, where that input is present."""
    if not n.has(index):
        return y
    bias = n.value(index)
    if bias.type.rank != 1:
        n.fail(f"the bias must have rank 1, got {bias.type.rank}")
    n.equate(bias.type.shape[0], y.type.shape[1], "elements of the bias and output channels", True)
    return n.op("add", y, n.reshape(bias, (bias.type.shape[0], *(1,) * (y.type.rank - 2))))


def check_kernel(n: Call, w: Value) -> None:
    """kernel_shape, where given, must be the weights'."""
    kernel = n.attr_ints("kernel_shape")
    if kernel is not None and kernel != tuple(w.type.shape[2:]):
        n.fail(f"kernel_shape must be the weights' {tuple(w.type.shape[2:])}, got {kernel}")


def conv(n: Call) -> Results:
    """Conv of spatial rank 1 to 3, with bias."""
    x, w = n.value(0), n.value(1)
    rank = w.type.rank - 2
    if x.type.rank != w.type.rank or not 1 <= rank <= 3:
        n.fail(f"x and w must have one rank from 3 to 5, got {x.type.rank} and {w.type.rank}")
    check_kernel(n, w)
    groups = n.attr_int("group", 1)
    n.equate(x.type.shape[1], normal(w.type.shape[1] * groups), "input channels and the weights' channels", True)
    attributes = window(n, rank)
    x = cropped(n, x, attributes)
    return add_bias(n, n.op("conv", x, w, groups=groups, **attributes), 2)


def conv_transpose(n: Call) -> Results:
    """ConvTranspose: output_shape and auto_pad are turned into pads."""
    x, w = n.value(0), n.value(1)
    rank = w.type.rank - 2
    if x.type.rank != w.type.rank or not 1 <= rank <= 3:
        n.fail(f"x and w must have one rank from 3 to 5, got {x.type.rank} and {w.type.rank}")
    check_kernel(n, w)
    n.equate(x.type.shape[1], w.type.shape[0], "input channels and the weights' channels", True)
    attributes = window(n, rank)
    rest = list(n.attr_ints("output_padding") or (0,) * rank)
    attributes["pads"], rest = _resolve(n, attributes, rest, x, w)
    y = n.op("conv_transpose", x, w, groups=n.attr_int("group", 1), output_padding=tuple(rest), **attributes)
    return add_bias(n, y, 2)


def _resolve(n: Call, a: dict[str, Any], rest: list[int], x: Value, w: Value) -> tuple[tuple[int, ...], list[int]]:
    """pads and output_padding in numbers (ONNX, ConvTranspose: total_padding)."""
    rank, pads = len(rest), a["pads"]
    wanted = n.attr_ints("output_shape")
    if wanted is None and not (isinstance(pads, str) and pads.startswith("same")):
        return ((0,) * (2 * rank) if isinstance(pads, str) else pads), rest
    begin, end = [], []
    for i in range(rank):
        extent = a["dilations"][i] * (w.type.shape[2 + i] - 1) + 1
        full = normal((x.type.shape[2 + i] - 1) * a["strides"][i] + extent + rest[i])
        out = normal(x.type.shape[2 + i] * a["strides"][i]) if wanted is None else wanted[len(wanted) - rank + i]
        total = normal(full - out)
        if not isinstance(total, int):
            n.unsupported(f"output_shape {wanted} with a symbolic input size; fix the shapes (shapes=...)")
        if total < 0:
            rest[i] -= total
            total = 0
        half = total // 2
        begin.append(half if pads == "same_upper" else total - half)
        end.append(total - begin[-1])
    return (*begin, *end), rest


TABLE: dict[str, Callable[[Call], Results]] = {"Conv": conv, "ConvTranspose": conv_transpose}
