"""The version of cnncc, as installed or as pyproject.toml next to a checkout states it."""

from __future__ import annotations

VERSION = "0.1.0"
