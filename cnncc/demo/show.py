"""What the demo does, apart from printing it."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cnncc.bench import BenchResult

HERE = Path(__file__).parent
SHADES = " ░▒▓█"
PEERS = {"torch": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino"}


@dataclass(frozen=True)
class Digits:
    """The classifier's answers on the sample images [K, 8, 8], and how long an image took."""

    images: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    confidence: np.ndarray
    microseconds: float
    seconds: dict[str, float]

    @property
    def right(self) -> int:
        """Number of right predictions."""
        return int((self.predictions == self.labels).sum())

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "predictions": self.predictions.tolist(),
            "labels": self.labels.tolist(),
            "microseconds": self.microseconds,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Network:
    """A network's latency, with the FMA peak measured beside it (GFLOP/s)."""

    milliseconds: float
    gflops: float
    peak: float
    peak_memory: int
    seconds: dict[str, float]
    comparison: BenchResult | None

    @property
    def percent(self) -> float:
        """GFLOP/s by the definition of the convolutions, in percent of the peak."""
        return 100 * self.gflops / self.peak

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "percent": self.percent, "comparison": self.comparison and self.comparison.to_dict()}


def digits(threads: int) -> Digits:
    """Compile digits.onnx and run it on the sample images."""
    import cnncc
    from cnncc.driver import Progress

    progress = Progress()
    exe = cnncc.compile(HERE / "digits.onnx", threads=threads, progress=progress)
    with np.load(HERE / "digits.npz") as samples:
        images, labels = samples["images"], samples["labels"]
    logits = exe(images)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    one = np.ascontiguousarray(images[:1])
    return Digits(
        images[:, 0],
        labels,
        logits.argmax(1),
        (shifted / shifted.sum(1, keepdims=True)).max(1),
        _median(lambda: exe(one), 200) * 1e6,
        progress.seconds,
    )


def drawn(result: Digits, colour: bool = True, columns: int = 10) -> list[str]:
    """Lines of text that show the images, two rows of pixels a line, and the predictions below (rich markup).

    Without colour a character shows the mean of its two pixels as a density.
    """
    lines = []
    for start in range(0, len(result.images), columns):
        group = range(start, min(start + columns, len(result.images)))
        for row in range(0, 8, 2):
            cells = []
            for k in group:
                pairs = zip(result.images[k][row], result.images[k][row + 1], strict=True)
                if colour:
                    cells.append("".join(f"[{_grey(upper)} on {_grey(lower)}]▀[/]" for upper, lower in pairs))
                else:
                    cells.append(
                        "".join(SHADES[round((upper + lower) / 2 * (len(SHADES) - 1))] for upper, lower in pairs)
                    )
            lines.append("  ".join(cells))
        marks = []
        for k in group:
            good = result.predictions[k] == result.labels[k]
            text = f"{result.predictions[k]} {result.confidence[k]:.0%}".center(8)
            marks.append(f"[{'green' if good else 'red'}]{text}[/]")
        lines += ["  ".join(marks), ""]
    return lines[:-1]


def _grey(level: float) -> str:
    value = int(255 * min(max(level, 0.0), 1.0))
    return f"#{value:02x}{value:02x}{value:02x}"


def resnet(threads: int, quick: bool, progress_text: Callable[[str], None] = lambda text: None) -> Network:
    """Compile a ResNet-18 with seeded weights at 224 x 224, time it, and compare with what is installed."""
    import cnncc
    from cnncc import nn
    from cnncc.bench import run_bench
    from cnncc.demo.networks import ResNet18
    from cnncc.driver import Progress

    nn.manual_seed(0)
    graph = nn.trace(ResNet18().eval(), {"x": (1, 3, 224, 224)})
    progress = Progress(on_kernel=lambda done, total, symbol: progress_text(f"building kernels: {done} of {total}"))
    exe = cnncc.compile(graph, threads=threads, progress=progress)
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    seconds = _median(lambda: exe(x), 15)
    peak = _peak(threads)
    gflop = sum(row.gflop for row in exe.report().rows)
    found = [name for name, module in PEERS.items() if importlib.util.find_spec(module)]
    comparison = None
    if found and not quick:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "resnet18.onnx"
            cnncc.to_onnx(graph, path)
            comparison = run_bench(str(path), found, threads, rounds=3, label="ResNet-18", progress=progress_text)
    memory = exe.peak_memory
    assert isinstance(memory, int)
    return Network(seconds * 1e3, gflop / seconds, peak, memory, progress.seconds, comparison)


def _peak(threads: int) -> float:
    """The FMA peak on so many threads; on a thread of its own, whose pool has that size."""
    from concurrent.futures import ThreadPoolExecutor

    from cnncc.runtime.peak import measure_peak

    before = os.environ.get("TVM_NUM_THREADS")
    os.environ["TVM_NUM_THREADS"] = str(threads)
    try:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(measure_peak, threads).result()
    finally:
        if before is None:
            del os.environ["TVM_NUM_THREADS"]
        else:
            os.environ["TVM_NUM_THREADS"] = before


def _median(run: Callable[[], Any], repeat: int) -> float:
    run()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))
