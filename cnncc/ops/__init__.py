"""The op table, one module per family. The order here is the order in docs/ops.md."""

from cnncc.ops import (  # noqa: I001  (the order is the table's)
    conv,
    phases,
    winograd,
    fft,
    pool,
    average,
    adaptive,
    batchnorm,
    norm,
    local,
    matmul,
    elementwise,
    logic,
    functions,
    activation,
    softmax,
    reduce,
    shape,
    cut,
    index,
    resize,
    layout,
)
from cnncc.ops.registry import TABLE, Arg, Op, Sample, define, lookup

FAMILIES = (
    conv,
    phases,
    winograd,
    fft,
    pool,
    average,
    adaptive,
    batchnorm,
    norm,
    local,
    matmul,
    elementwise,
    logic,
    functions,
    activation,
    softmax,
    reduce,
    shape,
    cut,
    index,
    resize,
    layout,
)

__all__ = ["FAMILIES", "TABLE", "Arg", "Op", "Sample", "define", "lookup"]
