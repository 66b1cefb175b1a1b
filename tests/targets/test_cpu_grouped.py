"""Groups that are no whole blocks of channels: which of them a block touches, and that it sums over no others."""

from __future__ import annotations

import pytest
import tvm_ffi
from tvm import tirx

from benchmarks.kernels import ZEN4
from benchmarks.onednn import parse
from cnncc.kernels.trial import build
from cnncc.targets.cpu import grouped, guards
from cnncc.targets.table import find_algorithm

ACROSS = "conv n1 ic68 h7 w7 oc68 k1x1 s1x1 p0x0 g2"


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        (ACROSS, [1, 1, 2, 1, 1]),  # 34 channels: the third block ends in the second group; the last has four channels
        ("conv n1 ic40 h7 w7 oc20 k1x1 s1x1 p0x0 g4", [4, 1]),
        ("conv n1 ic48 h7 w7 oc48 k1x1 s1x1 p0x0 g2", [1, 2, 1]),
    ],
)
def test_groups_of_a_block(text, groups):
    assert grouped.touched(parse(text), 16) == groups


def test_blocks_of_one_group_branch_around_the_others(monkeypatch):
    """The sum over the groups of a block is made conditional, in place of adding zeros."""
    conditional = []

    def branches(func) -> int:
        found = []
        tvm_ffi.structural_walk(func.body, (tirx.IfThenElse, found.append))
        return len(found)

    def watch(func):
        changed = branch_around(func)
        conditional.append((branches(func), branches(changed)))
        return changed

    branch_around = guards.branch_around
    monkeypatch.setattr(guards, "branch_around", watch)
    build(find_algorithm(ZEN4, "grouped"), parse(ACROSS), ZEN4)
    assert conditional
    assert all(after > before for before, after in conditional)
