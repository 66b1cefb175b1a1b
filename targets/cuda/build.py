"""Scheduled PrimFunc --> CUDA source, host code that launches it, and a cubin, with what each kernel uses.

TVM generates the source; NVIDIA's nvcc compiles it. Neither needs a device.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from cnncc.errors import ScheduleError
from cnncc.targets.cuda.machine import THREADS_PER_BLOCK, WARP
from cnncc.targets.target import Target


@dataclass(frozen=True)
class KernelResources:
    """What the assembler says of one kernel: registers of a thread, bytes spilled, static shared memory of a block."""

    name: str
    registers: int
    spill_stores: int
    spill_loads: int
    shared: int


@dataclass(frozen=True)
class CudaKernel:
    """A lowered kernel: device source, what a loader must know to launch it, and the host code that does.

    `functions` is JSON as runtime.LoadMetaDataFromJSON takes it: argument types and launch parameters by entry.
    `host` is an LLVM module with the packed function `symbol`, which checks arguments, computes the grid and
    launches; `host.write_to_file("k.o", "o")` gives an object file.
    """

    symbol: str
    source: str
    functions: str
    host: Any


@dataclass(frozen=True)
class DeviceCode:
    """Compiled kernels: the cubin, the launch metadata of its entries, and what each entry uses."""

    cubin: bytes
    functions: str
    resources: tuple[KernelResources, ...]


# Unrolling stays with nvcc (#pragma unroll): the source is short and can be read. TVM's pass for common
# subexpressions emits names that nothing uses.
LOWERING = {"tirx.disable_cse_tir": True, "tirx.UnrollLoop": {"explicit_unroll": False}}

_CREATE = "ffi.Module.create.cuda"
_creating = threading.Lock()  # the hook on _CREATE is global to the process


def tvm_target(target: Target) -> Any:
    """Target record --> TVM target with an LLVM host."""
    import tvm

    return tvm.target.Target(
        {
            "kind": "cuda",
            "arch": target.mcpu,
            "max_threads_per_block": THREADS_PER_BLOCK,
            "max_shared_memory_per_block": target.shared_memory,
            "thread_warp_size": WARP,
            "host": {"kind": "llvm"},
        }
    )


def build(prim_func: Any, target: Target, symbol: str) -> CudaKernel:
    """Lower a scheduled PrimFunc: device source, and a host function named `symbol` that launches it."""
    import tvm
    from tvm.s_tir.pipeline import default_s_tir_pipeline
    from tvm.tirx.build import codegen_build, split_host_device_mods

    machine = tvm_target(target)
    mod = tvm.IRModule({symbol: narrow_indices(prim_func).with_attr("global_symbol", symbol)})
    pipeline, host_passes, device_passes = default_s_tir_pipeline()
    with tvm.transform.PassContext(config=LOWERING):
        host, devices = split_host_device_mods(pipeline(tvm.tirx.transform.BindTarget(machine)(mod)))
        if len(devices) != 1:
            raise ScheduleError(f"{symbol}: a CUDA schedule binds its loops to threads, got a function that binds none")
        (device,) = (device_passes()(module) for module in devices.values())
        source = _device_source(device, machine)
        return CudaKernel(symbol, source, _metadata(device), codegen_build(host_passes()(host), machine.host))


def narrow_indices(prim_func: Any) -> Any:
    """Index arithmetic in 32 bits where an extent is symbolic (TVM proves it itself where all are numbers): half the
    instructions and fewer registers. Whoever runs the function must see that no buffer has 2^31 elements or more.

    Left alone where 64-bit integers are data, which could not be told from indices, and where the numbers alone
    exceed 32 bits.
    """
    import tvm
    import tvm_ffi
    from tvm import s_tir, tirx

    buffers: list[Any] = list(prim_func.params)
    casts: list[str] = []
    tvm_ffi.structural_walk(
        prim_func.body,
        [
            (s_tir.SBlock, lambda block: buffers.extend(block.alloc_buffers)),
            (tirx.Cast, lambda cast: casts.append(str(cast.ty.dtype))),
        ],
    )
    extents = [[int(d) if isinstance(d, tirx.IntImm) else None for d in buffer.shape] for buffer in buffers]
    symbolic = any(None in shape for shape in extents)
    large = any(prod(d for d in shape if d is not None) >= 1 << 31 for shape in extents)
    wide = any("int64" in dtype for dtype in (*casts, *(str(buffer.dtype) for buffer in buffers)))
    if not symbolic or large or wide:
        return prim_func
    return tirx.transform.ForceNarrowIndexToInt32()(tvm.IRModule({"main": prim_func}))["main"]


def generate(prim_func: Any, target: Target, symbol: str) -> str:
    """CUDA source of a scheduled PrimFunc."""
    return build(prim_func, target, symbol).source


def _device_source(device: Any, machine: Any) -> str:
    """CUDA source of lowered device functions. TVM hands it to the function registered as _CREATE where the CUDA
    runtime is loaded (which would compile it for the device at hand), else it wraps it in a module of its own."""
    import tvm_ffi

    with _creating:
        create = tvm_ffi.get_global_func(_CREATE, allow_missing=True)
        if create is not None:
            wrap = tvm_ffi.get_global_func("runtime.SourceModuleCreate")
            hook = lambda code, *_: wrap(bytes(code).decode(), "cuda")  # noqa: E731
            tvm_ffi.register_global_func(_CREATE, hook, override=True)
        try:
            source: str = tvm_ffi.get_global_func("target.build.cuda")(device, machine).inspect_source()
        finally:
            if create is not None:
                tvm_ffi.register_global_func(_CREATE, create, override=True)
    return source


def _metadata(device: Any) -> str:
    import tvm
    from tvm import ir

    entries = {}
    for function in device.functions.values():
        name = str(function.attrs["global_symbol"])
        types = [
            "handle" if isinstance(parameter.ty, ir.PointerType) else str(parameter.ty.dtype)
            for parameter in function.params
        ]
        tags = [str(tag) for tag in function.attrs["tirx.kernel_launch_params"]]
        entries[name] = {"name": name, "arg_types": types, "launch_param_tags": tags}
    return json.dumps({"tvm_version": tvm.__version__, "func_info": entries})


def merge_functions(texts: Iterable[str]) -> str:
    """Launch metadata of several kernels --> one text for the cubin that holds them all."""
    documents = [json.loads(text) for text in texts]
    entries = {name: info for document in documents for name, info in document["func_info"].items()}
    return json.dumps({**documents[0], "func_info": entries})


def find_nvcc() -> str:
    """Path of the CUDA compiler. Raises ScheduleError where it is not installed."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    paths = [shutil.which("nvcc"), *(str(Path(home) / "bin" / "nvcc") for home in homes if home)]
    for folder in sys.path:  # where NVIDIA's Python packages put it
        paths += map(str, Path(folder or ".").glob("nvidia/*/bin/nvcc"))
    for path in paths:
        if path and os.access(path, os.X_OK):
            return path
    raise ScheduleError(
        "CUDA compiler: nvcc must be on PATH, under CUDA_HOME or in /usr/local/cuda, got none; "
        "install the CUDA toolkit (package nvidia-cuda-nvcc or NVIDIA's installer)"
    )


