"""Golden cases: a pass (or several) on a small graph, the text before and after in one file.

`# run: fold-batchnorm` names the passes; `pytest --update-golden` rewrites the lower half, for people to review.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from cnncc.interpret import interpret
from cnncc.ir.graph import Graph
from cnncc.ir.parser import parse
from cnncc.passes import PASSES, Context, run_passes
from cnncc.targets.machine import AVX512
from tests.tolerances import assert_close

CASES = sorted(Path(__file__).parent.glob("*/*.cnn"))


def feeds(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = {"N": 2}
    return {
        v.name: rng.standard_normal([d if isinstance(d, int) else sizes.get(str(d), 3) for d in v.type.shape]).astype(
            v.type.numpy
        )
        for v in graph.inputs
    }


@pytest.mark.parametrize("path", CASES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_golden(path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text()
    head, _, expected = text.partition("\n---\n")
    match = re.search(r"^# run: (.*)$", head, re.MULTILINE)
    assert match, "a case says which passes it runs"
    names = [n.strip() for n in match.group(1).split(",")]
    before = parse(head)
    context = Context(AVX512)
    after = run_passes(before, [PASSES[n] for n in names], context)
    result = str(after) + "".join(f"\n# declined: {d.rule}: {d.reason}" for d in context.declined) + "\n"
    if request.config.getoption("--update-golden"):
        path.write_text(f"{head}\n---\n{result}")
        return
    assert result == expected
    arrays = feeds(before)
    for name, array in interpret(before, arrays).items():
        assert_close(interpret(after, arrays)[name], array, "conv")


def test_every_rewriting_pass_has_a_case() -> None:
    assert {p.parent.name for p in CASES} >= {
        "canonicalize", "fold-constants", "fold-pad", "fold-batchnorm", "merge-duplicates", "propose-kernels",
        "choose", "lay-out", "choose-tiles", "separate-outputs", "remove-dead", "split-batchnorm", "repeat-chains",
    }  # fmt: skip
