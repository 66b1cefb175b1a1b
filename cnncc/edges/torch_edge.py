"""The only place that knows torch: modules through torch.onnx.export, and a torch.compile backend."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from cnncc.errors import GraphError, UnsupportedError
from cnncc.ir.graph import Graph


def from_torch(module: Any, example_inputs: Any) -> Graph:
    """A torch module in eval mode, with example inputs (tensors, or one tensor, or arrays) --> a graph.

    Raises UnsupportedError where torch cannot export the module, with torch's reason.
    """
    import numpy as np
    import torch

    from cnncc.edges.onnx_import import load_onnx

    if example_inputs is None:
        raise GraphError(
            "a torch module needs example inputs: cnncc.compile(module, shapes=(x,)) with the tensors it takes"
        )
    given = example_inputs if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    if isinstance(example_inputs, dict):
        given = [torch.zeros(tuple(shape)) for shape in example_inputs.values()]
    examples = tuple(x if isinstance(x, torch.Tensor) else torch.from_numpy(np.asarray(x)) for x in given)
    buffer = io.BytesIO()
    training = module.training
    try:
        with torch.no_grad():
            torch.onnx.export(module.eval(), examples, buffer, dynamo=False)
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        first = str(error).strip().splitlines()[0]
        raise UnsupportedError(f"{type(module).__name__}: torch.onnx.export failed: {first}") from error
    finally:
        module.train(training)
    return load_onnx(buffer.getvalue())


def dynamo_backend(module: Any, example_inputs: Sequence[Any]) -> Any:
    """`torch.compile(model, backend="cnncc")`: compile a captured graph for inference on the CPU.

    Where gradients are wanted, torch's own eager backend runs instead.
    """
    import torch

    from cnncc.driver import compile

    wants_gradient = torch.is_grad_enabled() and any(
        isinstance(x, torch.Tensor) and x.requires_grad for x in (*example_inputs, *module.parameters())
    )
    if wants_gradient or not all(isinstance(x, torch.Tensor) for x in example_inputs):
        return module.forward
    executable = compile(module, shapes=tuple(example_inputs))

    def run(*inputs: Any) -> Any:
        result = executable(*inputs)
        return result if isinstance(result, tuple) else (result,)

    return run
