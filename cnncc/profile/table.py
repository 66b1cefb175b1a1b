"""A profile as a table for the terminal: it fits 100 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnncc.profile.measure import KernelTime, Profile

if TYPE_CHECKING:
    from rich.table import Table

_WIDE = 24  # characters of a layer's name; its end says more than its start


def heading(profile: Profile) -> str:
    """What was run, and what the machine can do, on three lines."""
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in profile.shapes.items())
    levels = ", ".join(f"{level.name} {level.gbytes_per_second:.0f} GB/s" for level in profile.roof.levels)
    lines = [
        f"{profile.name}: {shapes}, {profile.threads} thread{'s' * (profile.threads > 1)}",
        f"measured: FMA peak {profile.roof.gflops:.0f} GFLOP/s, {levels}",
        f"a run: median {profile.run_seconds * 1e3:.3f} ms, least {profile.run_least * 1e3:.3f} ms;"
        f" its kernels at their least {profile.seconds * 1e3:.3f} ms, at the roof {profile.bound * 1e3:.3f} ms",
    ]
    return "\n".join(lines)


def notes(profile: Profile) -> list[str]:
    """What the columns do not say: layout changes, threads, what the roof means."""
    changes = [row for row in profile.rows if row.transform]
    spent = 100 * sum(row.seconds for row in changes) / profile.seconds
    listed = ", ".join(f"#{row.index} {row.layouts}" for row in changes)
    lines = [
        f"layout changes: {len(changes)}, {spent:.1f} % of the time ({listed})" if changes else "layout changes: none"
    ]
    if profile.threads > 1:
        used = sum((profile.efficiency(row) or 0.0) * row.seconds for row in profile.rows) / profile.seconds
        lines.append(
            f"threads: {100 * used:.0f} % of their time is used (time on one thread / {profile.threads} x time);"
            f" {profile.busy:.2f} processors busy, threads that look for work among them"
        )
    if profile.taken is not None and profile.taken > 0.05 * profile.threads:
        lines.append(f"disturbed: other work on this machine took {profile.taken:.2f} processors from these threads")
    lines.append(
        "roof: the time that the measured peak and bandwidths allow / the time;"
        " over 100: Winograd, or data in a nearer cache"
    )
    return lines


def table(profile: Profile, top: int | None = None) -> Table:
    """A rich table of all kernels in order, or of the `top` slowest."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(title=heading(profile), title_justify="left", title_style="", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    made.add_column("#", justify="right")
    made.add_column("layer", no_wrap=True)
    made.add_column("algorithm", no_wrap=True)
    for name in ("ms", "%", "GFLOP/s", "MB", "GB/s", "roof %"):
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("limit", no_wrap=True)
    if profile.threads > 1:
        made.add_column("threads\nused %", justify="right", no_wrap=True)
    for row in shown(profile, top):
        made.add_row(*_cells(profile, row))
    made.caption = "\n".join(notes(profile))
    made.caption_justify = "left"
    made.caption_style = ""
    return made


def shown(profile: Profile, top: int | None) -> list[KernelTime]:
    """All rows in order, or the slowest first."""
    if top is None:
        return list(profile.rows)
    return sorted(profile.rows, key=lambda row: -row.seconds)[:top]


def _cells(profile: Profile, row: KernelTime) -> list[str]:
    layer = row.layer if len(row.layer) <= _WIDE else "…" + row.layer[1 - _WIDE :]
    cells = [
        *(str(row.index), layer, row.algorithm[:14]),
        f"{row.seconds * 1e3:.3f}",
        f"{100 * row.seconds / profile.seconds:.1f}",
        f"{row.gflops:.1f}" if row.flops else "",
        f"{row.nbytes / 1e6:.2f}",
        f"{row.gbytes_per_second:.1f}",
        f"{row.roof_percent:.0f}",
        row.limit,
    ]
    used = profile.efficiency(row)
    return cells if used is None else [*cells, f"{100 * used:.0f}"]
