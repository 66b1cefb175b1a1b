"""What is made from shapes alone: Shape, Size, ConstantOfShape, Range, EyeLike, Trilu."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cnncc.edges.onnx_import.context import Call, Results
from cnncc.edges.onnx_import.symbolic import static
from cnncc.edges.onnx_import.tensor import Tensor, known
from cnncc.ir.dims import Dim, normal, product
from cnncc.ir.types import Type


def shape(n: Call) -> Results:
    """Shape: known at import, symbolic sizes included."""
    dims = n.shape(0)
    rank = len(dims)
    start, end = n.attr_int("start"), n.attr_int("end", rank)
    return n.known_tensor(_objects(dims[slice(start, end)]), "i64")


def size(n: Call) -> Results:
    """Size: the number of elements."""
    whole = np.empty((), object)
    whole[()] = product(n.shape(0))
    return n.known_tensor(whole, "i64")


def _objects(dims: tuple[Dim, ...]) -> np.ndarray:
    result = np.empty(len(dims), object)
    result[:] = dims
    return result


def constant_of_shape(n: Call) -> Results:
    """ConstantOfShape: a constant, or an expanded number where the shape is symbolic."""
    from cnncc.edges.onnx_tensors import to_array

    proto = n.attr_tensor("value")
    value = np.zeros(1, np.float32) if proto is None else to_array(n.importer.file, proto).reshape(-1)
    if value.size != 1:
        n.fail(f"value must have one element, got {value.size}")
    dims = n.dims(0, "input")
    if any(isinstance(d, int) and d < 0 for d in dims):
        n.fail(f"dimensions must not be negative, got {dims}")
    numbers = static(dims)
    if numbers is None:
        return n.op("expand", n.constant(value.reshape(())), shape=dims)
    count = int(np.prod(numbers, dtype=np.float64))
    n.importer.file.take(count * value.itemsize, n.where)
    kind = Type.of(value).with_(shape=numbers)
    small = count <= 4096 and (value.dtype.kind in "iub" or count <= 1)
    return Tensor(n.first_output, kind, load=lambda: np.full(numbers, value[0]), shape_like=small)


def range_(n: Call) -> Results:
    """Range: a constant; with symbolic ends counted at run time."""
    dtype = n.type(0).dtype
    numbers = [n.known(i) for i in range(3)]
    if all(a is not None for a in numbers):
        start, limit, step = (a.reshape(-1)[0] for a in numbers if a is not None)
        if step == 0:
            n.fail("delta must not be 0")
        count = max(int(np.ceil((limit - start) / step)), 0)
        n.importer.file.take(count * 8, n.where)
        return n.known_tensor(start + np.arange(count) * step, dtype)
    start, limit, step = (n.dims(i, name)[0] for i, name in enumerate(("start", "limit", "delta")))
    if not isinstance(step, int) or step <= 0:
        n.unsupported(f"delta {step} with symbolic ends; fix the shapes (shapes=...)")
    count = normal(-((start - limit) // step))
    steps = n.op("expand", n.constant(np.asarray(step), dtype), shape=(count,))
    index = n.op("cumsum", steps, axis=0, exclusive=True)
    return index if start == 0 else n.op("add", index, known("", _objects((start,)), dtype))


def eye_like(n: Call) -> Results:
    """EyeLike of a known shape."""
    from cnncc.edges.onnx_tensors import element_type

    dims = static(n.shape(0))
    if dims is None or len(dims) != 2:
        n.unsupported(f"shape {n.shape(0)}; it must be two numbers known at import")
    dtype = element_type(n.attr_int("dtype")) if "dtype" in n.attributes else n.type(0).numpy
    n.importer.file.take(dims[0] * dims[1] * dtype.itemsize, n.where)
    array = np.eye(*dims, k=n.attr_int("k"), dtype=dtype)
    return Tensor(n.first_output, Type.of(array), data=array)


def trilu(n: Call) -> Results:
    """Trilu: keeps a triangle of the last two axes, whose sizes are known."""
    x = n.value(0)
    dims = static(x.type.shape[-2:])
    if dims is None or len(dims) != 2:
        n.unsupported(f"shape {x.type.shape}; its last two sizes must be known at import")
    k = int(n.scalar(1, "k")) if n.has(1) else 0
    n.importer.file.take(dims[0] * dims[1], n.where)
    mask = np.triu(np.ones(dims, bool), k) if n.attr_int("upper", 1) else np.tril(np.ones(dims, bool), k)
    return n.op("where", n.constant(mask), x, n.constant(np.zeros(()), x.type.dtype))


TABLE: dict[str, Callable[[Call], Results]] = {
    "Shape": shape,
    "Size": size,
    "ConstantOfShape": constant_of_shape,
    "Range": range_,
    "EyeLike": eye_like,
    "Trilu": trilu,
}
