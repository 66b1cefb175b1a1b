"""Generated CUDA source and its host launcher, run on the CPU: g++ compiles the source against cuda_device.hpp.

Unlike `emulate.run_on_cpu` this executes what the device would: grid, predicates, barriers, shuffles, argument order.
"""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnncc.targets.cuda.build import CudaKernel, merge_functions

HEADER = Path(__file__).with_name("cuda_device.hpp")
needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
_CUDA = 2  # DLPack's kDLCUDA
_ENTRY = 'extern "C" __global__'  # where a generated source begins, after TVM's preamble


class Device:
    """A library of kernels that runs on the CPU."""

    def __init__(self, kernels: Sequence[CudaKernel], folder: Path):
        self.module = load([(kernel.source, kernel.functions) for kernel in kernels], folder)
        self._hosts = {kernel.symbol: kernel.host for kernel in kernels}
        for kernel in kernels:
            kernel.host.import_module(self.module)

    def run(self, symbol: str, *arrays: np.ndarray, backwards: bool = False) -> None:
        """Launch through TVM's host function; arrays are changed in place."""
        self.module["run_backwards"](backwards)
        self._hosts[symbol][symbol](*(on_device(array) for array in arrays))


def load(parts: Sequence[tuple[str, str]], folder: Path) -> Any:
    """Device source with its launch metadata, in parts --> a module whose functions launch the kernels on the CPU."""
    import tvm_ffi

    code, library = folder / "kernels.cpp", folder / "kernels.so"
    code.write_text("\n".join([f'#include "{HEADER}"', *(_program(*part) for part in parts)]))
    command = ["g++", "-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-o", str(library), str(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]
    return tvm_ffi.load_module(str(library))


class EmulatedDevice:
    """What `CudaEngine` asks of a device: host memory, and kernels of `load`."""

    def __init__(self, note: Mapping[str, Any], folder: Path):
        """`note`: what a program's notes hold of its device code."""
        sources = "\n".join(source[source.index(_ENTRY) :] for source in note["sources"].values())
        functions = merge_functions(code["functions"] for code in note["code"])
        self._module = load([(sources, functions)], folder)
        self.blocks: dict[int, np.ndarray] = {}

    def module(self, codes: Any) -> list[Any]:
        assert all(cubin[:4] == b"\x7fELF" for cubin, _ in codes)
        return [self._module]

    def allocate(self, nbytes: int) -> int:
        block = np.full(nbytes + 256, 255, np.uint8)  # NaN, for whoever reads what nobody wrote
        address = -(-block.ctypes.data // 256) * 256
        self.blocks[address] = block
        return address

    def free(self, address: int) -> None:
        del self.blocks[address]

    def upload(self, address: int, array: np.ndarray) -> None:
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, array: np.ndarray, address: int) -> None:
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def synchronize(self) -> None:
        pass


def _program(source: str, functions: str) -> str:
    source = source[source.index(_ENTRY) :]
    source = re.sub(r"__shared__ alignas\((\d+)\)", r"alignas(\1) __shared__", source)
    parts = [source]
    for name, info in json.loads(functions)["func_info"].items():
        count = len(info["arg_types"])
        dims = {"blockIdx": ["1", "1", "1"], "threadIdx": ["1", "1", "1"]}
        for place, tag in enumerate(info["launch_param_tags"]):
            index, axis = tag.split(".")
            dims[index]["xyz".index(axis)] = f"unsigned(a[{count + place}].i)"
        grid, block = (", ".join(dims[index]) for index in ("blockIdx", "threadIdx"))
        parts.append(
            f'extern "C" int __tvm_ffi_{name}(void*, const Any* a, int32_t, Any* result) '
            f"{{ *result = {{}}; return run({name}, a, Dim{{{grid}}}, Dim{{{block}}}); }}"
        )
    return "\n".join(parts)


class _DLDevice(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("id", ctypes.c_int32)]


class _DLDataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", _DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _DLManagedTensor(ctypes.Structure):
    _fields_ = [("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


_kept: list[Any] = []  # what the capsules point to lives as long as the tests


def on_device(array: np.ndarray) -> Any:
    """An array as a tensor that says it lies on a CUDA device."""
    import tvm_ffi

    code = {"f": 2, "i": 0, "u": 1, "b": 6}[array.dtype.kind]
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    strides = (ctypes.c_int64 * array.ndim)(*(s // array.itemsize for s in array.strides))
    kind = _DLDataType(code, array.itemsize * 8, 1)
    tensor = _DLTensor(array.ctypes.data, _DLDevice(_CUDA, 0), array.ndim, kind, shape, strides, 0)
    managed = _DLManagedTensor(tensor, None, None)
    _kept.extend((array, shape, strides, managed))
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    capsule = make(ctypes.addressof(managed), b"dltensor", None)

    class Holder:
        def __dlpack__(self, **_: Any) -> Any:
            return capsule

        def __dlpack_device__(self) -> tuple[int, int]:
            return _CUDA, 0

    return tvm_ffi.from_dlpack(Holder())
