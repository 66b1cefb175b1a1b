"""A profile as one HTML file: summary, roofline chart, all kernels. It loads nothing from elsewhere."""

from __future__ import annotations

from html import escape
from pathlib import Path

from cnncc.profile.chart import roofline
from cnncc.profile.measure import KernelTime, Profile
from cnncc.profile.table import heading, notes

_STYLE = """
body { font: 14px/1.4 sans-serif; color: #222; background: #fff; max-width: 1200px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: 2px 8px; border-bottom: 1px solid #e4e4e4 }
td { white-space: nowrap } th { text-align: left; position: sticky; top: 0; background: #fff }
.n { text-align: right; font-variant-numeric: tabular-nums } .bar { background: #56b4e9; height: 10px }
svg { width: 100%; height: auto } tr.t td { color: #a34a00 } .p { white-space: normal; color: #666; font-size: 12px }
"""
_HEAD = ("#", "layer", "operations", "algorithm", "ms", "%", "", "GFLOP/s", "MB", "GB/s", "roof %", "limit")


def page(profile: Profile) -> str:
    """The HTML text."""
    title, *facts = heading(profile).split("\n")
    lines = "".join(f"<p>{escape(line)}</p>" for line in (*facts, *notes(profile)))
    chart = ""
    if any(row.flops for row in profile.rows):
        chart = (
            roofline(profile) + "<p>A point's area is its share of the time; kernels without products have none.</p>"
        )
    head = [*_HEAD, *(["threads used %"] if profile.threads > 1 else []), "problem"]
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(profile.name)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{lines}{chart}"
        f"<h2>Time by algorithm</h2>{_by_algorithm(profile)}<h2>Kernels</h2>"
        f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>"
        f"{''.join(_row(profile, row) for row in profile.rows)}</table></body></html>\n"
    )


def write_page(profile: Profile, path: Path) -> None:
    """Writes the HTML file."""
    path.write_text(page(profile), encoding="utf-8")


def _row(profile: Profile, row: KernelTime) -> str:
    share = row.seconds / profile.seconds
    bar = f'<div class="bar" style="width:{share * 600:.0f}px"></div>'
    numbers = (f"{row.gflops:.1f}" if row.flops else "", f"{row.nbytes / 1e6:.2f}", f"{row.gbytes_per_second:.1f}")
    used = profile.efficiency(row)
    cells = [
        _number(str(row.index)),
        *(f"<td>{escape(text)}</td>" for text in (row.layer, row.ops, row.algorithm)),
        *(_number(f"{row.seconds * 1e3:.3f}"), _number(f"{100 * share:.1f}"), f"<td>{bar}</td>"),
        *map(_number, (*numbers, f"{row.roof_percent:.0f}")),
        f"<td>{escape(row.limit)}</td>",
        *([] if used is None else [_number(f"{100 * used:.0f}")]),
        f'<td class="p">{escape(row.problem or row.layouts)}</td>',
    ]
    kind = "t" if row.transform else "k"
    return f'<tr class="{kind}">{"".join(cells)}</tr>'


def _number(text: str) -> str:
    return f'<td class="n">{escape(text)}</td>'


def _by_algorithm(profile: Profile) -> str:
    spent: dict[str, list[KernelTime]] = {}
    for row in profile.rows:
        spent.setdefault("layout changes" if row.transform else row.algorithm, []).append(row)
    lines = ["<table><tr><th>algorithm</th><th>kernels</th><th>ms</th><th>%</th><th>roof %</th></tr>"]
    for name, rows in sorted(spent.items(), key=lambda item: -sum(row.seconds for row in item[1])):
        seconds, bound = sum(row.seconds for row in rows), sum(row.bound for row in rows)
        cells = (
            len(rows),
            f"{seconds * 1e3:.3f}",
            f"{100 * seconds / profile.seconds:.1f}",
            f"{100 * bound / seconds:.0f}",
        )
        lines.append(f"<tr><td>{escape(name)}</td>{''.join(_number(str(cell)) for cell in cells)}</tr>")
    return "".join(lines) + "</table>"
