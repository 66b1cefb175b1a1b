"""The op table, one module per family. The order here is the order in docs/ops.md."""

from cnncc.ops import (
    conv,
    elementwise,
    layout,
)
from cnncc.ops.registry import TABLE, Arg, Op, Sample, define, lookup

__all__ = ["TABLE", "Arg", "Op", "Sample", "conv", "define", "elementwise", "layout", "lookup"]
