"""A result of a benchmark, for the tests of what is made of one."""

from __future__ import annotations

from dataclasses import replace

from cnncc.bench import BenchResult, SystemResult
from cnncc.bench.machine import describe_machine


def found(instances: int = 1) -> BenchResult:
    """Rows of several systems, one of them missing; of so many instances at once."""
    own = SystemResult("cnncc", "ok", "", "0.1", 1.0, 1e-3, 2e-3, 0.9e-3, 10, 80.0, 1.0, 1.0, 1.0, 0.0, (1e-3,), 3e-3)
    rows = (
        replace(own, images_per_second=1234.0, at_once=instances),
        replace(
            own,
            name="torch-channels-last",
            median=0.123456,
            p90=0.23456,
            p99=1.2345,
            minimum=0.0123,
            open_seconds=123.4,
            ratio=12.345,
            ratio_low=11.25,
            ratio_high=13.5,
            peak_bytes=1_234_000_000,
            images_per_second=0.81,
            at_once=instances,
            difference=0.5,
        ),
        SystemResult("ncnn", "missing", "not installed: ncnn"),
    )
    return BenchResult("m", {"x": (1, 3)}, 2, "cnncc", 10**9, 2e11, "", describe_machine(), rows, {}, instances)
