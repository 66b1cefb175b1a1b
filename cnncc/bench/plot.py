"""A result as a chart: bars of the systems' times, or of their images per second."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnncc.bench.report import heading
from cnncc.bench.results import BenchResult, SystemResult
from cnncc.errors import UnsupportedError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg")
OWN, OTHER = "#0072b2", "#b0b0b0"  # bars of cnncc, and of everything else


def check_plot(path: Path) -> None:
    """Raises UnsupportedError where `plot` could not write this file: to be asked before minutes are spent."""
    if path.suffix not in SUFFIXES:
        raise UnsupportedError(f"{path}: a chart's file must end with .png or .svg, got {path.suffix or 'no suffix'}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UnsupportedError("charts need matplotlib, which is not installed: pip install 'cnncc[plot]'")


def pyplot() -> Any:
    """matplotlib.pyplot without a screen, its SVG files the same for the same data, their text as text."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "cnncc", "svg.fonttype": "none", "font.size": 9})
    import matplotlib.pyplot

    return matplotlib.pyplot


def save(figure: Any, path: Path) -> None:
    """Writes a figure and forgets it."""
    figure.savefig(path, dpi=150, bbox_inches="tight", metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot().close(figure)


def plot(result: BenchResult, path: Path) -> None:
    """Writes the chart: a bar for each system that ran, with its ratio to the base and the interval of it.

    Raises UnsupportedError without matplotlib, or for another kind of file than .png and .svg.
    """
    check_plot(path)
    ran = [system for system in result.systems if system.median is not None]
    figure, axes = pyplot().subplots(figsize=(7, 1.2 + 0.42 * max(1, len(ran))))
    _bars(axes, result, ran)
    axes.set_title(heading(result), fontsize=9, loc="left")
    save(figure, path)


def _bars(axes: Axes, result: BenchResult, systems: list[SystemResult]) -> None:
    several = result.instances > 1
    for at, system in enumerate(systems):
        value = (system.images_per_second or 0.0) if several else (system.median or 0.0) * 1e3
        end = value
        axes.barh(at, value, color=OWN if system.name.startswith("cnncc") else OTHER)
        if not several and system.minimum is not None and system.p90 is not None:
            axes.plot([system.minimum * 1e3, system.p90 * 1e3], [at, at], color="black", linewidth=1)
            end = max(value, system.p90 * 1e3)
        axes.annotate(_label(result, system, value), (end, at), (4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(systems)), [system.name for system in systems])
    axes.invert_yaxis()
    axes.margins(x=0.3)
    axes.set_xlim(left=0)
    axes.set_xlabel("images per second" if several else "milliseconds, median (line: least to 90th percentile)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _label(result: BenchResult, system: SystemResult, value: float) -> str:
    text = f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    if system.name == result.base or system.ratio is None:
        return text
    if system.ratio_low is None or system.ratio_high is None:
        return f"{text}  (x {system.ratio:.2f})"
    return f"{text}  (x {system.ratio:.2f}, {system.ratio_low:.2f} to {system.ratio_high:.2f})"
