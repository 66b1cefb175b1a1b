"""cnncc tune MODEL --budget 60."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cnncc.cli.common import compile_options, console, json_option, model_argument, need_file, print_json


@click.command("tune")
@model_argument
@compile_options
@click.option("--budget", type=click.FloatRange(min=0), default=120.0, show_default=True, help="Seconds of measuring.")
@click.option("--database", type=click.Path(path_type=Path), help="File of the records.  [default: the user's]")
@json_option
def command(
    model: Path,
    shapes: Any,
    target: str,
    threads: int | None,
    accuracy: Any,
    budget: float,
    database: Path | None,
    as_json: bool,
) -> None:
    """Measure the kernels of MODEL (.onnx) on this machine, and keep what beats the defaults for later compilations.

    What was measured is kept at any time: stop with Ctrl-C, and the next call goes on from there.
    """
    from cnncc.tune.model import tune

    need_file(model)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    err = Console(stderr=True)
    try:
        with Progress(*columns, console=err, transient=True, disable=as_json or not err.is_terminal) as bar:
            watch = _watch(bar, budget)
            result = tune(model, target, threads, dict(shapes) or None, accuracy, budget, database, watch=watch)
    except KeyboardInterrupt:
        err.print("what was measured is kept: the next call goes on from there")
        raise
    if as_json:
        print_json(_as_data(result))
        return
    _show(result)


def _watch(bar: Progress, budget: float) -> Any:
    """Shows the kernel, how many choices were measured, and the best so far; the bar is the budget."""
    import time

    from cnncc.tune.search import Watch

    line = bar.add_task("reading the model", total=budget)
    start, place, count = time.perf_counter(), "", 0

    def on_kernel(done: int, total: int, task: Any) -> None:
        nonlocal place, count
        place, count = f"kernel {done + 1}/{total}", 0
        bar.update(line, description=f"{place}  {task.name[0]}")

    def on_trial(task: Any, choice: Any, outcome: Any, best: float) -> None:
        nonlocal count
        count += 1
        description = f"{place}  best {best:.2f}x of {count}  {task.name[0]}"
        bar.update(line, description=description, completed=min(budget, time.perf_counter() - start))

    return Watch(on_kernel, on_trial)


def _as_data(result: Any) -> dict[str, Any]:
    rows = []
    for task, verdict in zip(result.tasks, result.verdicts, strict=True):
        row: dict[str, Any] = {
            "problem": task.name[0],
            "region": task.name[1],
            "layer": task.layer,
            "count": task.count,
        }
        if verdict is not None:
            best = verdict.best
            row |= {"tried": verdict.tried, "default": str(verdict.default.choice), "choice": str(best.choice)}
            row |= {"default_seconds": verdict.default.seconds, "seconds": best.seconds, "kept": best.kept}
            row["gain"] = dict(zip(("low", "median", "high"), best.gain, strict=True))
        elif task.name in result.failures:
            row["failure"] = result.failures[task.name]
        rows.append(row)
    return {
        "database": str(result.database),
        "kernels": rows,
        "network": None if result.network is None else vars(result.network),
    }


def _show(result: Any) -> None:
    out = console()
    table = Table("kernel", "runs", "measured", "default", "tuned", "gain", "choice")
    for task, verdict in zip(result.tasks, result.verdicts, strict=True):
        name = " + ".join(filter(None, task.name))
        if verdict is None:
            reason = result.failures.get(task.name, "not reached within the budget")
            table.add_row(name, str(task.count), "0", "", "", "", escape(reason))
            continue
        best = verdict.best
        tuned, gain = ("", "") if not best.kept else (_time(best.seconds), _interval(best.gain))
        choice = str(best.choice) if best.kept else "default"
        table.add_row(name, str(task.count), str(verdict.tried), _time(verdict.default.seconds), tuned, gain, choice)
    out.print(table)
    reached = sum(v is not None for v in result.verdicts)
    kept = sum(v is not None and v.best.kept for v in result.verdicts)
    out.print(
        f"{kept} of {reached} kernels beat their default beyond noise; records in {result.database}", markup=False
    )
    left = len(result.tasks) - reached - len(result.failures)
    if left:
        out.print(f"{left} kernels were not reached: call again, tuning goes on", markup=False)
    if result.network is None:
        out.print("the network runs as before")
    else:
        network = result.network
        times = f"{_time(network.default)} with the defaults, {_time(network.tuned)} tuned"
        out.print(f"the network: {times}, gain {_interval(network.gain)}", markup=False)
        if network.gain[2] < 1:
            out.print("it is slower, though its kernels alone are faster: compile it with --tuning off", markup=False)


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def _interval(gain: tuple[float, float, float]) -> str:
    low, middle, high = gain
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"
