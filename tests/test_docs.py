"""The pages under docs/ and the README stay true: what they name exists, and their graphs parse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cnncc

ROOT = Path(__file__).parent.parent
WRITTEN_LATER = ["benchmarks/results/"]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_paths_exist(page):
    text = page.read_text()
    paths = re.findall(r"`((?:cnncc|passes|targets|tests|examples|benchmarks|docs)/[\w./*-]*)`", text)
    missing = [p for p in paths if p not in WRITTEN_LATER and not list(ROOT.glob(p.rstrip("/")))]
    assert not missing
    links = re.findall(r"\]\((?!http)([^)#]+)", text)
    assert all((page.parent / link).exists() for link in links), links


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_graphs_parse(page):
    for graph in re.findall(r"```cnn\n(.*?)```", page.read_text(), re.DOTALL):
        cnncc.parse(graph)


def test_lectures_name_tests_that_exist():
    text = (ROOT / "docs" / "lectures.md").read_text()
    source = "\n".join(p.read_text() for p in sorted((ROOT / "tests").glob("test_lectures_*.py")))
    named = set(re.findall(r"`(test_\w+)`", text))
    written = set(re.findall(r"^def (test_\w+)", source, re.MULTILINE))
    assert named <= written
    assert not written - named - {"test_receptive_fields_of_branches_and_dense_layers"}


def test_passes_are_named():
    from cnncc.passes import PASSES

    text = (ROOT / "docs" / "architecture.md").read_text()
    assert not [name for name in PASSES if f"`{name}`" not in text]
