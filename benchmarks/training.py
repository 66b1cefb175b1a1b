"""Training steps in cnncc and in PyTorch eager: `python -m benchmarks.training` at the top of a checkout.

    python -m benchmarks.training --nets resnet18,mobilenetv2 --threads 1,2 --optimizer sgd
    python -m benchmarks.training --nets vgg --kernels 15 --against ""      # where the time of a step goes

A step is forward, cross-entropy, backward and the optimizer's update (SGD with momentum, or AdamW). Each system runs in
a process of its own; a round lets each in turn make steps for `--seconds`, after a pause, and the order moves on by one
each round. `--clock cpu` counts the processor time of the process: with one thread it is right on a busy machine too.
Writes benchmarks/results/training/<date>-<machine>.json and a table beside it after every network; what the file of the
day has of others stays. `--json` prints the results instead.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.training_nets import NETS
from cnncc.bench.client import Client
from cnncc.bench.machine import describe_machine, machine_slug

FOLDER = Path(__file__).parent / "results" / "training"
PEERS = "torch,torch-channels-last"
WORKER = "benchmarks.training_worker"


def measure(
    net: str, shape: tuple[int, ...], batch: int, threads: int, systems: Sequence[str], optimizer: str, rounds: int,
    seconds: float, clock: str, kernels: int, pause: float = 0.2,
) -> dict[str, Any]:  # fmt: skip
    """Milliseconds of a step of every system, and of the slowest kernels of cnncc's; `shape` is one image's."""
    found: dict[str, Any] = {}
    times: dict[str, list[list[float]]] = {}
    with ExitStack() as stack:
        clients: dict[str, Client] = {}
        for system in systems:
            client = stack.enter_context(Client(threads, WORKER))
            given = {"net": net, "shape": shape, "batch": batch, "threads": threads, "optimizer": optimizer}
            reply = client.ask("open", 900, system=system, **given)
            found[system] = {k: v for k, v in reply.items() if k != "ok"}
            if reply["ok"]:
                clients[system], times[system] = client, []
        for number in range(rounds):
            names = list(clients)
            for place in range(len(names)):
                name = names[(number + place) % len(names)]
                time.sleep(pause)
                reply = clients[name].ask("round", 120 + 10 * seconds, seconds=seconds, clock=clock)
                if reply["ok"]:
                    times[name].append(reply["times"])
                else:
                    found[name]["reason"] = reply["reason"]
                    del clients[name]
                    break
        if kernels and "cnncc" in clients:
            reply = clients["cnncc"].ask("kernels", 120, count=kernels)
            found["cnncc"].update({k: v for k, v in reply.items() if k != "ok"})
    for name, lists in times.items():
        every = [1e3 * t for part in lists for t in part]
        if every:
            found[name].update(median=statistics.median(every), least=min(every), steps=len(every))
    settings = {"optimizer": optimizer, "clock": clock, "rounds": rounds, "seconds": seconds}
    return {"net": net, "batch": batch, "shape": shape, "threads": threads, **settings, "systems": found}


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: milliseconds of a step, median (least), and how many times as long as cnncc's."""
    names = list(dict.fromkeys(name for r in results for name in r["systems"]))
    lines = [
        "| network | image | batch | threads | optimizer | " + " | ".join(names) + " |",
        "|---|---|---|---|---|" + "---|" * len(names),
    ]
    for r in results:
        base = r["systems"].get("cnncc", {}).get("median")
        cells = [_cell(r["systems"].get(name, {}), base if name != "cnncc" else None) for name in names]
        image = "x".join(map(str, r["shape"]))
        head = f"| {r['net']} | {image} | {r['batch']} | {r['threads']} | {r['optimizer']} | "
        lines.append(head + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(found: dict[str, Any], base: float | None) -> str:
    if "median" not in found:
        return "-"
    ratio = f", x{found['median'] / base:.2f}" if base else ""
    return f"{found['median']:.1f} ({found['least']:.1f}){ratio}"


def kernel_list(result: dict[str, Any]) -> str:
    """The slowest kernels of cnncc's step, and what all of each algorithm take."""
    ours = result["systems"].get("cnncc", {})
    lines = []
    for row in ours.get("kernels", ()):
        what = row["problem"] or row["ops"]
        mark = "  FALLBACK" if row["fallback"] else ""
        lines.append(
            f"{row['ms']:9.3f} ms {row['percent']:5.1f}%  {row['algorithm']:<24} {what} [{row['layer']}]{mark}"
        )
    for name, (count, ms, percent) in ours.get("algorithms", {}).items():
        lines.append(f"{ms:9.3f} ms {percent:5.1f}%  all {count} of {name}")
    return "\n".join(lines)


def merged(earlier: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Earlier results with new ones in the place of those that they repeat."""

    def key(result: dict[str, Any]) -> tuple[Any, ...]:
        return (*(result[k] for k in ("net", "batch", "threads", "optimizer")), *result["shape"])

    return list({key(result): result for result in (*earlier, *results)}.values())


def main(arguments: list[str] | None = None) -> None:
    """Runs the networks that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--batch", default="", help="images; empty: each network's own")
    parser.add_argument("--size", type=int, help="height and width of images; each network's own unless given")
    parser.add_argument("--against", default=PEERS)
    parser.add_argument("--optimizer", default="sgd", choices=["sgd", "adamw"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each system in each round")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    parser.add_argument("--kernels", type=int, default=0, help="list so many of cnncc's slowest kernels")
    parser.add_argument("--json", action="store_true", help="print the results, write no file")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where results are written")
    options = parser.parse_args(arguments)
    systems = ["cnncc", *filter(None, options.against.split(","))]
    machine = describe_machine()
    suffix = "-cpu-time" if options.clock == "cpu" else ""
    path = options.folder / f"{datetime.date.today():%Y-%m-%d}-{machine_slug(machine)}{suffix}.json"
    results: list[dict[str, Any]] = []
    for net in options.nets.split(","):
        own = NETS[net].shape
        shape = (*own[:-2], options.size, options.size) if options.size else own
        for threads in map(int, options.threads.split(",")):
            for batch in [int(b) for b in options.batch.split(",") if b] or [NETS[net].batch]:
                print(f"{net}, {'x'.join(map(str, shape))}, batch {batch}, {threads} threads", file=sys.stderr)
                given = (options.optimizer, options.rounds, options.seconds, options.clock, options.kernels)
                results.append(measure(net, shape, batch, threads, systems, *given))
                if options.json:
                    continue
                print(table(results[-1:]) + kernel_list(results[-1]), flush=True)
                os.makedirs(options.folder, exist_ok=True)
                earlier = json.loads(path.read_text())["results"] if path.exists() else []
                together = merged(earlier, results[-1:])
                path.write_text(json.dumps({"machine": machine, "results": together}, indent=1) + "\n")
                path.with_suffix(".md").write_text(table(together))
    if options.json:
        print(json.dumps({"machine": machine, "results": results}, indent=1))


if __name__ == "__main__":
    main()
