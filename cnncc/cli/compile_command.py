"""cnncc compile MODEL -o FILE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cnncc.cli.common import compile_options, console, json_option, model_argument, need_file, print_json


@click.command("compile")
@model_argument
@compile_options
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Compiled file.  [default: MODEL with .cnncc]")
@click.option("--dump", type=click.Path(path_type=Path), help="Folder for the IR after every pass.")
@click.option("--tuning", help="Database of tuning records, or 'off'.  [default: the user's, where there is one]")
@click.option("--frozen-schedules", is_flag=True, help="Kernels without a tuning record are an error.")
@click.option("--report", is_flag=True, help="Print every kernel.")
@json_option
def command(
    model: Path,
    shapes: Any,
    target: str,
    threads: int | None,
    accuracy: Any,
    output: Path | None,
    dump: Path | None,
    tuning: str | None,
    frozen_schedules: bool,
    report: bool,
    as_json: bool,
) -> None:
    """Compile MODEL (.onnx) to one file that runs without a compiler."""
    import cnncc
    from cnncc.cli.progress import shown_progress

    need_file(model)
    with shown_progress(quiet=as_json) as progress:
        exe = cnncc.compile(
            model, target, threads, dict(shapes) or None, accuracy, progress=progress, dump=dump, tuning=tuning,
            frozen_schedules=frozen_schedules,
        )  # fmt: skip
    file = output or model.with_suffix(".cnncc")
    exe.save(file)
    if as_json:
        print_json(
            {
                "file": str(file),
                "bytes": file.stat().st_size,
                "seconds": progress.seconds,
                "peak_memory": str(exe.peak_memory),
                "kernels": [vars(r) for r in exe.report().rows],
            }
        )
        return
    out = console()
    if report:
        out.print(str(exe.report()), soft_wrap=True)
    megabytes = file.stat().st_size / 1e6
    out.print(f"{file}: {megabytes:.1f} MB, {len(exe.report().rows)} kernels, peak memory {exe.peak_memory} bytes")
