"""cnncc bench MODEL --against torch,onnxruntime,openvino."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnncc.cli.common import ShapeType, console, json_option, print_json
from cnncc.cli.profile_command import show

if TYPE_CHECKING:
    from cnncc.profile import Profile


@click.command("bench")
@click.argument("model")
@click.option(
    "--against",
    default="",
    help="Other systems, separated by commas: torch, torch-channels-last, torch-compile, onnxruntime, openvino, ncnn; "
    "cnncc-strict and cnncc-fast are cnncc at another accuracy, cnncc-loaded a compiled file, "
    "cnncc-without-KIND leaves out a kind of fusion (benchmarks/fusion.py).",
)
@click.option("--shape", "shapes", multiple=True, type=ShapeType(), help="Fix an input's shape; repeatable.")
@click.option("--threads", type=click.IntRange(1), help="Threads of each instance.  [default: the processors]")
@click.option(
    "--instances",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="More than one: throughput of so many runs at once.",
)
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--duration", type=float, default=0.7, show_default=True, help="Seconds per system and round.")
@click.option(
    "--clock", type=click.Choice(["wall", "cpu"]), default="wall", show_default=True, help="cpu: processor time."
)
@click.option("--profile", "with_profile", is_flag=True, help="Also time every kernel, as `cnncc profile` does.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Write a chart to this .png or .svg file.")
@json_option
def command(
    model: str,
    against: str,
    shapes: Any,
    threads: int | None,
    instances: int,
    batch: int,
    rounds: int,
    duration: float,
    clock: Any,
    with_profile: bool,
    plot_file: Path | None,
    as_json: bool,
) -> None:
    """Time MODEL (.onnx file, or module:function that returns a torch module), alone or against other systems.

    Each system runs in its own process, in alternating rounds, with the same number of threads. A ratio above 1 means
    that the other system takes longer; beside it stands its 95 percent confidence interval.
    """
    from cnncc.bench import run_bench, table
    from cnncc.bench.plot import check_plot, plot

    if plot_file is not None:
        check_plot(plot_file)
    names = [n.strip() for n in against.split(",") if n.strip()]
    fixed = {k: tuple(int(d) for d in v) for k, v in dict(shapes).items()} or None
    with console().status("starting") if not as_json else _Quiet() as status:
        result = run_bench(
            *(model, names, threads, rounds, duration),
            shapes=fixed,
            batch=batch,
            clock=clock,
            instances=instances,
            progress=status.update,
        )
        status.update("timing the kernels")
        kernels = _profile(model, fixed, batch, threads) if with_profile else None
    if plot_file is not None:
        plot(result, plot_file)
    if as_json:
        print_json(result.to_dict() | ({"profile": kernels.to_dict()} if kernels else {}))
        return
    console().print(table(result))
    if kernels is not None:
        show(kernels)


def _profile(model: str, shapes: Any, batch: int, threads: int | None) -> Profile:
    """The kernels of what was timed, in this process: the other processes have ended."""
    import tempfile

    import numpy as np

    import cnncc
    from cnncc.bench.model import prepare
    from cnncc.profile import profile

    with tempfile.TemporaryDirectory(prefix="cnncc-bench-") as scratch:
        prepared = prepare(model, shapes, scratch, batch, seed=0)
        executable = cnncc.compile(prepared.onnx, threads=threads, shapes=prepared.shapes)
        with np.load(prepared.feeds) as arrays:
            return replace(profile(executable, dict(arrays)), name=prepared.label)


class _Quiet:
    """Stands where rich's status would."""

    def __enter__(self) -> _Quiet:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def update(self, text: str) -> None:
        """Nothing is shown."""
