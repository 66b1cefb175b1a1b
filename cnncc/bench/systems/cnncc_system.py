"""cnncc itself, through its public functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnncc.bench.systems import Job, Session


def start(job: Job) -> Session:
    """Compiles the file; results come as arrays by name."""
    import cnncc
    from cnncc.runtime.version import VERSION

    executable = cnncc.compile(job.onnx, threads=job.threads, accuracy=job.options.get("accuracy", "default"))
    names = [out.name for out in executable.outputs]

    def fetch(result: Any) -> Sequence[np.ndarray]:
        return [result[name] for name in names]

    return Session(VERSION, lambda: executable.run(job.feeds), fetch)
