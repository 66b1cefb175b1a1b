"""The native libraries that running needs: tvm_ffi, the object loader, and TVM's runtime; never its compiler."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cnncc.errors import RuntimeFault

_lock = threading.Lock()
_import_lock = threading.RLock()
_runtime: ctypes.CDLL | None = None

# How long a thread of TVM's pool looks for work before it sleeps, in turns of sched_yield. TVM's own 300000 burns a
# core for 150 milliseconds after every run; this, some 3 milliseconds, covers the gaps within and between runs.
_SPIN = "5000"
_BIG_CORES = 1  # an affinity mode of TVM's pool; without binding it means nothing


def import_ffi() -> Any:
    """The tvm_ffi module."""
    return _import_without_torch("tvm_ffi")


def import_tvm() -> Any:
    """The tvm module, with the compiler. To be called before the first `import tvm` of any module."""
    return _import_without_torch("tvm")


def _import_without_torch(name: str) -> Any:
    """Imports a module that imports torch where it is installed (seconds), and works as well without it.

    Where the program has imported torch itself, nothing is hidden.
    """
    with _import_lock:
        if name not in sys.modules and "torch" not in sys.modules:
            sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` raise ImportError
            try:
                return importlib.import_module(name)
            finally:
                del sys.modules["torch"]
        return importlib.import_module(name)


def runtime() -> ctypes.CDLL:
    """TVM's runtime library, loaded once (its thread pool is what parallel kernels call)."""
    global _runtime
    with _lock:
        if _runtime is None:
            if not sys.platform.startswith("linux"):
                raise RuntimeFault(f"compiled models run on Linux, got {sys.platform}")
            import_ffi()
            # Read by TVM when a pool starts. It would pin worker i to core i, whatever this process may use.
            os.environ.setdefault("TVM_BIND_THREADS", "0")
            os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", _SPIN)
            spec = importlib.util.find_spec("tvm")
            if spec is None or spec.origin is None:
                raise RuntimeFault("apache-tvm is not installed: compiled models need its runtime library")
            path = Path(spec.origin).parent / "lib" / "libtvm_runtime.so"
            try:
                _runtime = ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
            except OSError as error:
                raise RuntimeFault(f"TVM's runtime library does not load: {error}") from None
        return _runtime


def after_fork() -> None:
    """In a forked child: another thread of the parent may have held the lock."""
    global _lock, _import_lock
    _lock = threading.Lock()
    _import_lock = threading.RLock()


def start_pool(count: int) -> None:
    """Starts the pool of the calling thread with so many threads, itself among them; before its first kernel.

    Raises RuntimeFault where it has not so many then: threads of a run would wait for ever for those that are missing.
    """
    set_size = runtime()["_ZN3tvm7runtime9threading17SetMaxConcurrencyEi"]
    ffi = import_ffi()
    set_size(ctypes.c_int(count))
    ffi.get_global_func("runtime.NumThreads")()  # makes the pool
    # By itself it uses only as many as there are processors of the highest clock. (This resets the size.)
    ffi.get_global_func("runtime.config_threadpool")(_BIG_CORES, count)
    set_size(ctypes.c_int(count))
    started = int(ffi.get_global_func("runtime.NumThreads")())
    if started != count:
        raise RuntimeFault(f"threads: a run needs {count}, and the pool started {started}")


def link(objects: Iterable[bytes]) -> Any:
    """Loads object files together into this process; the result has `get_function(symbol)`."""
    runtime()
    import tvm_ffi_orcjit

    # Kernels call nothing of C++'s library, so no compiler is asked where that is.
    return tvm_ffi_orcjit.default_session().load_module(list(objects), cxx="no-compiler-is-needed")


class _ErrorObject(ctypes.Structure):
    # TVMFFIObject (reference counts, type index, padding, deleter), then the fields of TVMFFIErrorCell.
    _fields_ = (
        ("header", ctypes.c_byte * 24),
        ("kind", ctypes.c_void_p),
        ("kind_size", ctypes.c_size_t),
        ("message", ctypes.c_void_p),
        ("message_size", ctypes.c_size_t),
    )


def take_error() -> str:
    """The message of the error that the last native call on this thread raised, cleared; empty if there is none."""
    library = import_ffi().LIB
    handle = ctypes.c_void_p()
    library.TVMFFIErrorMoveFromRaised(ctypes.byref(handle))
    if not handle.value:
        return ""
    record = ctypes.cast(handle, ctypes.POINTER(_ErrorObject)).contents
    message = ctypes.string_at(record.message, record.message_size)
    library.TVMFFIObjectDecRef(handle)
    return message.decode(errors="replace")
