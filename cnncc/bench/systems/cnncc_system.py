"""cnncc itself, through its public functions."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from cnncc.bench.systems import Job, Session


def start(job: Job) -> Session:
    """Compiles the file at the shapes of the feeds; results come as arrays by name. Instances share the weights.

    With the option "loaded" another process compiles it, and this one loads the compiled file: what a deployed model
    takes in time to open and in memory.
    """
    file = _compiled(job) if job.options.get("loaded") else None
    begin = time.perf_counter()
    import cnncc
    from cnncc.runtime.version import VERSION

    if file is not None:
        executable = cnncc.load(file)
    else:
        shapes = {name: array.shape for name, array in job.feeds.items()}
        options = {key: job.options[key] for key in ("accuracy", "without") if key in job.options}
        executable = cnncc.compile(job.onnx, threads=job.threads, shapes=shapes, **options)
    instances = [executable, *(executable.clone() for _ in range(job.instances - 1))]
    names = [out.name for out in executable.outputs]

    def fetch(result: Any) -> Sequence[np.ndarray]:
        return [result[name] for name in names]

    lanes = [partial(instance.run, job.feeds) for instance in instances]
    return Session(VERSION, lanes[0], fetch, lanes, time.perf_counter() - begin)


def _compiled(job: Job) -> str:
    """The compiled file, made by a process of its own. Raises RuntimeError with what that said."""
    file = os.path.join(job.scratch, "model.cnncc")
    shapes = [f"--shape={n}={'x'.join(map(str, a.shape))}" for n, a in job.feeds.items() if a.shape]
    command = [sys.executable, "-m", "cnncc", "compile", job.onnx, "-o", file, f"--threads={job.threads}", *shapes]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"compiling ended with code {done.returncode}")
    return file
