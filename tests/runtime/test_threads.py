"""Threads: many callers, a bounded number of threads, fork, the end of executables and of the process."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cnncc.errors import RuntimeFault
from cnncc.runtime import native
from cnncc.runtime.executable import Executable
from cnncc.runtime.threads import Dispatcher, _quota, default_threads
from tests.runtime import kernels as hand

ROOT = Path(__file__).parents[2]


def tasks() -> set[str]:
    """Names of this process's native threads."""
    return set(os.listdir("/proc/self/task"))


def settle(count: int) -> int:
    """The number of native threads once it has come down to `count` (or after three seconds)."""
    end = time.monotonic() + 3
    while len(tasks()) > count and time.monotonic() < end:
        time.sleep(0.01)
    return len(tasks())


@pytest.mark.parametrize("threads", [1, 2])
def test_eight_threads_call_one_executable(threads: int) -> None:
    executable = Executable(hand.residual(threads))
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for round_ in range(30):
                hand.run_one(executable, 1 + (seed + round_) % 5)
        except BaseException as error:
            errors.append(error)

    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not errors


def test_callers_share_one_pool() -> None:
    before = len(tasks())
    executable = Executable(hand.residual(2))
    hand.run_one(executable, 8)
    running = len(tasks())
    assert running <= before + 2  # the thread that runs, and one worker of its pool

    ran, counted = threading.Barrier(9), threading.Event()

    def call(shared: Executable) -> None:
        hand.run_one(shared, 8)
        ran.wait(60)
        counted.wait(60)

    callers = [threading.Thread(target=call, args=(executable,)) for _ in range(8)]
    for caller in callers:
        caller.start()
    ran.wait(60)
    assert len(tasks()) - len(callers) <= running  # TVM's pools live as long as the threads that called
    counted.set()
    for caller in callers:
        caller.join(60)
    del executable
    gc.collect()
    assert settle(before) <= before


def test_state_updates_from_many_threads_all_count() -> None:
    executable = Executable(hand.counter(2))
    ones = np.ones((1, 64), np.float32)
    callers = [threading.Thread(target=lambda: [executable(ones) for _ in range(50)]) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    np.testing.assert_array_equal(executable.state["p"], np.full((1, 64), 1 - 200, np.float32))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_child_can_run(threads: int) -> None:
    executable = Executable(hand.residual(threads))
    hand.run_one(executable, 4)  # the pool exists in the parent
    executable.state.lock.acquire()  # as if another thread were in a run
    try:
        child = multiprocessing.get_context("fork").Process(target=hand.run_one, args=(executable, 4))
        child.start()
        child.join(30)
        code = child.exitcode
        if code is None:
            child.kill()
            child.join()
    finally:
        executable.state.lock.release()
    assert code == 0
    hand.run_one(executable, 4)


def test_process_ends_while_a_thread_still_calls() -> None:
    script = (
        "import threading, numpy as np\n"
        "from cnncc.runtime.executable import Executable\n"
        "from tests.runtime import kernels as hand\n"
        "executable = Executable(hand.residual(2))\n"
        "x = np.ones((64, 64), np.float32)\n"
        "def work():\n"
        "    while True: executable(x)\n"
        "for _ in range(2): threading.Thread(target=work, daemon=True).start()\n"
        "import time; time.sleep(0.3)\n"
        "print('end')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == ("end\n", 0), done.stderr


def test_a_dispatcher_raises_what_its_task_raised_and_goes_on() -> None:
    dispatcher = Dispatcher(1)
    seen: list[int] = []

    def fail() -> None:
        raise ValueError("from the task")

    with pytest.raises(ValueError, match="from the task"):
        dispatcher.call(fail)
    dispatcher.call(lambda: seen.append(threading.get_ident()))
    dispatcher.call(lambda: seen.append(threading.get_ident()))
    assert seen[0] == seen[1] != threading.get_ident()
    dispatcher.stop(wait=5)
    assert not any(t.ident == seen[0] for t in threading.enumerate())


@pytest.mark.parametrize("threads", [2, 5])
def test_the_pool_has_the_size_asked_for(threads: int) -> None:
    """Whatever the number, kinds and clocks of the processors."""
    dispatcher = Dispatcher(threads)
    before = tasks()  # threads of earlier tests may still be ending
    sizes: list[int] = []
    dispatcher.call(lambda: sizes.append(native.import_ffi().get_global_func("runtime.NumThreads")()))
    assert sizes == [threads]
    own = tasks() - before
    assert len(own) == threads
    dispatcher.stop(wait=5)
    end = time.monotonic() + 5
    while own & tasks() and time.monotonic() < end:
        time.sleep(0.01)
    assert not own & tasks()


def test_an_interrupt_waits_for_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a run is in progress: the kernels still write, so the caller gets it when they have ended."""
    dispatcher = Dispatcher(1)
    ended: list[bool] = []

    class Interrupted:
        """A lock whose first acquisition is interrupted."""

        def __init__(self, lock: threading.Lock) -> None:
            self.lock = lock
            self.release = lock.release
            self.first = True

        def acquire(self, blocking: bool = True) -> bool:
            if self.first:
                self.first = False
                raise KeyboardInterrupt
            return bool(self.lock.acquire(blocking))

    monkeypatch.setattr(dispatcher, "_done", Interrupted(dispatcher._done))

    def slow() -> None:
        time.sleep(0.2)
        ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        dispatcher.call(slow)
    assert ended == [True]
    dispatcher.call(lambda: ended.append(False))
    assert ended == [True, False]
    dispatcher.stop()


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, float("inf")),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, float("inf")),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "300000 100000\n"}, 3.0),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "50000 100000",
            },
            0.5,
        ),
        ({"proc/self/cgroup": "0::/../../outside\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
        (
            {
                "proc/self/cgroup": "4:memory:/m\n3:cpu,cpuacct:/docker/x\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/docker/x\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            float("inf"),
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense\n"}, float("inf")),
    ],
)
def test_quota_of_cgroups(tmp_path: Path, files: dict[str, str], quota: float) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert _quota(tmp_path) == quota


def test_default_threads_follow_the_affinity_mask() -> None:
    script = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
        "from cnncc.runtime.threads import default_threads; print(default_threads())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert 1 <= default_threads() <= len(os.sched_getaffinity(0))


def test_a_pool_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(count: int) -> None:
        raise RuntimeFault(f"threads: a run needs {count}, and the pool started 1")

    monkeypatch.setattr(native, "start_pool", fail)
    executable = Executable(hand.residual(2))
    for _ in range(2):
        with pytest.raises(RuntimeFault, match="a run needs 2, and the pool started 1"):
            hand.run_one(executable, 4)
