"""Options and fixtures for all tests."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("TVM_BACKTRACE", "0")
os.environ["CNNCC_TUNING"] = "off"  # what this machine was tuned to is no part of what tests expect


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the lower half of golden .cnn cases")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests run only where they are asked for (-m slow, or -m 'slow or not slow')."""
    if "slow" in (config.getoption("-m") or ""):
        return
    skip = pytest.mark.skip(reason="slow: run with -m slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
