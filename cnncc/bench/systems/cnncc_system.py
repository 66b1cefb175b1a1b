"""cnncc itself, through its public functions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from cnncc.bench.systems import Job, Session


def start(job: Job) -> Session:
    """Compiles the file at the shapes of the feeds; results come as arrays by name. Instances share the weights."""
    import cnncc
    from cnncc.runtime.version import VERSION

    shapes = {name: array.shape for name, array in job.feeds.items()}
    accuracy = job.options.get("accuracy", "default")
    executable = cnncc.compile(job.onnx, threads=job.threads, shapes=shapes, accuracy=accuracy)
    instances = [executable, *(executable.clone() for _ in range(job.instances - 1))]
    names = [out.name for out in executable.outputs]

    def fetch(result: Any) -> Sequence[np.ndarray]:
        return [result[name] for name in names]

    lanes = [partial(instance.run, job.feeds) for instance in instances]
    return Session(VERSION, lanes[0], fetch, lanes)
