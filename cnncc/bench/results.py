"""What a benchmark found: a record per system, and the statistics that lead to it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

_RESAMPLES = 2000


@dataclass(frozen=True)
class SystemResult:
    """One system. Times in seconds over all runs of all rounds; without runs, `status` and `reason` say why.

    Where several instances ran at once, times are those of a request, from its start to its end.
    """

    name: str
    status: str  # "ok", "missing" (not installed, or the model's form does not suit it) or "failed"
    reason: str = ""
    version: str = ""
    open_seconds: float | None = None  # importing, loading and compiling
    median: float | None = None
    p90: float | None = None
    minimum: float | None = None
    runs: int = 0
    peak_percent: float | None = None  # FLOP by the definition / time / measured peak; Winograd can pass 100
    ratio: float | None = None  # this time / the base's time, round by round: the middle, the least, the most
    ratio_least: float | None = None
    ratio_most: float | None = None
    difference: float | None = None  # largest |output - the base's output|, relative to the largest |output|
    round_medians: tuple[float, ...] = ()
    p99: float | None = None
    ratio_low: float | None = None  # 95 percent confidence interval of the ratio (see `interval`)
    ratio_high: float | None = None
    peak_bytes: int | None = None  # most memory resident at a time beyond that of a bare worker, opening included
    held_bytes: int | None = None  # memory resident after the last round, beyond that of a bare worker
    images_per_second: float | None = None
    at_once: int = 1  # requests that were running at any time


@dataclass(frozen=True)
class BenchResult:
    """What run_bench found."""

    model: str
    shapes: dict[str, tuple[int, ...]]
    threads: int  # of an instance
    base: str  # the system that ratios and differences refer to
    macs: int | None
    peak_flops: float | None  # FLOP/s of all threads, median over the rounds
    peak_reason: str
    machine: dict[str, Any]
    systems: tuple[SystemResult, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    instances: int = 1

    def __getitem__(self, name: str) -> SystemResult:
        return next(system for system in self.systems if system.name == name)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> BenchResult:
        """Inverse of to_dict, also of records that lack newer fields."""
        return BenchResult(**{**data, "systems": tuple(SystemResult(**system) for system in data["systems"])})


@dataclass(frozen=True)
class Round:
    """One system in one round: seconds of each run; the runs (parts of them count) that were done in `elapsed` seconds
    in which `at_once` were always running."""

    times: list[float]
    elapsed: float
    done: float
    at_once: int = 1

    @property
    def pace(self) -> float:
        """What ratios compare: the median run, or where several run at once the seconds that a run adds."""
        return statistics.median(self.times) if self.at_once == 1 else self.elapsed / self.done


def interval(own: Sequence[float], base: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """The 95 percent confidence interval of the median over rounds of own / base; None with a single round.

    By the bootstrap (Efron 1979): rounds are drawn with replacement, a system's round always with the base's of the
    same number, since what disturbs a round disturbs both; the interval is from the 2.5th to the 97.5th percentile of
    the medians so obtained. It knows nothing of what did not vary between the rounds (the machine, the process).
    """
    ratios = np.asarray(own, np.float64) / np.asarray(base, np.float64)
    if len(ratios) < 2:
        return None
    drawn = np.random.default_rng(seed).integers(0, len(ratios), (_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), (0.025, 0.975))
    return float(low), float(high)


def difference(outputs: Sequence[np.ndarray], base: Sequence[np.ndarray]) -> float | None:
    """The largest difference relative to the base's largest magnitude; None where the outputs do not correspond."""
    if len(outputs) != len(base) or any(a.size != b.size for a, b in zip(outputs, base, strict=True)):
        return None
    worst = 0.0
    for a, b in zip(outputs, base, strict=True):
        wide = b.astype(np.float64).ravel()
        largest = float(np.abs(wide).max(initial=0.0)) or 1.0
        worst = max(worst, float(np.abs(a.astype(np.float64).ravel() - wide).max(initial=0.0)) / largest)
    return worst


def summarise(
    name: str, opened: dict[str, Any], rounds: Sequence[Round], base: Sequence[Round], flop: float | None, batch: int
) -> SystemResult:
    """The record of a system from its rounds and the base's. `flop`: work of a run in seconds at the peak."""
    everything = np.sort(np.concatenate([r.times for r in rounds]))
    paces, others = [r.pace for r in rounds], [r.pace for r in base]
    ratios = [own / other for own, other in zip(paces, others, strict=True)]
    sure = interval(paces, others)
    median = float(np.median(everything))
    at_once = rounds[0].at_once
    pace = median if at_once == 1 else statistics.median(paces)
    return SystemResult(
        name,
        "ok",
        version=opened["version"],
        open_seconds=opened["seconds"],
        median=median,
        p90=float(np.quantile(everything, 0.9)),
        minimum=float(everything[0]),
        runs=len(everything),
        peak_percent=None if flop is None else 100 * flop / pace,
        ratio=statistics.median(ratios),
        ratio_least=min(ratios),
        ratio_most=max(ratios),
        round_medians=tuple(paces),
        p99=float(np.quantile(everything, 0.99)),
        ratio_low=sure[0] if sure else None,
        ratio_high=sure[1] if sure else None,
        images_per_second=batch / pace,
        at_once=at_once,
    )
