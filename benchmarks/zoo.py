"""The test networks in cnncc and its peers: `python -m benchmarks.zoo` at the top of a checkout.

    python -m benchmarks.zoo --nets resnet18,vgg16 --threads 1,2 --batch 1,8 --against torch,onnxruntime,openvino,ncnn
    python -m benchmarks.zoo --instances 2 --threads 1 --against onnxruntime,openvino       # throughput

Writes benchmarks/results/<date>-<machine>.json after every network, and a table beside it. A run goes on where the
file of the day stops: what it has for the same network, threads and systems is not measured again without --again.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cnncc.bench import BenchResult, markdown, run_bench, table
from cnncc.bench.machine import describe_machine, machine_slug

FOLDER = Path(__file__).parent / "results"
IMAGES = (
    "resnet18",
    "resnet50",
    "mobilenetv2",
    "squeezenet",
    "vgg16",
    "densenet121",
    "inception_v3",
    "efficientnet_b0",
    "mobilenetv3_large",
    "mobilenetv3_small",
    "mnasnet",
    "shufflenetv2",
    "googlenet",
    "resnext50",
    "regnetx_400mf",
    "regnety_400mf",
    "convnext_tiny",
    "conv_vit",
    "unet",
    "detector",
    "deeplab",
    "espcn",
    "replknet",
)
PEERS = "torch,torch-channels-last,torch-compile,onnxruntime,openvino,ncnn"


def read(path: Path) -> list[BenchResult]:
    """The results in a file, none where there is no file."""
    return [BenchResult.from_dict(r) for r in json.loads(path.read_text())["results"]] if path.exists() else []


def write(
    path: Path,
    machine: dict[str, Any],
    results: list[BenchResult],
    shown: Callable[[Sequence[BenchResult]], str] = markdown,
) -> None:
    """The JSON file and the Markdown beside it, as `shown`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    results = sorted(results, key=lambda r: (r.instances, r.threads, r.model))
    path.write_text(json.dumps({"machine": machine, "results": [r.to_dict() for r in results]}, indent=1) + "\n")
    versions = {s.name: s.version for result in results for s in result.systems if s.version}
    lines = [
        "Batch as in the model's name, float32; median (least) milliseconds of all rounds, each system in a process",
        "of its own, rounds alternating. Where several instances ran at once: images per second (99th percentile of",
        "the milliseconds of a request). " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
    ]
    head = f"# {machine['processor']}, {', '.join(machine['instructions'])}, {machine['processors']} processors"
    path.with_suffix(".md").write_text("\n\n".join([head, "\n".join(lines), shown(results)]))


def main(arguments: list[str] | None = None) -> None:
    """Runs the networks that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(IMAGES))
    parser.add_argument("--threads", default="1,2", help="of each instance")
    parser.add_argument("--instances", default="1", help="more than 1: throughput of so many runs at once")
    parser.add_argument("--against", default=PEERS)
    parser.add_argument("--batch", default="1")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.7, help="of each system in each round")
    parser.add_argument(
        "--clock", default="wall", choices=["wall", "cpu"], help="cpu: processor time, for busy machines"
    )
    parser.add_argument("--peers-only", action="store_true", help="without cnncc")
    parser.add_argument("--again", action="store_true", help="measure anew what today's file already has")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where results are written")
    options = parser.parse_args(arguments)
    machine = describe_machine()
    name = f"{datetime.date.today():%Y-%m-%d}-{machine_slug(machine)}{'-cpu-time' * (options.clock == 'cpu')}.json"
    path = options.folder / name
    results = read(path)
    against = [name for name in options.against.split(",") if name]
    asked = {*against, *([] if options.peers_only else ["cnncc"])}
    counts = [[int(text) for text in given.split(",")] for given in (options.instances, options.threads, options.batch)]
    for instances, threads, batch, name in itertools.product(*counts, options.nets.split(",")):
        label = f"{name} x{batch}"
        known = [r for r in results if (r.model, r.threads, r.instances) == (label, threads, instances)]
        if not options.again and any(asked <= {system.name for system in r.systems} for r in known):
            continue
        result = run_bench(
            f"tests.zoo:with_example?name={name}&batch={batch}",
            *(against, threads, options.rounds, options.seconds),
            label=label,
            clock=options.clock,
            instances=instances,
            include_cnncc=not options.peers_only,
            progress=lambda text, label=label: print(f"{label}: {text}", file=sys.stderr),
        )
        Console().print(table(result))
        results = [r for r in results if r not in known] + [result]
        write(path, machine, results)


if __name__ == "__main__":
    main()
