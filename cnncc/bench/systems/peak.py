"""The FMA peak of the machine, measured like a system so that it shares the rounds."""

from __future__ import annotations

import importlib.util

from cnncc.bench.systems import MissingError


def measure(threads: int) -> float:
    """FLOP/s of a register-only loop on a number of threads."""
    if importlib.util.find_spec("cnncc.runtime.peak") is None:
        raise MissingError("cnncc.runtime.peak is not there")
    from cnncc.runtime.peak import measure_peak

    # Long enough for the threads to be spread over the processors, which takes the system some milliseconds.
    return 1e9 * measure_peak(threads, rounds=150)
