"""The op table, one module per family. The order here is the order in docs/ops.md."""

from cnncc.ops import (
    conv,
    winograd,
    pool,
    norm,
    matmul,
    elementwise,
    functions,
    activation,
    softmax,
    reduce,
    shape,
    cut,
    layout,
)  # isort: skip
from cnncc.ops.registry import TABLE, Arg, Op, Sample, define, lookup

FAMILIES = (
    conv,
    winograd,
    pool,
    norm,
    matmul,
    elementwise,
    functions,
    activation,
    softmax,
    reduce,
    shape,
    cut,
    layout,
)

__all__ = ["FAMILIES", "TABLE", "Arg", "Op", "Sample", "define", "lookup"]
