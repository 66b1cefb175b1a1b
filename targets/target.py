"""What a machine is: a record of capabilities. Rules ask the record, never its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Target:
    """A machine as the schedules see it. Sizes in bytes; `threads` is what one call may use."""

    name: str
    kind: Literal["cpu", "cuda"]
    mcpu: str = ""  # LLVM's processor name, or the CUDA architecture ("sm_90")
    triple: str = ""  # LLVM triple; empty: this machine's
    features: tuple[str, ...] = ()  # LLVM feature flags ("+avx2", "+fma")
    vector_bits: int = 128
    vector_registers: int = 16
    fma: bool = False
    threads: int = 1
    l1: int = 32 << 10
    l2: int = 512 << 10
    l3: int = 8 << 20
    shared_memory: int = 0  # CUDA: bytes of shared memory a block may use
    gflops_per_core: float = 50.0  # what a core multiplies and adds at best, for the cost model
    unit_bits: int = 0  # of its multiply-add units, where vectors are wider: vectors of so many bits do as well; 0: not
    gbytes_per_second: float = 20.0  # memory bandwidth of the machine, for the cost model

    def lanes(self, itemsize: int = 4) -> int:
        """Elements of a given size in one vector register."""
        return self.vector_bits // 8 // itemsize

    def rate(self, lanes: int) -> float:
        """GFLOP/s of a core in float32 vectors of so many lanes."""
        return self.gflops_per_core * min(1.0, 32 * lanes / (self.unit_bits or self.vector_bits))

    @property
    def block(self) -> int:
        """Channels in a block of the blocked layout (float32): one register of AVX-512, two of AVX2."""
        return 16 if self.vector_bits >= 256 else 8
