"""A result as a table for the terminal, or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cnncc.bench.rounds import BenchResult, SystemResult

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS = ("system", "median ms", "p90 ms", "min ms", "% of peak", "time / base", "spread", "difference", "open s")


def _row(result: BenchResult, system: SystemResult) -> tuple[str, ...]:
    if system.median is None or system.p90 is None or system.minimum is None:
        return (system.name, f"{system.status}: {system.reason}")
    ratio = "" if system.ratio is None or system.name == result.base else f"{system.ratio:.2f}"
    spread = f"{system.ratio_least:.2f} to {system.ratio_most:.2f}" if ratio else ""
    return (
        f"{system.name} {system.version}",
        f"{system.median * 1e3:.2f}",
        f"{system.p90 * 1e3:.2f}",
        f"{system.minimum * 1e3:.2f}",
        "" if system.peak_percent is None else f"{system.peak_percent:.0f}",
        ratio,
        spread,
        "?" if system.difference is None else f"{system.difference:.1e}",
        "" if system.open_seconds is None else f"{system.open_seconds:.1f}",
    )


def heading(result: BenchResult) -> str:
    """One line: the model, its input, the threads, the work and the peak."""
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in result.shapes.items())
    work = "" if result.macs is None else f", {2 * result.macs / 1e9:.2f} GFLOP"
    clock = ", processor time" if result.settings.get("clock") == "cpu" else ""
    peak = f", peak {result.peak_flops / 1e9:.0f} GFLOP/s" if result.peak_flops else f", peak: {result.peak_reason}"
    return f"{result.model}: {shapes}, {result.threads} thread{'s' * (result.threads > 1)}{clock}{work}{peak}"


def table(result: BenchResult) -> Table:
    """A rich table; systems that did not run stand below it with the reason."""
    from rich.table import Table

    columns = [name.replace("base", result.base or "base") for name in _COLUMNS]
    made = Table(title=heading(result), title_justify="left")
    for number, name in enumerate(columns):
        made.add_column(name, justify="right" if number else "left")
    absent = []
    for system in result.systems:
        row = _row(result, system)
        if len(row) == len(columns):
            made.add_row(*row)
        else:
            absent.append(": ".join(row))
    if absent:
        made.caption = "\n".join(absent)
        made.caption_justify = "left"
    return made


def markdown(results: Sequence[BenchResult]) -> str:
    """A Markdown table: a row for each result, a column for each system; median (least) milliseconds, best in bold."""
    names = list(dict.fromkeys(system.name for result in results for system in result.systems))
    lines = [
        "| model | threads | GFLOP | peak GFLOP/s | " + " | ".join(names) + " |",
        "|---|---|---|---|" + "---|" * len(names),
    ]
    for result in results:
        medians = {system.name: system.median for system in result.systems if system.median is not None}
        best = min(medians.values(), default=None)
        cells = []
        for name in names:
            system = next((system for system in result.systems if system.name == name), None)
            if system is None or system.median is None or system.minimum is None:
                cells.append("" if system is None else system.status)
                continue
            text = f"{system.median * 1e3:.2f} ({system.minimum * 1e3:.2f})"
            cells.append(f"**{text}**" if system.median == best else text)
        work = "" if result.macs is None else f"{2 * result.macs / 1e9:.2f}"
        peak = "" if result.peak_flops is None else f"{result.peak_flops / 1e9:.0f}"
        lines.append(f"| {result.model} | {result.threads} | {work} | {peak} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
