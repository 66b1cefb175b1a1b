"""cnncc bench MODEL --against torch,onnxruntime,openvino."""

from __future__ import annotations

from typing import Any

import click

from cnncc.cli.common import ShapeType, console, json_option, print_json


@click.command("bench")
@click.argument("model")
@click.option(
    "--against",
    default="",
    help="Other systems, separated by commas: torch, torch-compile, onnxruntime, openvino, ncnn.",
)
@click.option("--shape", "shapes", multiple=True, type=ShapeType(), help="Fix an input's shape; repeatable.")
@click.option("--threads", type=click.IntRange(1), help="Threads on every side.  [default: the processors]")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--duration", type=float, default=0.7, show_default=True, help="Seconds per system and round.")
@click.option(
    "--clock", type=click.Choice(["wall", "cpu"]), default="wall", show_default=True, help="cpu: processor time."
)
@json_option
def command(
    model: str,
    against: str,
    shapes: Any,
    threads: int | None,
    batch: int,
    rounds: int,
    duration: float,
    clock: Any,
    as_json: bool,
) -> None:
    """Time MODEL (.onnx file, or module:function that returns a torch module), alone or against other systems.

    Each system runs in its own process, in alternating rounds, with the same number of threads.
    """
    from cnncc.bench import run_bench, table

    out = console()
    names = [n.strip() for n in against.split(",") if n.strip()]
    fixed = {k: tuple(int(d) for d in v) for k, v in dict(shapes).items()} or None
    if as_json:
        print_json(run_bench(model, names, threads, rounds, duration, shapes=fixed, batch=batch, clock=clock).to_dict())
        return
    with out.status("starting") as status:
        result = run_bench(
            model, names, threads, rounds, duration, shapes=fixed, batch=batch, clock=clock, progress=status.update
        )
    out.print(table(result))
