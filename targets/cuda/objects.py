"""All kernels of a model: host objects that launch, and the device code they launch, through the kernel cache."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnncc.targets.cuda.build import CudaKernel, build, compile_cubin, find_nvcc, merge_functions
from cnncc.targets.target import Target

if TYPE_CHECKING:
    from cnncc.kernels.build import KernelSource
    from cnncc.kernels.cache import Cache

NOTE = "cuda"  # where a program's notes hold the device code


def build_objects(
    items: Mapping[str, KernelSource],
    target: Target,
    jobs: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    cache: Cache | None = None,
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Kernels by symbol --> host object files by symbol (the run loop among them), and the note for `device_code`.

    The arguments are those of `cnncc.kernels.build.build_all`. Raises ScheduleError where nvcc is missing or refuses.
    """
    from cnncc.kernels import driver
    from cnncc.kernels.build import build_kernel
    from cnncc.kernels.cache import Cache as KernelCache
    from cnncc.runtime.program import RUN_LOOP
    from cnncc.runtime.threads import default_threads
    from cnncc.targets.machine import GENERIC

    find_nvcc()  # before any work
    store = cache if cache is not None else KernelCache.default()
    workers = jobs or default_threads()
    total = len(items) + 1
    done = 0

    def lowered(item: tuple[str, KernelSource]) -> dict[str, str]:
        nonlocal done
        symbol, source = item
        key = f"{symbol}\n{source.key}\n{target!r}"
        found = store.get(key)
        if found is None:
            found = _pack(build(source.make(), target, symbol))
            store.put(key, found)
        done += 1
        if progress is not None:
            progress(done, total, symbol)
        parsed: dict[str, str] = json.loads(found)
        return parsed

    with ThreadPoolExecutor(max_workers=workers) as pool:
        kernels = dict(zip(items, pool.map(lowered, items.items()), strict=True))
        shares = [list(kernels.values())[i::workers] for i in range(min(workers, len(kernels)))]
        codes = list(pool.map(lambda share: _compiled(share, target, store), shares))
    loop_key = f"{driver.KEY}\n{GENERIC!r}"
    loop = store.get(loop_key)
    if loop is None:
        loop = build_kernel(driver.run_loop(), GENERIC, RUN_LOOP)
        store.put(loop_key, loop)
    if progress is not None:
        progress(total, total, RUN_LOOP)
    objects = {symbol: base64.b64decode(kernel["object"]) for symbol, kernel in kernels.items()}
    note = {
        "architecture": target.mcpu,
        "code": codes,
        "sources": {symbol: kernel["source"] for symbol, kernel in kernels.items()},
    }
    return {**objects, RUN_LOOP: loop}, note


def device_code(note: Mapping[str, Any]) -> list[tuple[bytes, str]]:
    """The note of `build_objects` --> cubins with their launch metadata, for `CudaDevice.module`."""
    return [(base64.b64decode(code["cubin"]), code["functions"]) for code in note["code"]]


def _pack(kernel: CudaKernel) -> bytes:
    with tempfile.TemporaryDirectory(prefix="cnncc-cuda-") as folder:
        path = Path(folder) / "host.o"
        kernel.host.write_to_file(str(path), "o")
        code = base64.b64encode(path.read_bytes()).decode()
    return json.dumps({"source": kernel.source, "functions": kernel.functions, "object": code}).encode()


def _compiled(share: Sequence[Mapping[str, str]], target: Target, store: Cache) -> dict[str, Any]:
    """One run of nvcc: kernels --> cubin, metadata, resources, as plain data."""
    source = "\n".join(kernel["source"] for kernel in share)
    key = f"cubin {target.mcpu}\n{source}"
    found = store.get(key)
    if found is None:
        cubin, resources = compile_cubin(source, target.mcpu)
        code = {
            "cubin": base64.b64encode(cubin).decode(),
            "functions": merge_functions(kernel["functions"] for kernel in share),
            "resources": [asdict(record) for record in resources],
        }
        found = json.dumps(code).encode()
        store.put(key, found)
    parsed: dict[str, Any] = json.loads(found)
    return parsed
