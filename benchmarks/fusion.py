"""What each kind of fusion brings: `python -m benchmarks.fusion` at the top of a checkout.

    python -m benchmarks.fusion --threads 1,2 --batch 1,8
    python -m benchmarks.fusion --kinds gate,concat --clock cpu --threads 1

A few layers, or a network, compiled with everything and with one kind of fusion left out: each in a process of its
own, in alternating rounds, as in benchmarks/zoo.py. A ratio above 1 says that the fusion saves time. Writes
benchmarks/results/fusion/<date>-<machine>.json after every row, and a table beside it. Another kind is a line of CASES.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks import zoo
from cnncc import Builder, Graph, to_onnx
from cnncc.bench import BenchResult, run_bench, table
from cnncc.bench.machine import describe_machine, machine_slug

FOLDER = zoo.FOLDER / "fusion"
_SEED = 0


@dataclass(frozen=True)
class Case:
    """A kind of fusion (`cnncc.passes.fusion.KINDS`) and where it is seen: a network of the zoo by its name, or
    `layers` that are built on an input of so many channels and pixels."""

    kind: str
    name: str
    layers: Callable[[Builder, Any], Any] | None = None
    channels: int = 64
    size: int = 56

    def model(self, batch: int) -> Any:
        """What `run_bench` takes."""
        if self.layers is None:
            return f"tests.zoo:with_example?name={self.name}&batch={batch}"
        return to_onnx(self.graph(batch))

    def graph(self, batch: int) -> Graph:
        """The graph of the layers."""
        assert self.layers is not None
        b = Builder(self.name.replace(" ", "_"))
        b.output(self.layers(b, b.input("x", (batch, self.channels, self.size, self.size))), "y")
        return b.finish()


def _numbers(*shape: int, low: float = -1.0) -> np.ndarray:
    return np.random.default_rng(_SEED).uniform(low, 1.0, shape).astype(np.float32)


def _per_channel(channels: int) -> np.ndarray:
    return _numbers(1, channels, 1, 1)


def _conv(b: Builder, x: Any, oc: int, k: int = 1, groups: int = 1, stride: int = 1) -> Any:
    ic = x.type.shape[1] // groups
    w = _numbers(oc, ic, k, k) / np.float32(np.sqrt(ic * k * k))
    return b.conv(x, w, pads=(k // 2,) * 4, groups=groups, strides=(stride, stride))


def _conv_bias(b: Builder, x: Any, oc: int, k: int = 1, **more: int) -> Any:
    return b.add(_conv(b, x, oc, k, **more), _per_channel(oc))


def _batch_norm(b: Builder, x: Any) -> Any:
    c = x.type.shape[1]
    return b.batch_norm(x, _numbers(c), _numbers(c), _numbers(c), _numbers(c, low=0.5))


def _residual(b: Builder, x: Any) -> Any:
    return b.relu(b.add(_conv_bias(b, x, x.type.shape[1]), x))


def _basic_block(b: Builder, x: Any) -> Any:
    """Two 3x3 convolutions, each with batch norm, and their input (ResNet)."""
    c = x.type.shape[1]
    y = b.relu(_batch_norm(b, _conv(b, x, c, 3)))
    return b.relu(b.add(_batch_norm(b, _conv(b, y, c, 3)), x))


def _gate(b: Builder, x: Any) -> Any:
    """sigmoid(conv(relu(conv(mean of x)))): what squeeze-and-excitation multiplies with."""
    c = x.type.shape[1]
    squeezed = b.relu(_conv_bias(b, b.reduce_mean(x, axes=(2, 3), keepdims=True), c // 4))
    return b.sigmoid(_conv_bias(b, squeezed, c))


def _squeezed(b: Builder, x: Any) -> Any:
    """144 channels, squeeze-and-excitation, and 24 (EfficientNet)."""
    y = b.relu(_conv_bias(b, x, 144))
    return _conv_bias(b, b.mul(y, _gate(b, y)), 24)


def _inverted_residual(b: Builder, x: Any) -> Any:
    """Six times the channels, a depthwise convolution of them, and back (MobileNetV2)."""
    c = x.type.shape[1]
    y = b.relu(_conv_bias(b, b.relu(_conv_bias(b, x, 6 * c)), 6 * c, 3, groups=6 * c))
    return b.add(_conv_bias(b, y, c), x)


def _pre_activation(b: Builder, x: Any) -> Any:
    """Batch norm and ReLU before a 1x1 convolution, on 256 channels that are read twice (DenseNet)."""
    y = b.relu(_conv_bias(b, x, 256))
    return b.concat(y, b.relu(_conv_bias(b, b.relu(_batch_norm(b, y)), 128)), axis=1)


def _dense_block(b: Builder, x: Any) -> Any:
    """Four layers of 32 channels, each on all before it (DenseNet)."""
    for _ in range(4):
        x = b.concat(x, b.relu(_conv_bias(b, x, 32, 3)), axis=1)
    return x


def _stem(b: Builder, x: Any) -> Any:
    """The first layers of a ResNet."""
    y = b.relu(_conv_bias(b, x, 64, 7, stride=2))
    return b.max_pool(y, kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))


def _pooled(b: Builder, x: Any) -> Any:
    """The end of a stage of VGG."""
    return b.max_pool(b.relu(_conv_bias(b, x, 64, 3)), kernel=(2, 2), strides=(2, 2))


def _transition(b: Builder, x: Any) -> Any:
    """Half the channels of a quarter of the pixels (DenseNet)."""
    y = _conv(b, b.relu(_batch_norm(b, x)), x.type.shape[1] // 2)
    return b.average_pool(y, kernel=(2, 2), strides=(2, 2))


CASES: tuple[Case, ...] = (
    Case("bias", "1x1 and bias", lambda b, x: _conv_bias(b, x, 64)),
    Case("batch-norm", "1x1, batch norm, relu", lambda b, x: b.relu(_batch_norm(b, _conv(b, x, 64)))),
    Case("batch-norm", "basic block", _basic_block),  # (exports of networks have it in the weights already)
    Case("activation", "1x1, bias, relu", lambda b, x: b.relu(_conv_bias(b, x, 64))),
    Case("activation", "mobilenetv2"),
    Case("residual", "1x1, bias, add, relu", _residual),
    Case("residual", "resnet50"),
    Case("scale", "1x1, relu, scale", lambda b, x: b.mul(b.relu(_conv_bias(b, x, 64)), _per_channel(64))),
    Case("gate", "1x1, bias, gate", lambda b, x: b.mul(_conv_bias(b, x, 64), _gate(b, x))),
    Case("gate", "1x1, gate, 1x1", _squeezed),
    Case("gate", "efficientnet_b0"),
    Case("depthwise", "1x1, depthwise, 1x1", _inverted_residual, channels=24),
    Case("depthwise", "mobilenetv2"),
    Case("pre-activation", "1x1, batch norm, relu, 1x1", _pre_activation),
    Case("pre-activation", "densenet121"),
    Case("reduction", "relu, mean", lambda b, x: b.reduce_mean(b.relu(b.add(x, 1.0)), axes=(2, 3), keepdims=True)),
    Case("concat", "dense block", _dense_block),
    Case("concat", "squeezenet"),
    Case("concat", "densenet121"),
    Case("pool", "7x7 of step 2, bias, relu, max pool", _stem, channels=3, size=224),
    Case("pool", "3x3, bias, relu, max pool", _pooled),
    Case("pool", "squeezenet"),
    Case("pool", "vgg16"),
    Case("pool-order", "batch norm, relu, 1x1, average pool", _transition, channels=256),
    Case("pool-order", "densenet121"),
)


def markdown(results: Sequence[BenchResult]) -> str:
    """A row for each case: the medians of both sides, and their ratio."""
    lines = [
        "| kind: layers or network | threads | fused ms | apart ms | apart / fused | 95 % of it |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        fused, apart = result.systems
        if None in (fused.median, apart.median, apart.ratio):
            lines.append(f"| {result.model} | {result.threads} | {fused.status} | {apart.status} | | |")
            continue
        sure = "" if apart.ratio_low is None else f"{apart.ratio_low:.2f} to {apart.ratio_high:.2f}"
        times = " | ".join(f"{1e3 * (side.median or 0.0):.3f}" for side in (fused, apart))
        lines.append(f"| {result.model} | {result.threads} | {times} | {apart.ratio:.2f} | {sure} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Runs the cases of the kinds that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(dict.fromkeys(case.kind for case in CASES)))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--batch", default="1")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each side in each round")
    parser.add_argument(
        "--clock", default="wall", choices=["wall", "cpu"], help="cpu: processor time, for busy machines"
    )
    parser.add_argument("--again", action="store_true", help="measure anew what today's file already has")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where results are written")
    options = parser.parse_args(arguments)
    machine = describe_machine()
    name = f"{datetime.date.today():%Y-%m-%d}-{machine_slug(machine)}{'-cpu-time' * (options.clock == 'cpu')}.json"
    path = options.folder / name
    results = zoo.read(path)
    wanted = [case for case in CASES if case.kind in options.kinds.split(",")]
    counts = [[int(text) for text in given.split(",")] for given in (options.threads, options.batch)]
    for threads, batch, case in itertools.product(*counts, wanted):
        label = f"{case.kind}: {case.name} x{batch}"
        known = [r for r in results if (r.model, r.threads) == (label, threads)]
        if known and not options.again:
            continue
        result = run_bench(
            *(case.model(batch), [f"cnncc-without-{case.kind}"], threads, options.rounds, options.seconds),
            label=label,
            clock=options.clock,
            with_peak=False,
            progress=lambda text, label=label: print(f"{label}: {text}", file=sys.stderr),
        )
        Console().print(table(result))
        results = [r for r in results if r not in known] + [result]
        zoo.write(path, machine, results, markdown)


if __name__ == "__main__":
    main()
