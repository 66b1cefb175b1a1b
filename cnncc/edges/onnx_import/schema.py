"""What the ONNX standard says about the number of inputs and the attributes of an operator."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnncc.edges.onnx_import.context import Call


@functools.cache
def _rules(op_type: str, version: int) -> tuple[int, int, tuple[str, ...]] | None:
    """Least and largest number of inputs, required attributes; None for operators that the installed onnx lacks."""
    from onnx import defs

    try:
        schema = defs.get_schema(op_type, version, "")
    except defs.SchemaError:
        return None
    required = tuple(a.name for a in schema.attributes.values() if a.required)
    return schema.min_input, schema.max_input, required


def check_arity(n: Call) -> None:
    """Raise GraphError where a node has too few or too many inputs, or lacks an attribute."""
    rules = _rules(n.op_type, n.version)
    if rules is None:
        return
    low, high, required = rules
    count = len(n.proto.input)
    if not low <= count <= high:
        n.fail(f"takes {low if low == high else f'{low} to {high}'} inputs, got {count}")
    missing = [name for name in required if name not in n.attributes]
    if missing:
        n.fail(f"needs the attribute {', '.join(missing)}")
