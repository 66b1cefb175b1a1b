"""The roofline of this machine: its FMA peak, and the bandwidth of each place that data may come from, all measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cnncc.runtime.threads import Dispatcher
from cnncc.targets.machine import native

_MOST = 1 << 30  # bytes that the measurement of the memory walks over, at most


@dataclass(frozen=True)
class Level:
    """A cache or the memory: what it is called, how many bytes it holds (of a kernel's data), GB/s measured."""

    name: str
    capacity: float
    gbytes_per_second: float


@dataclass(frozen=True)
class Roof:
    """What `threads` threads can do at best: GFLOP/s, and the levels from the smallest to the memory."""

    threads: int
    gflops: float
    levels: tuple[Level, ...]

    def level(self, footprint: float) -> Level:
        """Where data of so many bytes can stay between its uses."""
        return next(level for level in self.levels if footprint <= level.capacity)

    def bound(self, flops: float, weights: float, values: float, footprint: float) -> tuple[float, str]:
        """The least seconds of a kernel, and what sets them: "compute" or the name of a level.

        `weights`: bytes of constants, which a run of the whole model (`footprint` bytes) passes over before it comes
        back to them; `values`: bytes of everything else, written shortly before or read shortly after.
        """
        cold, warm = self.level(footprint), self.level(values)
        parts = {cold.name: weights / cold.gbytes_per_second / 1e9}
        parts[warm.name] = parts.get(warm.name, 0.0) + values / warm.gbytes_per_second / 1e9
        moved, work = sum(parts.values()), flops / self.gflops / 1e9
        if work >= moved:
            return work, "compute"
        return moved, max(parts, key=lambda name: parts[name])


@lru_cache(maxsize=4)
def measure_roof(threads: int) -> Roof:
    """Measures the machine that this process runs on, once for each number of threads; takes some seconds."""
    l2, l3 = native().l2, native().l3
    made: list[Roof] = []

    def measure() -> None:
        from cnncc.profile.bandwidth import measure_bandwidth
        from cnncc.runtime.peak import measure_peak

        sizes = {"L2": (l2 * threads, l2 * threads // 2)}
        if l3 > 2 * l2 * threads:
            sizes["L3"] = (l3 // 2, l3 // 4)
        sizes["memory"] = (0, min(_MOST, max(4 * l3, 64 << 20)))
        levels, peaks = [], []
        for name, (capacity, walked) in sizes.items():
            # The peak several times: other work on the machine may take processors away for a while.
            peaks.append(measure_peak(threads, rounds=15))
            levels.append(Level(name, capacity or float("inf"), measure_bandwidth(threads, walked)))
        made.append(Roof(threads, max(peaks), tuple(levels)))

    dispatcher = Dispatcher(threads)  # a thread with a pool of that size
    dispatcher.call(measure)
    dispatcher.stop(1.0)
    return made[0]