@cache
def nvcc_architectures(nvcc: str) -> tuple[str, ...]:
    """Architectures that an nvcc compiles for ("sm_75", ...)."""
    listed = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=False).stdout
    return tuple(sorted(re.findall(r"\bsm_\d+\b", listed), key=lambda arch: int(arch[3:])))


def compile_cubin(source: str, arch: str) -> tuple[bytes, list[KernelResources]]:
    """CUDA source --> cubin for one architecture ("sm_90"), and what each of its kernels uses.

    Raises ScheduleError where nvcc is missing, does not know the architecture, or rejects the source.
    """
    nvcc = find_nvcc()
    known = nvcc_architectures(nvcc)
    if arch not in known:
        raise ScheduleError(f"CUDA compiler: {nvcc} compiles for {', '.join(known) or 'nothing'}, got {arch!r}")
    cubin, resources = _run_nvcc(nvcc, source, arch)
    spilled = [record.name for record in resources if record.spill_stores or record.spill_loads]
    if spilled:
        # The assembler aims at many blocks on a multiprocessor, sometimes for a few registers too few.
        relaxed, again = _run_nvcc(nvcc, _allow_registers(source, spilled), arch)
        if sum(r.spill_stores + r.spill_loads for r in again) < sum(r.spill_stores + r.spill_loads for r in resources):
            return relaxed, again
    return cubin, resources


