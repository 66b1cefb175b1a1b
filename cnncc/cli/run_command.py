"""cnncc run MODEL --input x=image.npy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from cnncc.cli.common import (
    compile_options,
    console,
    json_option,
    model_argument,
    open_model,
    print_json,
    random_inputs,
    read_arrays,
)
from cnncc.cli.profile_command import show


@click.command("run")
@model_argument
@compile_options
@click.option("-i", "--input", "inputs", multiple=True, help="NAME=file.npy, or a .npz file.  [default: random arrays]")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the results to this .npz file.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Batch of random arrays.")
@click.option("--profile", "profiled", is_flag=True, help="Time every kernel; `cnncc profile` has more options.")
@json_option
def command(
    model: Path,
    shapes: Any,
    target: str,
    threads: int | None,
    accuracy: Any,
    inputs: tuple[str, ...],
    output: Path | None,
    batch: int,
    profiled: bool,
    as_json: bool,
) -> None:
    """Run MODEL (.onnx, or compiled) on arrays and print or write what comes out."""
    exe = open_model(model, target, threads, shapes, accuracy)
    feeds = read_arrays(inputs) if inputs else random_inputs(exe.inputs, batch=batch)
    results = exe.run(feeds)
    if output is not None:
        np.savez(output, **{k.replace("/", "_"): v for k, v in results.items()})
    rows = {
        name: {
            "shape": list(a.shape),
            "dtype": str(a.dtype),
            "min": float(a.min()) if a.size else None,
            "max": float(a.max()) if a.size else None,
            "first": a.reshape(-1)[:8].tolist(),
        }
        for name, a in results.items()
    }
    found = None
    if profiled:
        from cnncc.profile import profile

        found = profile(exe, feeds)
    if as_json:
        print_json({"outputs": rows, "profile": found.to_dict()} if found else rows)
        return
    out = console()
    for name, row in rows.items():
        out.print(f"{name}: {row['dtype']}{row['shape']}  min {row['min']}  max {row['max']}")
        out.print(f"  {row['first']}{' ...' if results[name].size > 8 else ''}")
    if found is not None:
        show(found)
