"""PyTorch: eager, eager on channels_last, and torch.compile with frozen weights on channels_last."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnncc.bench.systems import Job, MissingError, Session
from cnncc.bench.torch_reference import load


def start(job: Job) -> Session:
    """Takes the torch module that the model came from; a foreign ONNX file is converted to one (see torch_graph)."""
    import torch

    torch.set_num_threads(job.threads)
    torch.set_grad_enabled(False)
    module = load(job.torch)[0] if job.torch else _converted(job)
    module.eval()
    inputs = [torch.from_numpy(array) for array in job.feeds.values()]
    compiled, images = bool(job.options.get("compile")), any(x.dim() == 4 for x in inputs)
    if job.options.get("channels_last") and not images:
        raise MissingError("channels_last is a layout of images, and no input has 4 axes")
    if images and (compiled or job.options.get("channels_last")):  # torch.compile is at its best on channels_last too
        module = module.to(memory_format=torch.channels_last)
        inputs = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs]
    if compiled:
        if not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
            raise MissingError("torch.compile needs a C++ compiler, and none is on the path")
        from torch._inductor import config

        config.freezing = True
        module = torch.compile(module)
        module(*inputs)  # compiles

    def run() -> Any:
        # Not inference_mode(False): that switches gradients on, and the frozen code would not be the one that runs.
        with torch.no_grad() if compiled else torch.inference_mode():
            return module(*inputs)

    def fetch(result: Any) -> Sequence[np.ndarray]:
        return [out.numpy() for out in (result if isinstance(result, (tuple, list)) else (result,))]

    return Session(torch.__version__, run, fetch, [run] * job.instances)


def _converted(job: Job) -> Any:
    import cnncc
    from cnncc.bench.systems.torch_graph import to_module

    shapes = {name: array.shape for name, array in job.feeds.items()}
    return to_module(cnncc.load_onnx(job.onnx, shapes))
