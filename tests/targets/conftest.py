"""What the tests of kernels share."""

from __future__ import annotations

import pytest


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel is worth threads."""
    from cnncc.targets.cpu import elementwise

    monkeypatch.setattr(elementwise, "WORTH", 0.0)
