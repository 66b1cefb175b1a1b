"""Code from outside the package: what the kernel cache has to know of operations and algorithms registered there."""

from __future__ import annotations

import functools
import hashlib
import inspect
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnncc.ir.graph import Node
from cnncc.ops.registry import lookup
from cnncc.targets.table import registered

_PROCESS = uuid.uuid4().hex  # for code without a file (a notebook's): its kernels are kept for this process alone


def outside_code(node: Node) -> str:
    """Digests of the files that declare a kernel's operations and algorithm; empty where the package does."""
    assert node.body is not None
    functions: list[Callable[..., Any]] = [lookup(n.op).infer for n in node.body.nodes]
    functions += [a.schedule for a in registered() if a.name == node.attrs.algorithm]
    return " ".join(sorted({d for f in functions if (d := _digest(f))}))


def _digest(function: Callable[..., Any]) -> str:
    if function.__module__.partition(".")[0] == "cnncc":
        return ""
    try:
        return _digest_of(inspect.getsourcefile(function) or "")
    except (TypeError, OSError):
        return _PROCESS


@functools.cache
def _digest_of(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