def _allow_registers(source: str, names: Iterable[str]) -> str:
    """Source in which one block on a multiprocessor is enough for these kernels: their threads may use every register
    that the block's size allows."""
    for name in names:
        source = re.sub(rf"__launch_bounds__\((\d+)\) {name}\(", rf"__launch_bounds__(\1, 1) {name}(", source)
    return source


def _run_nvcc(nvcc: str, source: str, arch: str) -> tuple[bytes, list[KernelResources]]:
    with tempfile.TemporaryDirectory(prefix="cnncc-cuda-") as folder:
        code, cubin = Path(folder) / "kernels.cu", Path(folder) / "kernels.cubin"
        code.write_text(source)
        command = [nvcc, f"-arch={arch}", "-O3", "--cubin", "--resource-usage", "-o", str(cubin), str(code)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if re.search("error|fatal", line, re.I)]
            detail = "; ".join(lines[:3]) or f"exit status {done.returncode}"
            raise ScheduleError(f"CUDA compiler: nvcc must accept the generated source, got: {detail}")
        return cubin.read_bytes(), parse_resources(done.stdout + done.stderr)


_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


def parse_resources(log: str) -> list[KernelResources]:
    """What `ptxas -v` printed --> one record a kernel, in its order."""
    found = []
    for part in re.split(r"(?=Compiling entry function)", log):
        name, used = _ENTRY.search(part), _USED.search(part)
        if name is None or used is None:
            continue
        spills, shared = _SPILLS.search(part), _SHARED.search(part)
        stores, loads = (int(spills.group(1)), int(spills.group(2))) if spills else (0, 0)
        size = int(shared.group(1)) if shared else 0
        found.append(KernelResources(name.group(1), int(used.group(1)), stores, loads, size))
    return found


def compile_all(kernels: Sequence[CudaKernel], target: Target, workers: int = 2) -> list[DeviceCode]:
    """Compile kernels with `workers` runs of nvcc side by side. A run's start costs more than a kernel, so each
    takes an equal share of the kernels and gives one cubin. Symbols must differ."""
    shares = [kernels[i::workers] for i in range(min(workers, len(kernels)))]

    def compile_share(share: Sequence[CudaKernel]) -> DeviceCode:
        cubin, resources = compile_cubin("\n".join(kernel.source for kernel in share), target.mcpu)
        return DeviceCode(cubin, merge_functions(kernel.functions for kernel in share), tuple(resources))

    with ThreadPoolExecutor(max_workers=max(1, len(shares))) as pool:
        return list(pool.map(compile_share, shares))


def build_all(functions: dict[str, Any], target: Target, workers: int = 2) -> tuple[list[CudaKernel], list[DeviceCode]]:
    """Scheduled PrimFuncs by symbol --> lowered kernels and the cubins that hold them."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        kernels = list(pool.map(lambda item: build(item[1], target, item[0]), functions.items()))
    return kernels, compile_all(kernels, target, workers)


def check_resources(resources: Iterable[KernelResources], target: Target) -> None:
    """Raises ScheduleError naming every kernel that spills registers or needs more shared memory than a block has."""
    bad = [
        f"{r.name} ({r.spill_stores + r.spill_loads} bytes spilled, {r.shared} of {target.shared_memory} bytes shared)"
        for r in resources
        if r.spill_stores or r.spill_loads or r.shared > target.shared_memory
    ]
    if bad:
        raise ScheduleError(f"CUDA kernels: must not spill and must fit the shared memory, got {'; '.join(bad)}")
