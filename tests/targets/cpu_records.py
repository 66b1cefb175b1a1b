"""CPU target records for tests of kernels, with fixed numbers, so that choices do not depend on the machine."""

from __future__ import annotations

import platform
from dataclasses import replace

import numpy as np
import pytest

from cnncc.targets.machine import native
from cnncc.targets.target import Target

AVX512 = Target("avx512", "cpu", mcpu="x86-64-v4", vector_bits=512, vector_registers=32, fma=True, threads=2,
                l2=1 << 20, l3=32 << 20, gflops_per_core=117.0, gbytes_per_second=30.0)  # fmt: skip
AVX2 = replace(AVX512, name="avx2", mcpu="x86-64-v3", vector_bits=256, vector_registers=16, l2=512 << 10)
SSE = replace(AVX512, name="sse", mcpu="x86-64-v2", vector_bits=128, vector_registers=16, fma=False)

X86 = platform.machine().lower() in ("x86_64", "amd64")
WIDEST = next((t for t in (AVX512, AVX2) if X86 and t.vector_bits <= native().vector_bits), SSE)

needs_x86 = pytest.mark.skipif(not X86, reason="kernels for x86 do not run here")


def runs(target: Target) -> Target:
    """The target, where this machine has its instructions; skips the test elsewhere."""
    if not X86 or target.vector_bits > native().vector_bits:
        pytest.skip(f"this machine does not run {target.name}")
    return target


def normal(*shape: int) -> np.ndarray:
    """Seeded numbers N(0, 1)."""
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)
