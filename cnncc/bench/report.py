"""A result as a table for the terminal, or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cnncc.bench.results import BenchResult, SystemResult

if TYPE_CHECKING:
    from rich.table import Table

_LATENCY = ("system", "median\nms", "p90\nms", "p99\nms", "min\nms", "% of\npeak")
_THROUGHPUT = ("system", "images\n/ s", "at\nonce", "median\nms", "p99\nms", "% of\npeak")
_FAR = 1e-3  # differences from the base's results that deserve a warning


def _ms(seconds: float | None) -> str:
    """Milliseconds in at most six characters, up to a minute."""
    if seconds is None:
        return ""
    value = seconds * 1e3
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 1000 else f"{value:.0f}"


def _row(result: BenchResult, system: SystemResult) -> list[str]:
    """The cells of a system that ran: six by the kind of benchmark, then ratio and interval, seconds, memory."""
    compared = system.ratio is not None and system.name != result.base
    sure = compared and system.ratio_low is not None and system.ratio_high is not None
    peak = "" if system.peak_percent is None else f"{system.peak_percent:.0f}"
    name = system.name.replace("-", " ")  # so that long ones break in two
    if result.instances > 1:
        own = [name, _rate(system.images_per_second), str(system.at_once), _ms(system.median), _ms(system.p99), peak]
    else:
        own = [name, *map(_ms, (system.median, system.p90, system.p99, system.minimum)), peak]
    return [
        *own,
        _times(system.ratio) if compared else "",
        f"{_times(system.ratio_low)}-{_times(system.ratio_high)}" if sure else "",
        "" if system.open_seconds is None else f"{system.open_seconds:.1f}",
        "" if system.peak_bytes is None else f"{system.peak_bytes / 1e6:.0f}",
    ]


def _gflop(macs: int) -> str:
    value = 2 * macs / 1e9
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"


def _rate(images: float | None) -> str:
    return "" if images is None else f"{images:.2f}" if images < 100 else f"{images:.0f}"


def heading(result: BenchResult) -> str:
    """Two lines: the model and its input; the threads, the work and the peak."""
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in result.shapes.items())
    threads = f"{result.threads} thread{'s' * (result.threads > 1)}"
    if result.instances > 1:
        threads = f"{result.instances} instances of {threads}"
    work = "" if result.macs is None else f", {_gflop(result.macs)} GFLOP"
    clock = ", processor time" if result.settings.get("clock") == "cpu" else ""
    peak = f", peak {result.peak_flops / 1e9:.0f} GFLOP/s" if result.peak_flops else f", peak: {result.peak_reason}"
    return f"{result.model}: {shapes}\n{threads}{clock}{work}{peak}"


def _notes(result: BenchResult) -> list[str]:
    """Below the table: versions, who did not run and why, results that differ."""
    ran = [system for system in result.systems if system.status == "ok"]
    lines = [", ".join(f"{system.name} {system.version}" for system in ran)] if ran else []
    for system in ran:
        if system.difference is None:
            lines.append(f"{system.name}: its outputs do not correspond to those of {result.base}")
        elif system.difference > _FAR:
            lines.append(f"{system.name}: its outputs differ from those of {result.base} by {system.difference:.1e}")
    return lines + [f"{s.name}: {s.status}: {s.reason}" for s in result.systems if s.status != "ok"]


def table(result: BenchResult) -> Table:
    """A rich table of at most 80 columns; versions stand below it, and systems that did not run, with the reason."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    own = _THROUGHPUT if result.instances > 1 else _LATENCY
    columns = [*own, f"time /\n{result.base or 'base'}", "95 %\nof it", "open\ns", "peak\nMB"]
    made = Table(title=heading(result), title_justify="left", title_style="", box=SIMPLE_HEAD, show_edge=False)
    made.padding = (0, 1, 0, 0)
    for number, name in enumerate(columns):
        made.add_column(
            name, justify="right" if number else "left", no_wrap=number > 0, max_width=None if number else 11
        )
    for system in result.systems:
        if system.status == "ok":
            made.add_row(*_row(result, system))
    made.caption = "\n".join(_notes(result))
    made.caption_justify = "left"
    made.caption_style = ""
    return made


def markdown(results: Sequence[BenchResult]) -> str:
    """Markdown tables, a row for each result and a column for each system, the best in bold.

    Median (least) milliseconds; in a table of its own, where several instances ran at once, images per second with
    the 99th percentile of the milliseconds of a request.
    """
    single = [result for result in results if result.instances == 1]
    several = [result for result in results if result.instances > 1]
    return "\n".join(_markdown(part) for part in (single, several) if part)


def _markdown(results: Sequence[BenchResult]) -> str:
    names = list(dict.fromkeys(system.name for result in results for system in result.systems))
    lines = [
        "| model | threads | GFLOP | peak GFLOP/s | " + " | ".join(names) + " |",
        "|---|---|---|---|" + "---|" * len(names),
    ]
    for result in results:
        ran = [system for system in result.systems if system.median is not None and system.minimum is not None]
        best = min(ran, key=lambda system: _order(result, system), default=None)
        cells = []
        for name in names:
            system = next((system for system in result.systems if system.name == name), None)
            if system is None or system not in ran:
                cells.append("" if system is None else system.status)
                continue
            text = _cell(result, system)
            cells.append(f"**{text}**" if system is best else text)
        work = "" if result.macs is None else _gflop(result.macs)
        peak = "" if result.peak_flops is None else f"{result.peak_flops / 1e9:.0f}"
        threads = f"{result.instances} x {result.threads}" if result.instances > 1 else str(result.threads)
        lines.append(f"| {result.model} | {threads} | {work} | {peak} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _order(result: BenchResult, system: SystemResult) -> float:
    """What the best has least of."""
    return -(system.images_per_second or 0.0) if result.instances > 1 else system.median or 0.0


def _cell(result: BenchResult, system: SystemResult) -> str:
    if result.instances > 1:
        return f"{system.images_per_second or 0.0:.1f} ({(system.p99 or 0.0) * 1e3:.2f})"
    return f"{(system.median or 0.0) * 1e3:.2f} ({(system.minimum or 0.0) * 1e3:.2f})"
