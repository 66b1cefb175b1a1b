"""How many threads a run may use, and the thread that runs parallel kernels.

TVM keeps one pool of workers per calling thread. So all runs of an executable happen on one thread of its own: however
many threads call it, the pool has the stated size.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cnncc.runtime import native

_STACK = 16 << 20  # bytes: kernels keep scratch of up to half a megabyte on the stack


def default_threads() -> int:
    """The processors this process may use: its affinity mask, and its cgroup's quota rounded up."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(available, _quota(Path("/")))))


def _quota(root: Path) -> float:
    """Processors' worth of time that the cgroups of this process allow, infinite where nothing limits it."""
    limit = math.inf
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            limit = min(limit, _least(root / "sys/fs/cgroup", path, _quota_v2))
        elif "cpu" in controllers.split(","):
            for mount in ("cpu", controllers):
                limit = min(limit, _least(root / "sys/fs/cgroup" / mount, path, _quota_v1))
    return limit


def _least(mount: Path, path: str, quota: Callable[[Path], float]) -> float:
    """The tightest quota on the way from a group up to the mount (inside a container the mount is the group)."""
    parts = [p for p in path.split("/") if p and p != ".."]
    return min(quota(mount.joinpath(*parts[:depth])) for depth in range(len(parts) + 1))


def _quota_v2(group: Path) -> float:
    words = " ".join(_lines(group / "cpu.max")).split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0] != "max" else math.inf


def _quota_v1(group: Path) -> float:
    quota, period = _lines(group / "cpu.cfs_quota_us"), _lines(group / "cpu.cfs_period_us")
    return int(quota[0]) / int(period[0]) if quota and period and int(quota[0]) > 0 else math.inf


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


class Dispatcher:
    """One thread that runs tasks, one at a time, with a pool of `threads` for parallel kernels.

    The caller must not let two threads into `call` at once. The thread starts with the first task, and does not keep
    the process alive. A child process that was forked needs a dispatcher of its own.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._go = threading.Lock()
        self._done = threading.Lock()
        self._go.acquire()
        self._done.acquire()
        self._task: Callable[[], None] | None = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False

    def call(self, task: Callable[[], None]) -> None:
        """Runs the task on the thread, waits for its end, raises what it raised."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="cnncc-run", daemon=True)
            before = threading.stack_size(_STACK)
            try:
                self._thread.start()
            finally:
                threading.stack_size(before)
        self._error = None
        try:
            self._task = task
            self._wake()
            self._done.acquire()
        except BaseException:
            # Ctrl-C: the kernels still write into the caller's arrays, so nobody may go on before they end.
            while self._task is not None:
                self._wake()  # the interrupt may have come before the first
                time.sleep(0.001)
            self._done.acquire(blocking=False)
            raise
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def stop(self, wait: float = 0.0) -> None:
        """Ends the thread once it is idle; waits so many seconds for that."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping = True
            self._wake()
            if wait and thread is not threading.current_thread():
                thread.join(wait)

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # already awake
            self._go.release()

    def _loop(self) -> None:
        started = False
        while True:
            self._go.acquire()
            task = self._task
            if task is None:
                if self._stopping:
                    return
                continue
            try:
                if not started:
                    native.start_pool(self._threads)
                    started = True
                task()
            except BaseException as error:
                self._error = error
            del task
            self._task = None
            self._done.release()
