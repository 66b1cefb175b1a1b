"""docs/ops.md is what the op table says."""

from __future__ import annotations

from cnncc.ops import TABLE
from cnncc.ops.document import PAGE, document


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == document(), "run python -m cnncc.ops.document"


def test_every_operation_is_there_once():
    text = document()
    own = [name for name, op in TABLE.items() if op.infer.__module__.startswith("cnncc.")]
    assert [name for name in own if text.count(f"| `{name}` |") != 1] == []
