"""From PrimFuncs to object files, in parallel, through the cache."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from cnncc.errors import ScheduleError
from cnncc.kernels import driver
from cnncc.kernels.cache import Cache
from cnncc.runtime.machine import cpu_flags
from cnncc.runtime.native import import_tvm
from cnncc.runtime.program import RUN_LOOP
from cnncc.targets.target import Target


@dataclass(frozen=True)
class KernelSource:
    """A kernel to build. `key`: text that, with the target, says all that `make`'s PrimFunc depends on."""

    key: str
    make: Callable[[], Any]


def build_kernel(func: Any, target: Target, symbol: str, team: bool = False) -> bytes:
    """A scheduled PrimFunc as an object file that defines `symbol`. Raises ScheduleError naming the kernel.

    `team`: its parallel loops are shared out among the threads that call it (`cnncc.targets.cpu.team`).
    """
    module = _compile(func, target, symbol, team)
    try:
        with tempfile.TemporaryDirectory(prefix="cnncc-") as folder:
            path = Path(folder) / "kernel.o"
            module.write_to_file(str(path), "o")
            return path.read_bytes()
    except OSError as error:
        raise ScheduleError(f"{symbol}: the folder for temporary files cannot be written: {error}") from None


def kernel_llvm(func: Any, target: Target, symbol: str, form: str = "ll", team: bool = False) -> str:
    """A scheduled PrimFunc as LLVM text, or with form "asm" as assembly. `team`: as for `build_kernel`."""
    return str(_compile(func, target, symbol, team).inspect_source(form))


def _compile(func: Any, target: Target, symbol: str, team: bool = False) -> Any:
    tvm = import_tvm()

    from cnncc.targets.cpu.llvm import to_tvm
    from cnncc.targets.cpu.stack import pipeline

    module = tvm.IRModule({symbol: func.with_attr("global_symbol", symbol)})
    try:
        return tvm.compile(module, target=to_tvm(target), tir_pipeline=pipeline(team, target.fma)).mod
    except (ValueError, TypeError, RuntimeError) as error:
        raise ScheduleError(f"{symbol}: code generation for {target.name} failed: {error}") from error


def build_all(
    items: Mapping[str, KernelSource],
    target: Target,
    jobs: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    cache: Cache | None = None,
) -> dict[str, bytes]:
    """Object files of all kernels by symbol, and of the run loop that every program needs.

    Kernels that the cache holds are not made. `jobs`: kernels built at a time (default: the processors this process may
    use). `progress(done, total, symbol)` is called after each. On Ctrl-C, kernels not begun are dropped.
    """
    from cnncc.runtime.threads import default_threads

    store = cache if cache is not None else Cache.default()
    sources = {**items, RUN_LOOP: KernelSource(driver.KEY, driver.run_loop)}
    built: dict[str, bytes] = {}
    missing: list[str] = []
    for symbol, source in sources.items():
        found = store.get(cache_key(source, symbol, target))
        if found is None:
            missing.append(symbol)
        else:
            built[symbol] = found
    if missing:
        import_tvm()  # here, before several threads need it
    total = len(sources)
    if progress is not None and built:
        progress(len(built), total, "")

    def build(symbol: str) -> bytes:
        made = build_kernel(sources[symbol].make(), target, symbol, target.threads > 1 and symbol != RUN_LOOP)
        store.put(cache_key(sources[symbol], symbol, target), made)
        return made

    # Not futures' `wait`: a Ctrl-C in it leaves their locks taken, and the threads that build wait for ever.
    results: SimpleQueue[tuple[str, bytes | BaseException]] = SimpleQueue()

    def work(symbol: str) -> None:
        try:
            results.put((symbol, build(symbol)))
        except BaseException as error:
            results.put((symbol, error))

    executor = ThreadPoolExecutor(max_workers=jobs or default_threads(), thread_name_prefix="cnncc-build")
    try:
        for symbol in missing:
            executor.submit(work, symbol)
        for _ in missing:
            symbol, made = results.get()
            if isinstance(made, BaseException):
                raise made
            built[symbol] = made
            if progress is not None:
                progress(len(built), total, symbol)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
    return {symbol: built[symbol] for symbol in sources}


def cache_key(source: KernelSource, symbol: str, target: Target) -> str:
    """All that an object depends on: the target but for its name and the numbers of the cost model."""
    machine = replace(target, name="", gflops_per_core=0.0, gbytes_per_second=0.0)
    here = "" if target.mcpu or target.triple else " ".join(sorted(cpu_flags()))  # LLVM is told to ask the machine
    return f"{symbol}\n{source.key}\n{machine!r}\n{here}"
