"""OpenVINO on its CPU plugin, tuned for the latency of one request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnncc.bench.systems import Job, Session


def start(job: Job) -> Session:
    """Compiles the file at the shapes of the feeds, in float32 (left alone it takes bfloat16 where the CPU has it)."""
    import openvino

    core = openvino.Core()
    model = core.read_model(job.onnx)
    model.reshape({name: list(array.shape) for name, array in job.feeds.items()})
    settings = {
        "INFERENCE_NUM_THREADS": job.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()

    def run() -> Any:
        return request.infer(job.feeds, share_inputs=True, share_outputs=True)

    def fetch(result: Any) -> Sequence[np.ndarray]:
        return [np.array(result[out]) for out in compiled.outputs]

    return Session(openvino.__version__.split("-")[0], run, fetch)
