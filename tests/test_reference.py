"""Functions by name: what is missing is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cnncc import reference
from cnncc.demo.train_digits import load_digits
from cnncc.errors import GraphError, UnsupportedError


def test_a_function_of_a_file_is_called_with_literals(tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text("def pair(a, b='x'):\n    return a, b\n")
    assert reference.call("made.py:pair?a=3", tmp_path) == (3, "x")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("made.py:other", "has no other"),
        ("absent.py:pair", "not a Python file"),
        ("needs.py:pair", "No module named 'not_there'"),
        ("not_there:pair", "No module named 'not_there'"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "made.py").write_text("def pair():\n    return 1\n")
    (tmp_path / "needs.py").write_text("import not_there\n")
    with pytest.raises(GraphError, match=reason):
        reference.find(text, tmp_path)


def test_digits_say_where_they_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UnsupportedError, match="pip install scikit-learn"):
        load_digits()
