"""The test networks: torch definitions written from the papers, their ONNX exports, and models found in packages.

    module = zoo.build("resnet18")                         a torch module in eval mode, weights calibrated
    path = zoo.export("resnet18", dynamo=True)             the same as an ONNX file (cached)
    feeds = zoo.inputs("resnet18", batch=2)
    expected = zoo.reference(path, feeds)                  ONNX Runtime's outputs by name
    proto = zoo.light("light_resnet50")                    a model of onnx's backend tests with real weights
    zoo.ocr()                                              trained OCR models of rapidocr-onnxruntime

torch is imported by build and export alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.zoo.cache import cached
from tests.zoo.light_models import LIGHT, light

if TYPE_CHECKING:
    import onnx
    import torch

__all__ = [
    "LIGHT",
    "NETS",
    "QUICK",
    "Net",
    "build",
    "export",
    "inputs",
    "light",
    "ocr",
    "reference",
    "shape_of",
    "with_example",
]


@dataclass(frozen=True)
class Net:
    """A network: where it is defined, its input, what still shows all of its layers in a fast test, and whether it is
    among those that the fast tests take (the others have no kind of layer that these do not have)."""

    module: str
    channels: int
    size: tuple[int, ...]
    small: tuple[int, ...]
    small_width: float = 1.0
    quick: bool = True


NETS: dict[str, Net] = {
    "lenet5": Net("classic", 1, (28, 28), (28, 28)),
    "alexnet": Net("classic", 3, (224, 224), (95, 95), 0.25),
    "vgg16": Net("classic", 3, (224, 224), (64, 64), 0.25),
    "resnet18": Net("classic", 3, (224, 224), (64, 64)),
    "resnet50": Net("classic", 3, (224, 224), (64, 64)),
    "mobilenetv2": Net("mobile", 3, (224, 224), (64, 64)),
    "squeezenet": Net("mobile", 3, (224, 224), (67, 67)),
    "efficientnet_b0": Net("mobile", 3, (224, 224), (64, 64)),
    "densenet121": Net("branching", 3, (224, 224), (64, 64)),
    "inception_v3": Net("branching", 3, (299, 299), (107, 107)),
    "unet": Net("other", 3, (256, 256), (48, 64)),
    "audio_m5": Net("other", 1, (8000,), (3000,)),
    "video_c3d": Net("other", 3, (16, 112, 112), (8, 32, 32), 0.25),
    "googlenet": Net("branching", 3, (224, 224), (64, 64), 0.5, quick=False),
    "mnasnet": Net("searched", 3, (224, 224), (64, 64), quick=False),
    "mobilenetv3_large": Net("searched", 3, (224, 224), (64, 64), quick=False),
    "mobilenetv3_small": Net("searched", 3, (224, 224), (96, 96)),
    "shufflenetv2": Net("grouped", 3, (224, 224), (64, 64)),
    "resnext50": Net("grouped", 3, (224, 224), (64, 64), 0.5, quick=False),
    "regnetx_400mf": Net("grouped", 3, (224, 224), (64, 64), quick=False),
    "regnety_400mf": Net("grouped", 3, (224, 224), (64, 64)),
    "convnext_tiny": Net("attention", 3, (224, 224), (64, 64), 0.25),
    "conv_vit": Net("attention", 3, (224, 224), (64, 96), 0.67),
    "detector": Net("pixels", 3, (320, 320), (64, 96)),
    "deeplab": Net("pixels", 3, (224, 224), (64, 72), 0.25),
    "espcn": Net("pixels", 1, (120, 160), (20, 28), 0.5),
    "replknet": Net("large_kernels", 3, (224, 224), (64, 64), 0.25),
}
QUICK = tuple(name for name, net in NETS.items() if net.quick)


def _sized(name: str, size: int | tuple[int, ...] | None) -> tuple[int, ...]:
    net = NETS[name]
    if size is None:
        return net.size
    if isinstance(size, int):  # a side: frames of a video stay
        return (*net.size[: max(0, len(net.size) - 2)], *(size,) * min(2, len(net.size)))
    return size


def shape_of(name: str, batch: int = 1, size: int | tuple[int, ...] | None = None) -> tuple[int, ...]:
    """The input's shape."""
    return (batch, NETS[name].channels, *_sized(name, size))


def build(name: str, seed: int = 0, size: int | tuple[int, ...] | None = None, width: float = 1.0) -> torch.nn.Module:
    """The network in eval mode. size: a side or all sides (None: the paper's); width: a factor on all channels."""
    from tests.zoo.calibrate import calibrate

    make = getattr(importlib.import_module(f"tests.zoo.{NETS[name].module}"), name)
    module: torch.nn.Module = make(width, _sized(name, size))
    return calibrate(module, shape_of(name, 1, size)[1:], seed)


def with_example(name: str, batch: int = 1, size: int | tuple[int, ...] | None = None) -> tuple[Any, Any]:
    """A network and its example input: what `cnncc bench "tests.zoo:with_example?name=resnet18"` calls."""
    import torch

    return build(name, 0, size), torch.from_numpy(inputs(name, batch, size)["input"])


def export(
    name: str,
    dynamo: bool = True,
    symbolic_batch: bool = False,
    size: int | tuple[int, ...] | None = None,
    width: float = 1.0,
    opset: int | None = None,
    seed: int = 0,
) -> Path:
    """The ONNX file that torch.onnx.export makes of a network; input "input", output "output"."""
    sides = "x".join(map(str, _sized(name, size)))
    kind = "dynamo" if dynamo else "script"
    label = f"{name}-{sides}-w{width:g}-{kind}-{'n' if symbolic_batch else '1'}-o{opset or 'default'}-s{seed}.onnx"

    def make(path: Path) -> None:
        from tests.zoo.exporters import write_onnx

        write_onnx(build(name, seed, size, width), shape_of(name, 2, size), path, dynamo, symbolic_batch, opset)

    return cached(label, make)


def inputs(
    name: str, batch: int = 1, size: int | tuple[int, ...] | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Seeded inputs N(0, 1) for an export."""
    return {"input": np.random.default_rng(seed).standard_normal(shape_of(name, batch, size), dtype=np.float32)}


def reference(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto, feeds: Mapping[str, Any], threads: int = 1
) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes, by output name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if not isinstance(model, (str, bytes, os.PathLike)):
        model = model.SerializeToString()
    source = model if isinstance(model, bytes) else os.fspath(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [out.name for out in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def ocr() -> dict[str, Path]:
    """The trained text models (detection, recognition, orientation) by kind; empty where the package is missing."""
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    if spec is None or spec.origin is None:
        return {}
    models = Path(spec.origin).parent / "models"
    return {
        kind: path
        for path in sorted(models.glob("*.onnx"))
        for kind in ("det", "rec", "cls")
        if f"_{kind}_" in path.name
    }
