"""ncnn, the model converted by pnnx; float32 throughout."""

from __future__ import annotations

import importlib
import os
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from cnncc.bench.systems import Job, MissingError, Session


def start(job: Job) -> Session:
    """Converts the file at the shapes of the feeds. ncnn has no batch axis: batch 1 alone. Instances share the net."""
    import ncnn

    if any(array.shape[:1] != (1,) for array in job.feeds.values()):
        raise MissingError("ncnn runs one image at a time; the batch is not 1")
    stem = _convert(job)
    net = ncnn.Net()
    net.opt.num_threads = job.threads
    for option in (
        "use_fp16_packed",
        "use_fp16_storage",
        "use_fp16_arithmetic",
        "use_bf16_storage",
        "use_vulkan_compute",
    ):
        setattr(net.opt, option, False)
    if net.load_param(f"{stem}.ncnn.param") or net.load_model(f"{stem}.ncnn.bin"):
        raise MissingError("ncnn does not know a layer that pnnx wrote")
    mats = [(f"in{i}", ncnn.Mat(array[0]).clone()) for i, array in enumerate(job.feeds.values())]
    names = list(net.output_names())

    def run() -> Any:
        extractor = net.create_extractor()
        for name, mat in mats:
            extractor.input(name, mat)
        return [extractor.extract(name)[1] for name in names]

    def fetch(result: Any) -> Sequence[np.ndarray]:
        return [np.array(mat)[None] for mat in result]

    return Session(version("ncnn"), run, fetch, [run] * job.instances)


def _convert(job: Job) -> str:
    """Runs pnnx in the scratch folder; the path of what it wrote, without its suffixes."""
    program = importlib.import_module("pnnx").EXEC_PATH
    stem = os.path.join(job.scratch, "pnnx_model")
    if os.path.exists(f"{stem}.ncnn.bin"):
        return stem
    short = {"float32": "f32", "int64": "i64", "int32": "i32", "uint8": "u8"}
    shapes = [f"[{','.join(map(str, a.shape))}]{short.get(a.dtype.name, 'f32')}" for a in job.feeds.values()]
    os.symlink(job.onnx, f"{stem}.onnx")
    command = [program, f"{stem}.onnx", "fp16=0", f"inputshape={','.join(shapes)}"]
    done = subprocess.run(command, cwd=job.scratch, capture_output=True, text=True, check=False)
    if done.returncode or not os.path.exists(f"{stem}.ncnn.bin"):
        raise MissingError(f"pnnx could not convert the model (exit code {done.returncode})")
    return stem
