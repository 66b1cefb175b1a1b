"""The light models inside the onnx package, with weights.

Their weights are ConstantOfShape(0.02) nodes, so that every channel is alike and the expected outputs are uniform: a
wrong channel order would pass. Here each becomes an initializer with seeded random values; one pass over the graph,
node by node through ONNX Runtime, sets scales and batch-norm statistics as the data reaches them. The old form of the
files stays: opset 9, initializers listed among the inputs.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.zoo.cache import cached

LIGHT: tuple[str, ...] = (
    "light_bvlc_alexnet",
    "light_densenet121",
    "light_inception_v1",
    "light_inception_v2",
    "light_resnet50",
    "light_shufflenet",
    "light_squeezenet",
    "light_vgg19",
    "light_zfnet512",
)


@lru_cache(maxsize=1)
def light(name: str, seed: int = 0) -> onnx.ModelProto:
    """A light model with calibrated weights."""

    def make(path: Path) -> None:
        import onnx.backend.test

        source = Path(onnx.backend.test.__file__).parent / "data" / "light" / f"{name}.onnx"
        onnx.save(_Calibration(onnx.load(source), seed).run(), path)

    return onnx.load(cached(f"{name}-s{seed}.onnx", make))


class _Calibration:
    """The state of one pass: all values computed so far, and which of them are weights of the new model."""

    def __init__(self, model: onnx.ModelProto, seed: int) -> None:
        self.model = model
        self.opset = model.opset_import[0].version
        self.rng = np.random.default_rng(seed)
        old = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        self.weights: dict[str, np.ndarray] = {k: v for k, v in old.items() if v.dtype != np.float32}
        self.nodes = [node for node in model.graph.node if node.op_type != "ConstantOfShape"]
        shapes = {k: v.shape for k, v in old.items() if v.dtype == np.float32}
        for node in model.graph.node:
            if node.op_type == "ConstantOfShape":
                shapes[node.output[0]] = tuple(int(d) for d in old[node.input[0]])
        for name, shape in shapes.items():
            self.weights[name] = self.rng.standard_normal(shape, dtype=np.float32)
        self.image = next(i for i in model.graph.input if i.name not in old)
        dims = [d.dim_value for d in self.image.type.tensor_type.shape.dim]
        self.values = {self.image.name: self.rng.standard_normal(dims, dtype=np.float32)}

    def run(self) -> onnx.ModelProto:
        """The new model."""
        for node in self.nodes:
            if node.op_type in ("Conv", "Gemm"):
                self._set_weights(node)
            elif node.op_type == "BatchNormalization":
                self._set_batchnorm(node)
            elif node.op_type == "Unsqueeze":
                self._set_scale_layer(node)
            self.values[node.output[0]] = self._compute(node)
        used = {name for node in self.nodes for name in node.input}
        weights = {name: array for name, array in self.weights.items() if name in used}
        inputs = [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in weights.items()
        ]
        initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
        old = self.model.graph
        graph = helper.make_graph(self.nodes, old.name, [self.image, *inputs], old.output, initializers)
        made = helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        onnx.checker.check_model(made)
        return made

    def _value(self, name: str) -> np.ndarray:
        return self.weights[name] if name in self.weights else self.values[name]

    def _compute(self, node: onnx.NodeProto) -> np.ndarray:
        """The first output of one node, by ONNX Runtime."""
        import onnxruntime

        feeds = {name: self._value(name) for name in node.input if name}
        inputs = [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in feeds.items()
        ]
        outputs = [helper.make_empty_tensor_value_info(node.output[0])]
        graph = helper.make_graph([node], "node", inputs, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        result: np.ndarray = session.run([node.output[0]], feeds)[0]
        return result

    def _set_weights(self, node: onnx.NodeProto) -> None:
        """Scales the weights so that the results have a deviation near one; centres channels by the bias."""
        bias = node.input[2] if len(node.input) > 2 else None
        if bias:
            self.weights[bias][:] = 0
        out = self._compute(node)
        if node.op_type == "Gemm":
            scale = np.float32(2 / out.std())
            shift = 0.5 * self.rng.standard_normal(out.shape[1])
        else:
            mean, spread = out.mean((0, 2, 3)), np.maximum(out.std((0, 2, 3)), 0.1 * out.std())
            scale = self.rng.uniform(0.7, 1.4, len(mean)) / spread
            shift = 0.3 * self.rng.standard_normal(len(mean)) - mean * scale
            if out.shape[2:] == (1, 1):  # behind a global pooling: one position has no mean of its own
                scale, shift = np.float32(2 / out.std()) + 0 * scale, 0.5 * self.rng.standard_normal(len(mean))
            scale = scale.reshape(-1, 1, 1, 1)
        root = self._root(node.input[1])
        self.weights[root] = (self.weights[root] * scale).astype(np.float32)
        if root != node.input[1]:
            self.values[node.input[1]] = self.weights[root].reshape(self.values[node.input[1]].shape)
        if bias:
            self.weights[bias] = shift.astype(np.float32)

    def _root(self, name: str) -> str:
        """The weight that a value is a reshape of."""
        while name not in self.weights:
            name = next(node.input[0] for node in self.nodes if node.output[0] == name)
        return name

    def _set_batchnorm(self, node: onnx.NodeProto) -> None:
        """Statistics near those of the data, though not equal; scale and shift at random."""
        x = self._value(node.input[0])
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
        n = len(mean)
        chosen = (
            self.rng.uniform(0.5, 1.5, n),
            0.3 * self.rng.standard_normal(n),
            mean + 0.1 * np.sqrt(var) * self.rng.standard_normal(n),
            var * self.rng.uniform(0.8, 1.25, n) + 1e-4,
        )
        for name, array in zip(node.input[1:], chosen, strict=True):
            self.weights[name] = array.astype(np.float32)

    def _set_scale_layer(self, node: onnx.NodeProto) -> None:
        """Caffe's scale and shift behind a batch norm: Unsqueeze then Mul or Add."""
        user = next(other for other in self.nodes if node.output[0] in other.input)
        name, n = node.input[0], self.weights[node.input[0]].shape
        chosen = self.rng.uniform(0.7, 1.4, n) if user.op_type == "Mul" else 0.3 * self.rng.standard_normal(n)
        self.weights[name] = chosen.astype(np.float32)
