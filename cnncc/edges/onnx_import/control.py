"""Constants, copies, dropout, branches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cnncc.edges.onnx_import.context import Call, Results
from cnncc.edges.onnx_import.tensor import Tensor
from cnncc.ir.types import Type


def constant(n: Call) -> Results:
    """Constant."""
    if "value" in n.attributes:
        tensor = n.importer.stored(n.attr_tensor("value"), n.first_output)
        if tensor.broken:
            n.unsupported(tensor.broken)
        return tensor
    if "sparse_value" in n.attributes:
        from cnncc.edges.onnx_tensors import sparse_array

        array = sparse_array(n.importer.file, n.attributes["sparse_value"].sparse_tensor)
        return Tensor(n.first_output, Type.of(array), data=array)
    for name, read, dtype in (
        ("value_float", n.attr_float, np.float32),
        ("value_floats", n.attr_floats, np.float32),
        ("value_int", n.attr_int, np.int64),
        ("value_ints", n.attr_ints, np.int64),
    ):
        if name in n.attributes:
            array = np.asarray(read(name), dtype)
            return Tensor(n.first_output, Type.of(array), data=array, shape_like=array.size <= 4096)
    n.unsupported(f"a constant given as {', '.join(n.attributes) or 'nothing'}")


def identity(n: Call) -> Results:
    """The input itself."""
    return n.tensor(0)


def dropout(n: Call) -> Results:
    """Dropout as in inference: x (which a training step makes random), and a mask of ones."""
    if n.has(2) and not n.importer.training:
        ratio = n.known(1) if n.has(1) else np.asarray(0.5)
        if n.numbers(2, "training_mode").any() and (ratio is None or ratio.any()):
            n.unsupported("training_mode (random); export the model in evaluation mode, or load it with training=True")
    ratio = n.known(1) if n.has(1) else np.asarray(n.attr_float("ratio", 0.5))
    p = 0.0 if ratio is None else float(ratio.reshape(()))
    y = n.op("dropout", n.value(0), p=p) if p > 0 else n.tensor(0)
    if not n.wants(1):
        return y
    mask = n.op("expand", n.constant(np.asarray(True)), shape=n.shape(0))
    return y, mask


def if_(n: Call) -> Results:
    """If with a condition known at import: that branch, in place."""
    taken = "then_branch" if n.scalar(0, "condition") else "else_branch"
    return n.importer.run_subgraph(n, n.attr_graph(taken))


TABLE: dict[str, Callable[[Call], Results]] = {
    "Constant": constant,
    "Identity": identity,
    "Dropout": dropout,
    "If": if_,
}
