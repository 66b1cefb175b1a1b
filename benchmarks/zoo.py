"""The test networks in cnncc and its peers: `python -m benchmarks.zoo` at the top of a checkout.

    python -m benchmarks.zoo --nets resnet18,vgg16 --threads 1,2 --against torch,onnxruntime,openvino,ncnn

Writes benchmarks/results/<date>-<machine>.json after every network, and a table beside it. A run goes on where the
file of the day stops: what it has for the same network, threads and systems is not measured again without --again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from cnncc.bench import BenchResult, SystemResult, markdown, run_bench, table
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
)
PEERS = "torch,torch-channels-last,torch-compile,onnxruntime,openvino,ncnn"


def _restored(record: dict[str, Any]) -> BenchResult:
    """A result read back from JSON."""
    systems = tuple(SystemResult(**system) for system in record["systems"])
    return BenchResult(**{**record, "systems": systems})


def _write(path: Path, machine: dict[str, Any], results: list[BenchResult]) -> None:
    """The JSON file and the Markdown beside it."""
    FOLDER.mkdir(exist_ok=True)
    results = sorted(results, key=lambda result: (result.threads, result.model))
    path.write_text(json.dumps({"machine": machine, "results": [r.to_dict() for r in results]}, indent=1) + "\n")
    versions = {s.name: s.version for result in results for s in result.systems if s.version}
    head = [
        f"# {machine['processor']}, {', '.join(machine['instructions'])}, {machine['processors']} processors",
        "Batch as in the model's name, float32; median (least) milliseconds of all rounds, each system in a process",
        "of its own, rounds alternating. " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
    ]
    path.with_suffix(".md").write_text("\n\n".join([head[0], "\n".join(head[1:]), markdown(results)]))


def main() -> None:
    """Runs the networks that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(IMAGES))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--against", default=PEERS)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.7, help="of each system in each round")
    parser.add_argument(
        "--clock", default="wall", choices=["wall", "cpu"], help="cpu: processor time, for busy machines"
    )
    parser.add_argument("--peers-only", action="store_true", help="without cnncc")
    parser.add_argument("--again", action="store_true", help="measure anew what today's file already has")
    options = parser.parse_args()
    machine = describe_machine()
    path = (
        FOLDER
        / f"{datetime.date.today():%Y-%m-%d}-{machine_slug(machine)}{'-cpu-time' * (options.clock == 'cpu')}.json"
    )
    results = [_restored(r) for r in json.loads(path.read_text())["results"]] if path.exists() else []
    against = options.against.split(",")
    asked = {*against, *([] if options.peers_only else ["cnncc"])}
    for threads in map(int, options.threads.split(",")):
        for name in options.nets.split(","):
            label = f"{name} x{options.batch}"
            known = [r for r in results if (r.model, r.threads) == (label, threads)]
            if not options.again and any(asked <= {system.name for system in r.systems} for r in known):
                continue
            result = run_bench(
                f"tests.zoo:with_example?name={name}&batch={options.batch}",
                *(against, threads, options.rounds, options.seconds),
                label=label,
                clock=options.clock,
                include_cnncc=not options.peers_only,
                progress=lambda text, label=label: print(f"{label}: {text}", file=sys.stderr),  # type: ignore[misc]
            )
            Console().print(table(result))
            results = [r for r in results if r not in known] + [result]
            _write(path, machine, results)


if __name__ == "__main__":
    main()
