"""A CPU target as LLVM's code generator wants it."""

from __future__ import annotations

from typing import Any

from cnncc.errors import ScheduleError
from cnncc.runtime.machine import cpu_flags
from cnncc.runtime.native import import_tvm
from cnncc.targets.target import Target

# LLVM's names of features that generated code may use --> their names in /proc/cpuinfo.
FEATURES = {
    **{f: f for f in ("ssse3", "popcnt", "avx", "f16c", "fma", "bmi2", "avx2", "movbe", "adx", "gfni", "vaes")},
    **{f: f for f in ("avx512f", "avx512cd", "avx512dq", "avx512bw", "avx512vl", "avx512ifma", "avx512vbmi")},
    **{f"avx512{f}": f"avx512_{f}" for f in ("vnni", "bf16", "vbmi2", "bitalg", "vpopcntdq", "fp16")},
    **{"sse3": "pni", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "sse4a": "sse4a", "bmi": "bmi1", "lzcnt": "abm"},
    **{"avxvnni": "avx_vnni", "vpclmulqdq": "vpclmulqdq", "pclmul": "pclmulqdq", "sha": "sha_ni", "fma4": "fma4"},
}


def to_tvm(target: Target) -> Any:
    """The record as a tvm.target.Target. No processor, triple or features: this machine's, as it can be used here."""
    import_tvm()
    from tvm.target import Target as TvmTarget

    if target.kind != "cpu":
        raise ScheduleError(f"{target.name}: LLVM code is generated for CPU targets, got kind {target.kind!r}")
    config: dict[str, Any] = {"kind": "llvm", "num-cores": target.threads}
    if target.triple:
        config["mtriple"] = target.triple
    if target.mcpu:
        config["mcpu"] = target.mcpu
    features = target.features
    if not (target.mcpu or target.triple or target.features):
        config["mcpu"], features = _this_machine()
    if features:
        config["mattr"] = list(features)
    return TvmTarget(config)


def _this_machine() -> tuple[str, tuple[str, ...]]:
    """LLVM's name for the processor, and where it differs from what the system reports: a virtual machine may hide
    features, and a processor newer than LLVM has more than the closest one that LLVM knows."""
    from tvm.target import Target as TvmTarget
    from tvm.target import codegen

    cpu = str(codegen.llvm_get_system_cpu())
    flags = cpu_flags()
    if "sse2" not in flags:  # no x86, or the system does not tell
        return cpu, ()
    known = {str(f) for f in codegen.llvm_get_cpu_features(TvmTarget({"kind": "llvm", "mcpu": cpu}))}
    hidden = [f"-{f}" for f, flag in FEATURES.items() if f in known and flag not in flags]
    more = [f"+{f}" for f, flag in FEATURES.items() if f not in known and flag in flags]
    return cpu, (*hidden, *more)
