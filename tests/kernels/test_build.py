"""Building kernels: objects that load alone, through the cache, in parallel, and interrupted."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cnncc.errors import RuntimeFault, ScheduleError
from cnncc.kernels.build import KernelSource, build_all, build_kernel, kernel_llvm
from cnncc.kernels.cache import Cache
from cnncc.kernels.inspect import imports
from cnncc.runtime import native
from cnncc.runtime.program import RUN_LOOP
from cnncc.targets.machine import AARCH64, AVX2
from cnncc.targets.target import Target
from tests.runtime.kernels import SOURCES, TARGET

ROOT = Path(__file__).parents[2]


def sources(made: list[str]) -> dict[str, KernelSource]:
    """Kernels that note when they are made."""

    def make(name: str) -> Any:
        made.append(name)
        return SOURCES[name](False)

    return {name: KernelSource(f"{name} of the tests", lambda n=name: make(n)) for name in SOURCES}


def test_kernels_are_made_only_when_the_cache_misses(tmp_path: Path) -> None:
    made: list[str] = []
    progress: list[tuple[int, int, str]] = []
    first = build_all(sources(made), TARGET, jobs=2, cache=Cache(tmp_path), progress=lambda *p: progress.append(p))
    assert sorted(made) == sorted(SOURCES)
    assert list(first) == [*SOURCES, RUN_LOOP]
    assert [p[0] for p in progress] == [1, 2, 3, 4]
    assert {p[1] for p in progress} == {4}
    assert {p[2] for p in progress} == {*SOURCES, RUN_LOOP}

    made.clear()
    progress.clear()
    second = build_all(sources(made), TARGET, cache=Cache(tmp_path), progress=lambda *p: progress.append(p))
    assert made == []
    assert second == first
    assert progress == [(4, 4, "")]


@pytest.mark.parametrize(
    ("target", "hits"),
    [
        (Target("renamed", "cpu", threads=2, gflops_per_core=77.0, gbytes_per_second=3.0), True),
        (Target("test", "cpu", threads=3), False),
        (Target("test", "cpu", threads=2, vector_bits=256), False),
        (Target("test", "cpu", threads=2, mcpu="x86-64-v2"), False),
    ],
)
def test_what_of_the_target_counts(tmp_path: Path, target: Target, hits: bool) -> None:
    cache = Cache(tmp_path)
    build_all({}, TARGET, cache=cache)
    before = set(tmp_path.iterdir())
    build_all({}, target, cache=cache)
    assert (set(tmp_path.iterdir()) == before) is hits


def test_another_key_is_another_kernel(tmp_path: Path) -> None:
    made: list[str] = []
    build_all(sources(made), TARGET, cache=Cache(tmp_path))
    changed = {n: KernelSource(s.key + "!", s.make) for n, s in sources(made).items()}
    made.clear()
    build_all(changed, TARGET, cache=Cache(tmp_path))
    assert sorted(made) == sorted(SOURCES)


def test_a_kernel_loads_alone() -> None:
    module = native.link([build_kernel(SOURCES["add"](True), TARGET, "add")])
    assert module.get_function("add") is not None


def test_the_same_kernel_gives_the_same_object() -> None:
    assert build_kernel(SOURCES["add"](True), TARGET, "add") == build_kernel(SOURCES["add"](True), TARGET, "add")


def test_llvm_text_shows_what_a_kernel_calls() -> None:
    text = kernel_llvm(SOURCES["add"](False), TARGET, "add")
    assert "define" in text
    assert "TVMBackendParallelLaunch" not in text
    assert "TVMBackendAllocWorkspace" not in text
    assert "TVMBackendParallelLaunch" in kernel_llvm(SOURCES["add"](True), TARGET, "add")


def test_imports_of_an_object() -> None:
    assert "TVMBackendParallelLaunch" in imports(build_kernel(SOURCES["add"](True), TARGET, "add"))
    alone = imports(build_kernel(SOURCES["add"](False), TARGET, "add"))
    assert not any(name.startswith("TVMBackend") for name in alone)
    assert all(name.startswith("TVMFFI") for name in alone)  # it raises errors, and calls nothing else
    with pytest.raises(RuntimeFault, match="64-bit ELF"):
        imports(b"text")


def test_imports_show_workspaces_and_scalar_functions() -> None:
    from tvm import te, tirx

    x = te.placeholder((tirx.const(100_000, "int64"),), "float64", name="x")
    y = te.compute(x.shape, lambda i: tirx.call_extern("float64", "lgamma", x[i]), name="y")
    z = te.compute(x.shape, lambda i: y[99_999 - i], name="z")
    found = imports(build_kernel(te.create_prim_func([x, z]), TARGET, "scratch"))
    assert {"TVMBackendAllocWorkspace", "TVMBackendFreeWorkspace", "lgamma"} <= set(found)


def test_targets_of_other_machines() -> None:
    assert re.search(r"vadd\w*\s.*%ymm", kernel_llvm(SOURCES["add"](False), AVX2, "add", "asm"))
    object_file = build_kernel(SOURCES["add"](False), AARCH64, "add")
    assert int.from_bytes(object_file[18:20], "little") == 183


def test_a_failure_names_the_kernel() -> None:
    with pytest.raises(ScheduleError, match="LLVM code is generated for CPU targets, got kind 'cuda'"):
        build_kernel(SOURCES["add"](False), Target("gpu", "cuda"), "add")

    def broken() -> Any:
        raise ScheduleError("conv n1: no tile fits")

    with pytest.raises(ScheduleError, match="conv n1: no tile fits"):
        build_all({"conv": KernelSource("conv", broken)}, TARGET, cache=Cache(None))


def test_interrupted_compilation_stops_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    """Ctrl-C with two hundred kernels to build."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from cnncc.kernels.build import KernelSource, build_all\n"
        "from cnncc.kernels.cache import Cache\n"
        "from tests.runtime.kernels import SOURCES, TARGET\n"
        "items = {f'add{i}': KernelSource(f'add {i}', lambda: SOURCES['add'](True)) for i in range(200)}\n"
        "build_all(items, TARGET, jobs=2, cache=Cache(Path(sys.argv[1])),\n"
        "          progress=lambda done, total, symbol: print(done, flush=True))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where a shell runs tests with &
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"  # it is building
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - begin < 20
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    names = [p.name for p in tmp_path.iterdir()]
    assert 0 < len(names) < 200
    assert all(n.endswith(".kernel") for n in names)
