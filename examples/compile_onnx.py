"""Compile an ONNX file, run it, save it, load it again without a compiler.

    python examples/compile_onnx.py [model.onnx]

Without a file: a small network exported from torch where that is installed, else the digit classifier cnncc ships.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path

import numpy as np

import cnncc


def some_model(folder: Path) -> Path:
    """The path of an ONNX file."""
    if importlib.util.find_spec("torch") is None:
        return Path(cnncc.__file__).parent / "demo" / "digits.onnx"
    import torch

    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(16 * 16 * 16, 10),
    ).eval()  # fmt: skip
    path = folder / "net.onnx"
    torch.onnx.export(
        net, (torch.zeros(1, 3, 32, 32),), path, input_names=["image"], dynamo=False,
        dynamic_axes={"image": {0: "N"}},
    )  # fmt: skip
    return path


def main(folder: Path, model: str | None = None) -> None:
    """Compile, run, save, load."""
    path = Path(model) if model else some_model(folder)
    exe = cnncc.compile(path)
    feeds = {}
    for argument in exe.inputs:
        shape = [d if isinstance(d, int) else 2 for d in argument.shape]  # a symbolic size: whatever comes, here 2
        feeds[argument.name] = np.random.default_rng(0).standard_normal(shape).astype(argument.dtype)
        print(f"input  {argument.name}: {argument.shape} {argument.dtype}")
    outputs = exe.run(feeds)
    for name, array in outputs.items():
        print(f"output {name}: {array.shape} {array.dtype}")
    print(f"\n{exe.report()}\n")

    exe.save(folder / "net.cnncc")
    loaded = cnncc.load(folder / "net.cnncc")  # needs no compiler and no onnx; the weights are memory-mapped
    for name, array in loaded.run(feeds).items():
        assert np.array_equal(array, outputs[name])
    print(f"saved {(folder / 'net.cnncc').stat().st_size} bytes; the loaded model gives the same results")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary), *sys.argv[1:2])
