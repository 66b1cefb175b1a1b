"""No kernel touches memory outside of its buffers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "models",
    [
        ("inception_v3", "mobilenetv2"),
        ("unet", "audio_m5", "max_unpool-2"),
        tuple(map(str, range(6))),
        *(pytest.param(tuple(map(str, range(k, k + 9))), marks=pytest.mark.slow) for k in range(6, 60, 9)),
        *(pytest.param((f"ops:{k}:8",), marks=pytest.mark.slow) for k in range(8)),
    ],
    ids=" ".join,
)
def test_buffers_between_forbidden_pages(models: tuple[str, ...]) -> None:
    """The process would end with a segmentation fault."""
    command = [sys.executable, "-m", "tests.guarded", *models]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, (
        f"ended with {ended.returncode} after {ended.stdout.splitlines()[-1:]}: {ended.stderr}"
    )
    assert ended.stdout.endswith("done\n")
