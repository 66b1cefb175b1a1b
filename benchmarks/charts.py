"""Charts of the zoo's results, for README and docs: `python -m benchmarks.charts` at the top of a checkout.

    python -m benchmarks.charts                                # the newest results of wall time
    python -m benchmarks.charts benchmarks/results/FILE.json

Draws docs/speed-threads<t>-batch<b>.svg for every number of threads and batch that the file has at least two networks
of, and docs/throughput-<instances>x<threads>-batch<b>.svg likewise. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.zoo import FOLDER, read
from cnncc.bench import BenchResult, SystemResult
from cnncc.bench.plot import OWN, check_plot, pyplot, save

DOCS = Path(__file__).parents[1] / "docs"
BASE = "cnncc"
TITLES = {
    "alexnet": "AlexNet",
    "audio_m5": "M5 (audio)",
    "densenet121": "DenseNet-121",
    "efficientnet_b0": "EfficientNet-B0",
    "googlenet": "GoogLeNet",
    "inception_v3": "Inception-v3",
    "lenet5": "LeNet-5",
    "mnasnet": "MNASNet",
    "mobilenetv2": "MobileNetV2",
    "mobilenetv3_large": "MobileNetV3 large",
    "mobilenetv3_small": "MobileNetV3 small",
    "regnetx_400mf": "RegNetX-400MF",
    "regnety_400mf": "RegNetY-400MF",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "resnext50": "ResNeXt-50",
    "shufflenetv2": "ShuffleNetV2",
    "squeezenet": "SqueezeNet 1.1",
    "unet": "U-Net",
    "vgg16": "VGG-16",
    "video_c3d": "C3D (video)",
}
# Colour (Okabe and Ito's, which colour-blind readers can tell apart) and shape of every peer.
MARKS = {
    "torch": ("#d55e00", "s"),
    "torch-channels-last": ("#e69f00", "D"),
    "torch-compile": ("#cc79a7", "^"),
    "onnxruntime": ("#56b4e9", "o"),
    "openvino": ("#009e73", "v"),
    "ncnn": ("#5b2c83", "P"),
    "cnncc-strict": (OWN, "|"),
    "cnncc-fast": (OWN, "x"),
}


def newest(folder: Path = FOLDER) -> Path:
    """The newest file of results in wall time. Raises FileNotFoundError where there is none."""
    files = sorted(path for path in folder.glob("*.json") if not path.stem.endswith("-cpu-time"))
    if not files:
        raise FileNotFoundError(f"{folder}: no results; `python -m benchmarks.zoo` makes some")
    return files[-1]


def groups(results: Sequence[BenchResult]) -> dict[str, list[BenchResult]]:
    """Chart's name --> its results: those of cnncc with the same instances, threads and batch, two networks or more."""
    found: dict[str, list[BenchResult]] = {}
    for result in results:
        if result.base == BASE and len(peers(result)) > 0:
            batch = result.model.rpartition(" x")[2]
            runs = (
                f"throughput-{result.instances}x{result.threads}"
                if result.instances > 1
                else f"speed-threads{result.threads}"
            )
            found.setdefault(f"{runs}-batch{batch}", []).append(result)
    return {name: made for name, made in found.items() if len(made) > 1}


def peers(result: BenchResult) -> list[SystemResult]:
    """The systems that ran, but for the base."""
    return [s for s in result.systems if s.ratio is not None and s.name != result.base]


def best(result: BenchResult) -> float:
    """The ratio of the fastest peer."""
    ratios = [s.ratio for s in peers(result) if s.ratio is not None and not s.name.startswith(BASE)]
    return min(ratios, default=math.nan)


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values))


def draw(results: Sequence[BenchResult], title: str, path: Path) -> None:
    """A row for each network, a mark for each peer at its time divided by cnncc's, with its confidence interval."""
    check_plot(path)
    rows = sorted((r for r in results if not math.isnan(best(r))), key=best)
    from matplotlib.transforms import offset_copy

    figure, axes = pyplot().subplots(figsize=(7.5, 1.5 + 0.34 * len(rows)))
    seen: dict[str, Any] = {}
    for at, result in enumerate(rows):
        axes.axhline(at, color="#eeeeee", zorder=0)
        for system in peers(result):
            colour, shape = MARKS.get(system.name, ("#777777", "*"))
            if system.ratio_low is not None and system.ratio_high is not None:
                axes.plot([system.ratio_low, system.ratio_high], [at, at], color=colour, linewidth=1)
            (seen[system.name],) = axes.plot(system.ratio, at, shape, color=colour, markersize=6, linestyle="none")
    axes.axvline(1.0, color=OWN, linewidth=1.5)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [t for t in (0.5, 0.7, 1, 1.25, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 50) if low <= t <= high]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_xticks([], minor=True)
    axes.set_yticks(range(len(rows)), [label(r) for r in rows])
    axes.set_xlabel("time / cnncc's time (right of the line: cnncc is faster)")
    mean = geometric_mean([best(r) for r in rows])
    axes.set_title(f"{title}\nfastest peer, geometric mean: {mean:.2f}", fontsize=9, loc="left")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    names = [name for name in MARKS if name in seen] + [name for name in seen if name not in MARKS]
    below = offset_copy(axes.transAxes, figure, y=-36, units="points")
    axes.legend(
        *([seen[n] for n in names], names),
        **{"loc": "upper center", "bbox_to_anchor": (0.5, 0), "bbox_transform": below, "ncols": 4, "frameon": False},
    )
    save(figure, path)


def label(result: BenchResult) -> str:
    """A network's name as people write it."""
    name = result.model.rpartition(" x")[0]
    return TITLES.get(name, name)


def heading(machine: dict[str, Any], result: BenchResult, date: str) -> str:
    """What a chart was measured with."""
    threads = f"{result.threads} thread{'s' * (result.threads > 1)}"
    runs = f"{result.instances} instances of {threads}" if result.instances > 1 else threads
    batch = result.model.rpartition(" x")[2]
    clock = ", processor time" if result.settings.get("clock") == "cpu" else ""
    wide = next((name for name in ("avx512f", "avx2") if name in machine["instructions"]), "")
    return f"{machine['processor']} ({wide}), {runs}, batch {batch}, float32{clock}, {date}"


def main(arguments: list[str] | None = None) -> None:
    """Draws the charts of a file of results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="[default: the newest of wall time]")
    parser.add_argument("--folder", type=Path, default=DOCS, help="where charts are written")
    options = parser.parse_args(arguments)
    source = options.file or newest()
    machine = json.loads(source.read_text())["machine"]
    for name, results in groups(read(source)).items():
        path = options.folder / f"{name}{'-cpu-time' * source.stem.endswith('-cpu-time')}.svg"
        draw(results, heading(machine, results[0], source.name[:10]), path)
        print(path)


if __name__ == "__main__":
    main()
