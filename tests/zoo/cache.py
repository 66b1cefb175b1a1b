"""A folder for files that are slow to make: exports and calibrated models. Shared by the processes of a test run."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path


def folder() -> Path:
    """The folder: CNNCC_ZOO_CACHE, else one in the temporary folder that changes with this package and its makers."""
    root = os.environ.get("CNNCC_ZOO_CACHE")
    if not root:
        digest = hashlib.sha256()
        for source in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(source.read_bytes())
        for package in ("torch", "onnx", "onnxscript"):
            digest.update(version(package).encode())
        root = os.path.join(tempfile.gettempdir(), f"cnncc-zoo-{os.getuid()}-{digest.hexdigest()[:12]}")
    path = Path(root)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The file of a name; `make(path)` writes it where it is not there yet. Atomic: no reader sees half a file."""
    path = folder() / name
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder()) as scratch:
            draft = Path(scratch) / name
            make(draft)
            os.replace(draft, path)
    return path
