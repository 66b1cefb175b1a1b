"""The op table as a page: ``python -m cnncc.ops.document`` writes docs/ops.md, a test says when that is due."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from cnncc.check import OpRow, onnx_operators, op_rows
from cnncc.ops import FAMILIES, TABLE, Op

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ops.md"
_HEAD = """\
# Operations

Generated from the op table by `python -m cnncc.ops.document`; `cnncc check --ops` prints the same.

Every operation has types, a numpy reference and a definition for kernels. *evaluated by*: a **formula** (elementwise:
fuses into any kernel), an **element** (any single element at an index: fuses likewise), or a **definition** (a te
computation, the anchor of a kernel; what no algorithm of the target takes is scheduled from it). *gradient*: yes, or
why there is none. *ONNX*: the operators that `cnncc.to_onnx` writes it as. `?` marks optional operands, `*` any number.

Sizes: N batch, C and M channels, *size* and *kernel* spatial. Attributes are shown with their defaults; for windows an
empty tuple means 1 (strides, dilations) or 0 (pads) on every axis, and in Python one number stands for all.
"""


def document() -> str:
    """The page as Markdown."""
    rows = {r.name: r for r in op_rows() if TABLE[r.name].infer.__module__.startswith("cnncc.")}
    parts = [_HEAD]
    for module in FAMILIES:
        family = [rows.pop(name) for name in _names(module) if name in rows]
        parts.append(
            f"## {module.__name__.rpartition('.')[2]}\n\n{_summary(module)}\n\n" + "\n".join(_table(family)) + "\n"
        )
    assert not rows, f"operations of no family: {', '.join(rows)}"
    operators = onnx_operators()
    parts.append(f"## ONNX operators that are imported ({len(operators)})\n\n{', '.join(operators)}.\n")
    return "\n".join(parts)


def _names(module: ModuleType) -> list[str]:
    return [op.name for op in vars(module).values() if isinstance(op, Op)]


def _summary(module: ModuleType) -> str:
    return (module.__doc__ or "").partition("\n\n")[0].replace("\n", " ").strip()


def _table(rows: list[OpRow]) -> Iterator[str]:
    yield "| operation | operands | attributes | gradient | evaluated by | ONNX | |"
    yield "|---|---|---|---|---|---|---|"
    for r in rows:
        attributes = ", ".join(f"{k}={v}" for k, v in r.attributes.items())
        cells = (f"`{r.name}`", ", ".join(r.operands), attributes, r.gradient, r.lowering, r.onnx, r.doc)
        yield "| " + " | ".join(" ".join(c.split()).replace("|", "\\|").replace("*", "\\*") for c in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(document())
    print(f"wrote {PAGE}", file=sys.stderr)
