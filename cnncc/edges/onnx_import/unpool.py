"""MaxUnpool and Col2Im."""

from __future__ import annotations

from collections.abc import Callable

from cnncc.edges.onnx_import.context import Call, Results
from cnncc.edges.onnx_import.conv import window
from cnncc.ir.dims import normal, product
from cnncc.ops.window import Window, canonical, geometry


def max_unpool(n: Call) -> Results:
    """MaxUnpool: the values at their indices, at the size that the windows cover; an output_shape adds zeros behind."""
    x, indices = n.value(0), n.value(1)
    rank = x.type.rank - 2
    kernel = n.attr_ints("kernel_shape")
    if kernel is None or len(kernel) != rank:
        n.fail(f"kernel_shape must have {rank} numbers for input rank {rank + 2}, got {kernel}")
    attributes = window(n, rank)
    y = n.op("max_unpool", x, indices, kernel=kernel, strides=attributes["strides"], pads=attributes["pads"])
    if not n.has(2):
        return y
    wanted = n.dims(2, "output_shape")
    if len(wanted) != y.type.rank:
        n.fail(f"output_shape must have {y.type.rank} numbers, got {len(wanted)}")
    rest = [normal(w - d) for w, d in zip(wanted, y.type.shape, strict=True)]
    if not all(isinstance(r, int) for r in rest):
        n.unsupported("an output_shape that differs from the input's symbols; fix the shapes (shapes=...)")
    return n.op("pad", y, pads=(*(0,) * len(rest), *rest)) if any(rest) else y


def col2im(n: Call) -> Results:
    """Col2Im: columns [N, C prod(block), L] --> [N, C, *image]."""
    x = n.value(0)
    size, kernel = n.dims(1, "image_shape"), n.ints(2, "block_shape")
    rank = len(size)
    if x.type.rank != 3 or len(kernel) != rank or not 1 <= rank <= 3:
        n.fail(f"columns must have rank 3 and block_shape as many numbers as image_shape, got {x.type} and {kernel}")
    attributes = window(n, rank)
    plain = Window(attributes["strides"], attributes["pads"], attributes["dilations"])
    out = geometry(canonical(plain, size, kernel), kernel).out(size)
    channels = x.type.shape[1]
    if not isinstance(channels, int) or channels % product(kernel):
        n.fail(f"the channels of the columns must be a multiple of the block's {product(kernel)}, got {channels}")
    split = (x.type.shape[0], channels // int(product(kernel)), *kernel, *out)
    n.equate(x.type.shape[2], product(out), "columns and places of the block", True)
    return n.op("fold", n.reshape(x, split), kernel=kernel, size=size, **attributes)


TABLE: dict[str, Callable[[Call], Results]] = {"MaxUnpool": max_unpool, "Col2Im": col2im}
