"""ONNX Runtime on its CPU provider, all graph optimisations on."""

from __future__ import annotations

from functools import partial

from cnncc.bench.systems import Job, Session


def start(job: Job) -> Session:
    """Opens the file: once for all instances of one thread (they run on their callers'), else once for each."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    count = 1 if job.threads == 1 else job.instances
    sessions = [
        onnxruntime.InferenceSession(job.onnx, options, providers=["CPUExecutionProvider"]) for _ in range(count)
    ]
    lanes = [partial(sessions[i % count].run, None, job.feeds) for i in range(job.instances)]
    return Session(onnxruntime.__version__, lanes[0], lambda result: result, lanes)
