"""CUDA machines as target records: what a block may use, how many multiprocessors there are, what they reach at best.

The figures are those of the data sheets, for the best-known card of each architecture; they steer tile choice and the
cost model, never correctness. Sources: CUDA C++ Programming Guide, table "Technical Specifications per Compute
Capability" (limits), and the cards' data sheets (multiprocessors, float32 TFLOP/s, memory bandwidth, L2).
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass

from cnncc.errors import ScheduleError
from cnncc.targets.target import Target

THREADS_PER_BLOCK = 1024
WARP = 32
REGISTERS_PER_THREAD = 255
STATIC_SHARED_MEMORY = 48 << 10  # what a block may declare without opting in, on every architecture
GRID_X = 2**31 - 1
GRID_YZ = 65535
FLOAT4 = 4  # floats in the widest load of a thread


@dataclass(frozen=True)
class _Card:
    """The card that stands for an architecture."""

    name: str
    multiprocessors: int
    tflops: float
    gbytes_per_second: float
    l2: int


_CARDS = {
    75: _Card("T4", 40, 8.1, 320.0, 4 << 20),
    80: _Card("A100", 108, 19.5, 1555.0, 40 << 20),
    86: _Card("RTX 3090", 82, 35.6, 936.0, 6 << 20),
    87: _Card("Jetson AGX Orin", 16, 5.3, 205.0, 4 << 20),
    88: _Card("Ampere, compute capability 8.8", 16, 5.3, 205.0, 4 << 20),
    89: _Card("RTX 4090", 128, 82.6, 1008.0, 72 << 20),
    90: _Card("H100 SXM", 132, 66.9, 3350.0, 50 << 20),
    100: _Card("B200", 148, 74.4, 8000.0, 126 << 20),
    103: _Card("B300", 148, 74.4, 8000.0, 126 << 20),
    110: _Card("Jetson Thor", 20, 8.1, 273.0, 32 << 20),
    120: _Card("RTX 5090", 170, 104.8, 1792.0, 96 << 20),
    121: _Card("GB10", 48, 31.0, 273.0, 24 << 20),
}
ARCHITECTURES = tuple(f"sm_{number}" for number in _CARDS)
DEFAULT = "sm_90"  # "cuda" on a machine without a device


def cuda_target(text: str) -> Target:
    """ "cuda" or "cuda:sm_90" --> target record. "cuda" alone is this machine's device, or sm_90 where there is none.

    Raises ScheduleError where the text names no architecture that the CUDA compiler still knows.
    """
    match = re.fullmatch(r"cuda(?::(?:sm_)?(\d+)[af]?)?", text.strip())
    if match is None:
        raise ScheduleError(f"CUDA target: must look like 'cuda' or 'cuda:sm_90', got {text!r}")
    arch = f"sm_{match.group(1)}" if match.group(1) else (device_architecture() or DEFAULT)
    number = int(arch[3:])
    if number not in _CARDS:
        raise ScheduleError(f"CUDA target: the architecture must be one of {', '.join(ARCHITECTURES)}, got {arch!r}")
    card = _CARDS[number]
    return Target(
        name=f"cuda:{arch}",
        kind="cuda",
        mcpu=arch,
        vector_bits=128,
        vector_registers=REGISTERS_PER_THREAD,
        fma=True,
        threads=card.multiprocessors,
        l1=(64 << 10) if number == 75 else (128 << 10),
        l2=card.l2,
        l3=0,
        shared_memory=STATIC_SHARED_MEMORY,
        gflops_per_core=card.tflops * 1e3 / card.multiprocessors,
        gbytes_per_second=card.gbytes_per_second,
    )


def missing_device() -> str | None:
    """Why no kernel can be launched on this machine, in words, or None where a device is ready."""
    driver = _driver()
    if driver is None:
        return "this machine has no CUDA driver (libcuda.so.1)"
    status = driver.cuInit(0)
    if status != 0:
        return f"the CUDA driver does not start (cuInit returned {status})"
    count = ctypes.c_int(0)
    driver.cuDeviceGetCount(ctypes.byref(count))
    return None if count.value else "the CUDA driver sees no device"


def device_architecture() -> str | None:
    """The architecture of the first device ("sm_90"), or None where there is none."""
    driver = _driver()
    if driver is None or missing_device() is not None:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), 0)
    # CUdevice_attribute: 75 and 76 are COMPUTE_CAPABILITY_MAJOR and _MINOR.
    driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    return f"sm_{major.value}{minor.value}"


def _driver() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
