"""What a result has to say about the machine it was measured on."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

_SHOWN = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")


def describe_machine() -> dict[str, Any]:
    """Processor, instruction sets of interest, processors this process may use, memory, system. No host name."""
    info = _cpuinfo()
    flags = info.get("flags", "").split()
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": info.get("model name", platform.processor() or platform.machine()),
        "family": " ".join(f"{key} {info[key]}" for key in ("vendor_id", "cpu family", "model") if key in info),
        "instructions": [name for name in _SHOWN if name in flags],
        "processors": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages * size / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def machine_slug(machine: dict[str, Any]) -> str:
    """A file name's part for a machine: processor, widest vectors, number of processors."""
    wide = "avx512" if "avx512f" in machine["instructions"] else "avx2" if "avx2" in machine["instructions"] else "base"
    name = re.sub(r"\(r\)|\(tm\)|processor|cpu|@.*", "", machine["processor"].lower())
    return "-".join(re.findall(r"[a-z0-9]+", name)) + f"-{wide}-{machine['processors']}p"


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
