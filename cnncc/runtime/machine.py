"""This machine, as far as a compiled model must know it: the architecture and what its processor can do."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

from cnncc.errors import RuntimeFault

_ELF_MACHINES = {62: ("x86_64", "amd64"), 183: ("aarch64", "arm64")}


@functools.cache
def cpu_flags() -> frozenset[str]:
    """The processor's features as /proc/cpuinfo spells them; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def check_object(symbol: str, data: bytes) -> None:
    """Raises RuntimeFault where an object file is for another kind of machine, or is none."""
    if data[:5] != b"\x7fELF\x02" or len(data) < 20:
        raise RuntimeFault(f"{symbol}: kernels must be 64-bit ELF objects, got {data[:4]!r}")
    kind = int.from_bytes(data[18:20], "little")
    if platform.machine().lower() not in _ELF_MACHINES.get(kind, ()):
        names = _ELF_MACHINES.get(kind, (f"ELF machine {kind}",))
        raise RuntimeFault(f"{symbol}: compiled for {names[0]}, this machine is {platform.machine()}")


def check_features(what: str, needed: tuple[str, ...]) -> None:
    """Raises RuntimeFault naming the CPU features that are needed and that this machine lacks."""
    present = cpu_flags()
    missing = [f for f in needed if f not in present]
    if present and missing:
        raise RuntimeFault(
            f"{what}: it needs CPU features that this machine lacks: {', '.join(missing)}; compile it for this machine"
        )
