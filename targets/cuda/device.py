"""A CUDA device as running a model needs it: memory, copies, and kernels loaded from cubins.

Memory goes through NVIDIA's runtime library, kernels through TVM's CUDA runtime; nothing here imports a compiler.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cnncc.errors import RuntimeFault
from cnncc.runtime import native
from cnncc.targets.cuda.machine import missing_device

CUDART = "libcudart.so.13"  # the one that TVM's CUDA runtime is linked against
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind


class CudaDevice:
    """The first CUDA device. Raises RuntimeFault in words where this machine cannot run kernels."""

    def __init__(self) -> None:
        reason = missing_device()
        if reason is not None:
            raise RuntimeFault(f"CUDA: {reason}; a model for cuda can be compiled here, but not run")
        self._cuda = load_runtime()

    def module(self, codes: Iterable[tuple[bytes, str]]) -> list[Any]:
        """Cubins with their launch metadata --> modules whose functions launch the kernels."""
        ffi = native.import_ffi()
        create = ffi.get_global_func("ffi.Module.create.cuda", allow_missing=True)
        if create is None:
            raise RuntimeFault("CUDA: TVM's CUDA runtime registers no loader; reinstall apache-tvm")
        parse = ffi.get_global_func("runtime.LoadMetaDataFromJSON")
        return [create(cubin, "cubin", parse(functions), {}) for cubin, functions in codes]

    def allocate(self, nbytes: int) -> int:
        """Address of fresh memory (256-byte aligned). Raises RuntimeFault where the device has no room."""
        address = ctypes.c_void_p()
        self._check(self._cuda.cudaMalloc(ctypes.byref(address), ctypes.c_size_t(max(nbytes, 1))), f"{nbytes} bytes")
        return int(address.value or 0)

    def free(self, address: int) -> None:
        """Gives memory back."""
        self._check(self._cuda.cudaFree(ctypes.c_void_p(address)), "free")

    def upload(self, address: int, array: np.ndarray) -> None:
        """Row-major array --> device memory."""
        self._copy(address, array.ctypes.data, array.nbytes, _TO_DEVICE)

    def download(self, array: np.ndarray, address: int) -> None:
        """Device memory --> row-major array; waits for the kernels before."""
        self._copy(array.ctypes.data, address, array.nbytes, _TO_HOST)

    def synchronize(self) -> None:
        """Waits for all kernels. Raises RuntimeFault where one failed."""
        self._check(self._cuda.cudaDeviceSynchronize(), "a kernel")

    def _copy(self, to: int, source: int, nbytes: int, kind: int) -> None:
        if nbytes:
            size = ctypes.c_size_t(nbytes)
            self._check(self._cuda.cudaMemcpy(ctypes.c_void_p(to), ctypes.c_void_p(source), size, kind), "a copy")

    def _check(self, status: int, what: str) -> None:
        if status:
            self._cuda.cudaGetErrorString.restype = ctypes.c_char_p
            raise RuntimeFault(f"CUDA: {what} failed: {self._cuda.cudaGetErrorString(status).decode()} ({status})")


def load_runtime() -> ctypes.CDLL:
    """NVIDIA's runtime library, with TVM's CUDA runtime loaded on it. Raises RuntimeFault naming what is missing."""
    native.runtime()
    candidates = [CUDART]
    for folder in sys.path:
        candidates += map(str, Path(folder or ".").glob(f"nvidia/*/lib/{CUDART}"))
    for candidate in candidates:
        try:
            cuda = ctypes.CDLL(candidate, ctypes.RTLD_GLOBAL)
            break
        except OSError:
            continue
    else:
        raise RuntimeFault(f"CUDA: NVIDIA's runtime library {CUDART} is not installed: pip install nvidia-cuda-runtime")
    spec = importlib.util.find_spec("tvm")
    if spec is None or spec.origin is None:
        raise RuntimeFault("apache-tvm is not installed: compiled models need its runtime library")
    library = Path(spec.origin).parent / "lib" / "libtvm_runtime_cuda.so"
    try:
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise RuntimeFault(f"CUDA: TVM's CUDA runtime does not load: {error}") from None
    return cuda
