"""Target records: this machine's, found by asking it, and the named ones for cross-compilation."""

from __future__ import annotations

import functools
import platform
import re
from dataclasses import replace
from pathlib import Path

from cnncc.errors import UnsupportedError
from cnncc.targets.target import Target

AVX2 = Target(
    name="avx2", kind="cpu", mcpu="x86-64-v3", triple="x86_64-unknown-linux-gnu", vector_bits=256, vector_registers=16,
    fma=True, l2=512 << 10, gflops_per_core=80.0,
)  # fmt: skip
AVX512 = Target(
    name="avx512", kind="cpu", mcpu="x86-64-v4", triple="x86_64-unknown-linux-gnu", vector_bits=512,
    vector_registers=32, fma=True, l2=1 << 20, gflops_per_core=100.0,
)  # fmt: skip
AVX = Target(
    name="avx", kind="cpu", mcpu="sandybridge", triple="x86_64-unknown-linux-gnu", vector_bits=256, vector_registers=16,
    l2=256 << 10, gflops_per_core=40.0,
)  # fmt: skip
GENERIC = Target(
    name="generic", kind="cpu", mcpu="x86-64", triple="x86_64-unknown-linux-gnu", vector_bits=128, vector_registers=16,
    gflops_per_core=20.0,
)  # fmt: skip
AARCH64 = Target(
    name="aarch64", kind="cpu", mcpu="cortex-a72", triple="aarch64-unknown-linux-gnu", vector_bits=128,
    vector_registers=32, fma=True, gflops_per_core=30.0,
)  # fmt: skip
NAMED: dict[str, Target] = {t.name: t for t in (AVX512, AVX2, AVX, GENERIC, AARCH64)}


def find_target(target: str | Target = "native", threads: int | None = None) -> Target:
    """A target by name or record, for so many threads (default: what this process may use).

    Raises UnsupportedError listing the names where there is no such target.
    """
    from cnncc.runtime.threads import default_threads

    if isinstance(target, Target):
        return target if threads is None else replace(target, threads=threads)
    count = threads if threads is not None else default_threads()
    if count < 1:
        raise UnsupportedError(f"threads must be at least 1, got {count}")
    if target == "native":
        return replace(native(), threads=count)
    if target.split(":")[0] == "cuda":
        from cnncc.targets.cuda.machine import cuda_target

        return cuda_target(target)
    if target not in NAMED:
        raise UnsupportedError(f"target must be native, {', '.join(NAMED)}, cuda or cuda:sm_XX, got {target!r}")
    return replace(NAMED[target], threads=count)


@functools.cache
def native() -> Target:
    """This machine: vector width from the processor's flags, caches and clock from the operating system."""
    machine = platform.machine().lower()
    if machine in ("aarch64", "arm64"):
        base = replace(AARCH64, name="native", triple="", mcpu="")
    else:
        flags = _cpu_flags()
        base = GENERIC
        if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
            base = AVX512
        elif {"avx2", "fma"} <= flags:
            base = AVX2
        elif "avx" in flags:
            base = replace(AVX, fma="fma" in flags)
        base = replace(base, name="native", triple="", mcpu="")
    caches = {level: _cache(level, base_size) for level, base_size in ((1, base.l1), (2, base.l2), (3, base.l3))}
    multiplied = _fmas_per_cycle(base)
    return replace(
        base, l1=caches[1], l2=caches[2], l3=caches[3],
        gflops_per_core=_clock() * base.lanes() * (2 if base.fma else 1) * multiplied,
        unit_bits=base.vector_bits // 2 if multiplied == 1 else 0,
    )  # fmt: skip


def _fmas_per_cycle(target: Target) -> float:
    """Vector multiply-adds a cycle: two of 256 bits; of 512 bits two on Intel's servers, in effect one elsewhere."""
    return 1.0 if target.vector_bits == 512 and "AMD" in _cpuinfo("vendor_id") else 2.0


def _clock() -> float:
    """GHz: the highest clock that the system states, else 3; not the present one, with which decisions would change."""
    try:
        return int(Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").read_text()) / 1e6
    except (OSError, ValueError):
        return 3.0


def processor() -> str:
    """The name of this machine's processor."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


@functools.cache
def _cpuinfo(field: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    match = re.search(rf"^{re.escape(field)}\s*:\s*(.*)$", text, re.MULTILINE)
    return match.group(1).strip() if match else ""


def _cpu_flags() -> frozenset[str]:
    flags = _cpuinfo("flags")
    if flags:
        return frozenset(flags.split())
    from tvm.target import codegen  # no /proc (macOS, Windows): LLVM knows

    return frozenset(str(f) for f in codegen.llvm_get_cpu_features())


def _cache(level: int, default: int) -> int:
    folder = Path("/sys/devices/system/cpu/cpu0/cache")
    for index in sorted(folder.glob("index*")) if folder.exists() else ():
        try:
            if (index / "level").read_text().strip() != str(level) or "Instr" in (index / "type").read_text():
                continue
            text = (index / "size").read_text().strip()
        except OSError:
            continue
        match = re.fullmatch(r"(\d+)([KM])", text)
        if match:
            return int(match.group(1)) << (10 if match.group(2) == "K" else 20)
    return default
