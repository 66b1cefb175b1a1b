"""cnncc demo: compile and run two real networks."""

from __future__ import annotations

from typing import Any

import click

from cnncc.cli.common import console, json_option, print_json


@click.command("demo")
@click.option("--threads", type=click.IntRange(1), help="Threads on every side.  [default: the processors]")
@click.option("--quick", is_flag=True, help="Leave out the comparison with other systems.")
@json_option
def command(threads: int | None, quick: bool, as_json: bool) -> None:
    """Compile a trained digit classifier and a ResNet-18, draw what they see, and show how fast they are."""
    from cnncc.demo import show
    from cnncc.runtime.threads import default_threads

    count = threads or default_threads()
    out = console()
    if as_json:
        print_json({"digits": show.digits(count).to_dict(), "resnet18": show.resnet(count, quick).to_dict()})
        return
    digits = show.digits(count)
    out.print("\n[bold]A digit classifier[/bold], trained by cnncc on 1,400 images (cnncc/demo/train_digits.py)\n")
    for line in show.drawn(digits, colour=out.color_system is not None):
        out.print(line)
    out.print(f"\n{digits.right} of {len(digits.predictions)} right; {digits.microseconds:.0f} microseconds an image\n")
    out.print(_stages(digits.seconds))
    out.print(
        f"\n[bold]ResNet-18[/bold], 224 x 224, seeded weights, batch 1, {count} thread{'s' if count > 1 else ''}\n"
    )
    with out.status("compiling") as status:
        result = show.resnet(count, quick, status.update)
    out.print(_stages(result.seconds))
    out.print(
        f"\n{result.milliseconds:.2f} ms an image: {result.gflops:.0f} GFLOP/s by the definition, {result.percent:.0f} "
        f"percent of the FMA peak measured beside it ({result.peak:.0f} GFLOP/s); Winograd can pass 100"
    )
    out.print(f"peak memory {result.peak_memory / 1e6:.1f} MB, weights included\n")
    if result.comparison is not None:
        from cnncc.bench import table

        out.print(table(result.comparison))
    elif not quick:
        out.print("Install torch or onnxruntime to see them beside it: pip install 'cnncc\\[bench]'")


def _stages(seconds: dict[str, float]) -> Any:
    from rich.table import Table

    grid = Table(title="compilation", title_justify="left")
    grid.add_column("stage")
    grid.add_column("ms", justify="right")
    for name, value in seconds.items():
        if value >= 0.0005:
            grid.add_row(name, f"{value * 1e3:.0f}")
    grid.add_row("total", f"{sum(seconds.values()) * 1e3:.0f}")
    return grid
