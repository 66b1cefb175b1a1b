"""What layers of windows do, as functions: max pooling with indices, unpooling, unfold and fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cnncc.errors import GraphError
from cnncc.ir.dims import Dim, product
from cnncc.nn.conv import Size, spread
from cnncc.nn.tensor import Tensor


def in_channel(indices: Tensor, x: Tensor) -> Tensor:
    """Indices into the whole of x --> into one channel, as PyTorch counts."""
    plane = product(x.shape[2:])
    if not isinstance(plane, int):
        raise GraphError(f"return_indices needs known sizes, got {plane}; fix the shapes (shapes=...)")
    return x._op("mod", indices, plane)


def _max_pool(
    rank: int,
    x: Tensor,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    dilation: Size,
    ceil_mode: bool,
    return_indices: bool,
) -> Any:
    window: dict[str, Any] = {
        "kernel": spread(kernel_size, rank, "kernel_size"),
        "strides": spread(kernel_size if stride is None else stride, rank, "stride"),
        "pads": spread(padding, rank, "padding"),
        "dilations": spread(dilation, rank, "dilation"),
        "ceil": ceil_mode,
    }
    y = x._op("max_pool", x, **window)
    return (y, in_channel(x._op("max_pool_indices", x, **window), x)) if return_indices else y


def max_pool1d(x: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
               ceil_mode: bool = False, return_indices: bool = False) -> Any:  # fmt: skip
    """The largest element of each window; with return_indices also where it lies in its channel."""
    return _max_pool(1, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(x: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
               ceil_mode: bool = False, return_indices: bool = False) -> Any:  # fmt: skip
    """As max_pool1d, with two spatial axes."""
    return _max_pool(2, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(x: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
               ceil_mode: bool = False, return_indices: bool = False) -> Any:  # fmt: skip
    """As max_pool1d, with three spatial axes."""
    return _max_pool(3, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _adaptive_max_pool(rank: int, x: Tensor, output_size: Size, return_indices: bool) -> Any:
    size = spread(output_size, rank, "output_size")
    y = x._op("adaptive_max_pool", x, size=size)
    return (y, in_channel(x._op("adaptive_max_pool_indices", x, size=size), x)) if return_indices else y


def adaptive_max_pool1d(x: Tensor, output_size: Size, return_indices: bool = False) -> Any:
    """The largest element of as many windows as `output_size` says; with return_indices also where it lies."""
    return _adaptive_max_pool(1, x, output_size, return_indices)


def adaptive_max_pool2d(x: Tensor, output_size: Size, return_indices: bool = False) -> Any:
    """As adaptive_max_pool1d, with two spatial axes."""
    return _adaptive_max_pool(2, x, output_size, return_indices)


def adaptive_max_pool3d(x: Tensor, output_size: Size, return_indices: bool = False) -> Any:
    """As adaptive_max_pool1d, with three spatial axes."""
    return _adaptive_max_pool(3, x, output_size, return_indices)


def _max_unpool(
    rank: int,
    x: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    output_size: Sequence[Dim] | None,
) -> Tensor:
    size = () if output_size is None else tuple(output_size)[-rank:]
    return x._op(
        "max_unpool",
        x,
        indices,
        kernel=spread(kernel_size, rank, "kernel_size"),
        strides=spread(kernel_size if stride is None else stride, rank, "stride"),
        pads=spread(padding, rank, "padding"),
        size=size,
    )


def max_unpool1d(x: Tensor, indices: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0,
                 output_size: Sequence[Dim] | None = None) -> Tensor:  # fmt: skip
    """x back at the places where max_pool1d found it (its indices), zeros elsewhere."""
    return _max_unpool(1, x, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(x: Tensor, indices: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0,
                 output_size: Sequence[Dim] | None = None) -> Tensor:  # fmt: skip
    """As max_unpool1d, with two spatial axes."""
    return _max_unpool(2, x, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(x: Tensor, indices: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0,
                 output_size: Sequence[Dim] | None = None) -> Tensor:  # fmt: skip
    """As max_unpool1d, with three spatial axes."""
    return _max_unpool(3, x, indices, kernel_size, stride, padding, output_size)


def _window(kernel_size: Size, dilation: Size, padding: Size, stride: Size) -> dict[str, Any]:
    return {
        "kernel": spread(kernel_size, 2, "kernel_size"),
        "dilations": spread(dilation, 2, "dilation"),
        "pads": spread(padding, 2, "padding"),
        "strides": spread(stride, 2, "stride"),
    }


def unfold(x: Tensor, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1) -> Tensor:
    """Windows as columns: [N, C, H, W] --> [N, C kh kw, L], L windows."""
    columns = x._op("unfold", x, **_window(kernel_size, dilation, padding, stride))
    n, c, *rest = columns.shape
    return columns.reshape((n, product((c, *rest[:2])), product(rest[2:])))


def fold(
    x: Tensor, output_size: Size, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1
) -> Tensor:
    """Columns added up where they were taken from: [N, C kh kw, L] --> [N, C, *output_size]."""
    from cnncc.ops.window import Window, canonical, geometry

    size = spread(output_size, 2, "output_size")
    window = _window(kernel_size, dilation, padding, stride)
    kernel = window["kernel"]
    plain = Window(window["strides"], window["pads"], window["dilations"])
    out = geometry(canonical(plain, size, kernel), kernel).out(size)
    n, channels, length = x.shape
    if not isinstance(channels, int) or channels % product(kernel) or product(out) != length:
        raise GraphError(
            f"fold: x must be [N, C {product(kernel)}, {product(out)}] "
            f"for size {size} and kernel {kernel}, got {x.shape}"
        )
    columns = x.reshape((n, channels // int(product(kernel)), *kernel, *out))
    return x._op("fold", columns, size=size, **window)
