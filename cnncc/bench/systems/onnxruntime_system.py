"""ONNX Runtime on its CPU provider, all graph optimisations on."""

from __future__ import annotations

from cnncc.bench.systems import Job, Session


def start(job: Job) -> Session:
    """Opens the file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(job.onnx, options, providers=["CPUExecutionProvider"])
    return Session(onnxruntime.__version__, lambda: session.run(None, job.feeds), lambda result: result)
