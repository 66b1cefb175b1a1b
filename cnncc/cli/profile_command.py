"""cnncc profile MODEL: the time of every kernel, next to what the machine could do at best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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

if TYPE_CHECKING:
    from cnncc.profile import Profile

_WIDE = 100  # columns that the table needs; narrower terminals wrap its lines


def show(found: Profile, top: int | None = None) -> None:
    """Prints a profile for people."""
    from cnncc.profile import table

    out = console()
    out.width = max(out.width, _WIDE)
    out.print(table(found, top))


@click.command("profile")
@model_argument
@compile_options
@click.option("-i", "--input", "inputs", multiple=True, help="NAME=file.npy, or a .npz file.  [default: random arrays]")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Batch of random arrays.")
@click.option(
    "--repeat", type=click.IntRange(2), help="Runs that are timed.  [default: those of a second, at least 10]"
)
@click.option("--top", type=click.IntRange(1), help="Only so many kernels, the slowest first.")
@click.option("--trace", "trace_file", type=click.Path(path_type=Path), help="Write a Chrome trace (JSON) here.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), help="Write a page with a roofline chart here.")
@json_option
def command(
    model: Path,
    shapes: Any,
    target: str,
    threads: int | None,
    accuracy: Any,
    inputs: tuple[str, ...],
    batch: int,
    repeat: int | None,
    top: int | None,
    trace_file: Path | None,
    html_file: Path | None,
    as_json: bool,
) -> None:
    """Time every kernel of MODEL (.onnx, or compiled): GFLOP/s, bytes, percent of the roofline, use of the threads.

    The FMA peak and the bandwidths of caches and memory are measured on this machine first.
    """
    from cnncc.profile import profile, write_page, write_trace

    executable = open_model(model, target, threads, shapes, accuracy)
    feeds = read_arrays(inputs) if inputs else random_inputs(executable.inputs, batch=batch)
    found = replace(profile(executable, feeds, repeat), name=model.name)
    if trace_file is not None:
        write_trace(found, trace_file)
    if html_file is not None:
        write_page(found, html_file)
    if as_json:
        print_json(found.to_dict())
    else:
        show(found, top)
