"""OpenVINO on its CPU plugin, by its hints: LATENCY for one request at a time, THROUGHPUT for several."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from cnncc.bench.systems import Job, Session


def start(job: Job) -> Session:
    """Compiles the file at the shapes of the feeds, in float32 (left alone it takes bfloat16 where the CPU has it).

    For throughput it gets the threads of all instances together, and says itself how many requests suit it.
    """
    import openvino

    core = openvino.Core()
    model = core.read_model(job.onnx)
    model.reshape({name: list(array.shape) for name, array in job.feeds.items()})
    settings = {
        "INFERENCE_NUM_THREADS": job.threads * job.instances,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
    if job.instances > 1:
        settings["PERFORMANCE_HINT"] = "THROUGHPUT"
    else:
        settings |= {"NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(model, "CPU", settings)
    count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") if job.instances > 1 else 1
    requests = [compiled.create_infer_request() for _ in range(count)]
    lanes = [partial(request.infer, job.feeds, share_inputs=True, share_outputs=True) for request in requests]

    def fetch(result: Any) -> Sequence[np.ndarray]:
        return [np.array(result[out]) for out in compiled.outputs]

    return Session(openvino.__version__.split("-")[0], lanes[0], fetch, lanes)
