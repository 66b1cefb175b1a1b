"""The roofline chart of a profile as SVG: kernels by arithmetic intensity and speed, under what the machine allows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from cnncc.profile.measure import KernelTime, Profile

WIDTH, HEIGHT = 960, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 200, 20, 48
# Okabe and Ito's colours, which colour-blind readers can tell apart, then darker ones.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#7f6b00", "#5b2c83", "#444444")


class _Axes:
    """Logarithmic axes: FLOP a byte, and GFLOP/s."""

    def __init__(self, profile: Profile, rows: list[KernelTime]) -> None:
        intensities = [row.flops / row.nbytes for row in rows]
        speeds = [row.gflops for row in rows]
        roof = profile.roof
        ridge = [roof.gflops / level.gbytes_per_second for level in roof.levels]
        self.x = (
            math.floor(math.log10(min([*intensities, *ridge]) / 2)),
            math.ceil(math.log10(max([*intensities, *ridge]) * 2)),
        )
        self.y = (
            math.floor(math.log10(min([*speeds, roof.gflops / 10]))),
            math.ceil(math.log10(max([*speeds, roof.gflops]) * 1.2)),
        )

    def at(self, intensity: float, speed: float) -> tuple[float, float]:
        across = (math.log10(intensity) - self.x[0]) / (self.x[1] - self.x[0])
        up = (math.log10(speed) - self.y[0]) / (self.y[1] - self.y[0])
        return _LEFT + across * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)


def roofline(profile: Profile) -> str:
    """An SVG element. The area of a point is its share of the time; a tooltip names the kernel."""
    rows = [row for row in profile.rows if row.flops]
    axes = _Axes(profile, rows)
    names = list(dict.fromkeys(row.algorithm for row in rows))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
    parts = [*_grid(axes), *_roof(profile, axes)]
    for row in sorted(rows, key=lambda row: -row.seconds):
        x, y = axes.at(row.flops / row.nbytes, row.gflops)
        radius = max(2.5, 40 * math.sqrt(row.seconds / profile.seconds))
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colours[row.algorithm]}" fill-opacity="0.55" '
            f'stroke="{colours[row.algorithm]}"><title>{escape(_tip(row))}</title></circle>'
        )
    for i, name in enumerate(names):
        y = _TOP + 14 + 20 * i
        parts.append(f'<circle cx="{WIDTH - _RIGHT + 22}" cy="{y - 4}" r="6" fill="{colours[name]}"/>')
        parts.append(_text(WIDTH - _RIGHT + 36, y, name))
    style = 'font-family="sans-serif" font-size="12"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {style}>{"".join(parts)}</svg>'


def _tip(row: KernelTime) -> str:
    return (
        f"#{row.index} {row.layer}\n{row.ops} ({row.algorithm})\n{row.problem}\n{row.seconds * 1e3:.3f} ms, "
        f"{row.gflops:.1f} GFLOP/s, {row.flops / row.nbytes:.1f} FLOP a byte, {row.roof_percent:.0f} % of the roof"
    )


def _grid(axes: _Axes) -> Iterator[str]:
    """Lines and numbers at the powers of ten."""
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    for power in range(axes.x[0], axes.x[1] + 1):
        x, _ = axes.at(10.0**power, 10.0 ** axes.y[0])
        yield _line(x, _TOP, x, bottom, 'stroke="#ddd"')
        yield _text(x, bottom + 16, f"{10.0**power:g}", "middle")
    for power in range(axes.y[0], axes.y[1] + 1):
        _, y = axes.at(10.0 ** axes.x[0], 10.0**power)
        yield _line(_LEFT, y, right, y, 'stroke="#ddd"')
        yield _text(_LEFT - 6, y + 4, f"{10.0**power:g}", "end")
    yield _text((_LEFT + right) / 2, HEIGHT - 8, "FLOP a byte of operands and results", "middle")
    yield f'<g transform="rotate(-90)">{_text(-(_TOP + bottom) / 2, 14, "GFLOP/s", "middle")}</g>'


def _roof(profile: Profile, axes: _Axes) -> Iterator[str]:
    """The peak, and a slope for each level."""
    roof, (low, high) = profile.roof, axes.x
    for i, level in enumerate(roof.levels):
        ridge = roof.gflops / level.gbytes_per_second
        # A slope begins where it enters the chart: at its left edge, or at its bottom.
        start = max(10.0**low, 10.0 ** axes.y[0] / level.gbytes_per_second)
        (x1, y1), (x2, y2) = axes.at(start, start * level.gbytes_per_second), axes.at(ridge, roof.gflops)
        yield _line(x1, y1, x2, y2, f'stroke="#222" stroke-dasharray="{i * 3}"')
        # Nearby slopes would write over each other, so each has its label at another height.
        beside = axes.at(start * 1.6 ** (i + 1), start * 1.6 ** (i + 1) * level.gbytes_per_second)
        yield _text(beside[0] + 8, beside[1] + 4, f"{level.name} {level.gbytes_per_second:.0f} GB/s")
    nearest = min(roof.gflops / level.gbytes_per_second for level in roof.levels)
    (x1, y), (x2, _) = axes.at(nearest, roof.gflops), axes.at(10.0**high, roof.gflops)
    yield _line(x1, y, x2, y, 'stroke="#222"')
    yield _text(x2 - 4, y - 6, f"FMA peak {roof.gflops:.0f} GFLOP/s", "end")


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {stroke}/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
