"""A profile as a Chrome trace, for about:tracing and https://ui.perfetto.dev."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cnncc.profile.measure import Profile


def trace(profile: Profile) -> dict[str, Any]:
    """Every timed run: a "complete" event for the run and one for each of its kernel calls (the Trace Event Format)."""
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": f"cnncc: {profile.name}"}},
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": 1, "args": {"name": f"{profile.threads} threads"}},
    ]
    for number, run in enumerate(profile.spans):
        events.append(_event(f"run {number}", "run", run[0, 0], run[-1, 1], {}))
        for row, (begin, end) in zip(profile.rows, run, strict=True):
            took = end - begin
            arguments = {
                "kernel": row.kernel,
                "algorithm": row.algorithm,
                "ops": row.ops,
                "problem": row.problem,
                "layouts": row.layouts,
                "GFLOP/s": round(row.flops / took / 1e9, 2),
                "GB/s": round(row.nbytes / took / 1e9, 2),
                "roof %": round(100 * row.bound / took, 1),
                "limit": row.limit,
            }
            events.append(_event(row.layer, "transform" if row.transform else row.algorithm, begin, end, arguments))
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def write_trace(profile: Profile, path: Path) -> None:
    """Writes the trace as JSON."""
    path.write_text(json.dumps(trace(profile)))


def _event(name: str, category: str, begin: float, end: float, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        **{"name": name, "cat": category, "ph": "X", "pid": 1, "tid": 1},
        **{"ts": float(begin) * 1e6, "dur": float(end - begin) * 1e6, "args": arguments},
    }
