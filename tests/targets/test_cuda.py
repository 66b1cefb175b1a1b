"""CUDA kernels without a device: schedules run on the CPU, generated source run on the CPU, nvcc compiles it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnncc.errors import ScheduleError
from cnncc.targets.cuda import build as cuda_build
from cnncc.targets.cuda.build import build, build_all, check_resources, compile_cubin, generate, parse_resources
from cnncc.targets.cuda.conv import DIRECT, IMPLICIT_GEMM
from cnncc.targets.cuda.emulate import run_on_cpu
from cnncc.targets.cuda.gemm import GemmTile, choose_tile
from cnncc.targets.cuda.machine import ARCHITECTURES, cuda_target
from cnncc.targets.cuda.matmul import GEMV
from cnncc.targets.problem import ConvProblem, MatmulProblem
from tests.targets.cuda_cases import (
    CONVOLUTIONS,
    MATMULS,
    POOLS,
    TARGET,
    Case,
    conv_case,
    generic_case,
    matmul_case,
    pool_case,
)
from tests.targets.cuda_device import Device, needs_gxx
from tests.targets.cuda_generic import GENERIC
from tests.tolerances import assert_close

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")

CASES: dict[str, Callable[[], Case]] = {
    **{f"conv {name}": lambda v=v: conv_case(*v) for name, v in CONVOLUTIONS.items()},
    **{f"matmul {name}": lambda v=v: matmul_case(*v) for name, v in MATMULS.items()},
    **{f"pool {name}": lambda v=v: pool_case(v) for name, v in POOLS.items()},
    **{f"generic {name}": lambda v=v: generic_case(*v[1:]) for name, v in GENERIC.items()},
}


def symbol(name: str) -> str:
    """A case's name as an identifier."""
    return "".join(c if c.isalnum() else "_" for c in name)


def check(case: Case, run: Callable[..., None], label: str) -> None:
    results = case.results()
    run(*case.inputs, *results, *case.workspaces)
    for result, expected in zip(results, case.expected, strict=True):
        assert_close(result, expected, case.kind, label=label)


@pytest.mark.parametrize("name", CASES)
def test_schedule_on_the_cpu(name: str) -> None:
    case = CASES[name]()
    check(case, lambda *arrays: run_on_cpu(case.func, *arrays), name)


@pytest.mark.parametrize("name", GENERIC)
def test_recipe(name: str) -> None:
    assert generic_case(*GENERIC[name][1:]).recipe == GENERIC[name][0]


TILES = [
    GemmTile(128, 128, 8, 8, 8),
    GemmTile(64, 64, 32, 4, 4),
    GemmTile(8, 128, 16, 4, 4),
    GemmTile(64, 16, 8, 4, 4),
    GemmTile(16, 16, 8, 2, 2, slices=4),
    GemmTile(32, 32, 16, 4, 4, slices=2),
    GemmTile(16, 32, 8, 2, 4, slices=8),
]


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_tiles_larger_and_smaller_than_the_problem(tile: GemmTile) -> None:
    for text in ("conv nN ic5 h6 w7 oc17 k3x3 s1x1 p1x1", "conv n2 ic64 h5 w5 oc72 k1x1 s1x1 p0x0"):
        case = conv_case(text, IMPLICIT_GEMM, tile)
        check(case, lambda *arrays, f=case.func: run_on_cpu(f, *arrays), text)


@needs_gxx
def test_slices_of_the_depth_on_the_emulated_device(tmp_path: Path) -> None:
    cases = {
        f"slices{i}_{j}": conv_case(text, IMPLICIT_GEMM, tile)
        for i, tile in enumerate(tile for tile in TILES if tile.slices > 1)
        for j, text in enumerate(
            ("conv nN ic5 h6 w7 oc17 k3x3 s1x1 p1x1", "conv n2 ic64 h9 w7 oc64 k3x3 s2x2 p1x0:0x2 g2")
        )
    }
    device = Device([build(case.func, TARGET, name) for name, case in cases.items()], tmp_path)
    for name, case in cases.items():
        for backwards in (False, True):
            check(case, lambda *a, n=name, b=backwards: device.run(n, *a, backwards=b), name)


def test_maxima_keep_nan_and_infinity() -> None:
    for name in ("lenet max", "resnet max", "large max"):
        case = pool_case(POOLS[name], nan=True)
        check(case, lambda *arrays, f=case.func: run_on_cpu(f, *arrays), name)


@pytest.fixture(scope="module")
def kernels() -> dict[str, Any]:
    return {name: build(case().func, TARGET, symbol(name)) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def device(kernels: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Device:
    return Device(list(kernels.values()), tmp_path_factory.mktemp("device"))


@needs_gxx
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_source_on_the_cpu(name: str, backwards: bool, device: Device) -> None:
    check(CASES[name](), lambda *arrays: device.run(symbol(name), *arrays, backwards=backwards), name)


@needs_gxx
@pytest.mark.parametrize(("tile", "barriers"), [(TILES[1], 2), (TILES[4], 4)], ids=["plain", "slices"])
def test_a_missing_barrier_shows(tile: GemmTile, barriers: int, tmp_path: Path) -> None:
    """The emulated device can fail: without any one barrier that matters, one order of threads gives wrong results."""
    case = conv_case("conv nN ic6 h14 w14 oc16 k5x5 s1x1 p0x0", IMPLICIT_GEMM, tile)
    kernel = build(case.func, TARGET, "broken")
    parts = kernel.source.split("__syncthreads();")
    assert len(parts) == barriers + 1
    wrong = []
    for which in range(barriers):
        source = "".join(part + ("" if i in (which, barriers) else "__syncthreads();") for i, part in enumerate(parts))
        folder = tmp_path / str(which)
        folder.mkdir()
        host = build(case.func, TARGET, "broken").host
        broken = Device([cuda_build.CudaKernel("broken", source, kernel.functions, host)], folder)
        for backwards in (False, True):
            (result,) = case.results()
            broken.run("broken", *case.inputs, result, backwards=backwards)
            if not np.allclose(result, case.expected[0], rtol=1e-3, atol=1e-3):
                wrong.append(which)
                break
    assert wrong == list(range(barriers))


@needs_nvcc
def test_nvcc_compiles_without_spills(kernels: dict[str, Any]) -> None:
    codes = cuda_build.compile_all(list(kernels.values()), TARGET)
    resources = [r for code in codes for r in code.resources]
    assert len(resources) >= len(CASES)
    check_resources(resources, TARGET)
    assert all(code.cubin[:4] == b"\x7fELF" for code in codes)
    assert max(r.shared for r in resources) > 0
    assert max(r.registers for r in resources) <= 255


@needs_nvcc
def test_large_register_tile_does_not_spill() -> None:
    tile = GemmTile(128, 128, 8, 8, 8)
    sliced = GemmTile(16, 16, 32, 2, 2, slices=4)
    text = "conv n1 ic64 h14 w14 oc128 k3x3 s1x1 p1x1"
    functions = {
        "large": conv_case(text, IMPLICIT_GEMM, tile).func,
        "sliced": conv_case(text, IMPLICIT_GEMM, sliced).func,
    }
    _, codes = build_all(functions, TARGET, workers=1)
    check_resources(codes[0].resources, TARGET)
    large, small = sorted(codes[0].resources, key=lambda record: -record.registers)
    assert 64 < large.registers <= 255
    assert large.shared == tile.shared - 4 * 4 * tile.k  # the right operand needs no padding
    # Here the sums take the right operand's place.
    assert small.shared == 4 * sliced.slices * sliced.k * (36 + sliced.n)
    assert small.shared < sliced.shared


@needs_nvcc
def test_nvcc_names_what_it_rejects() -> None:
    with pytest.raises(ScheduleError, match=r"must accept the generated source.*identifier"):
        compile_cubin("__global__ void f() { undefined_name = 1; }", "sm_90")
    with pytest.raises(ScheduleError, match=r"compiles for .*sm_90.*, got 'sm_35'"):
        compile_cubin("", "sm_35")


@needs_nvcc
def test_kernels_that_spill_get_more_registers() -> None:
    """This tile's copies make the assembler of CUDA 13 spill on sm_90 where it aims at many blocks."""
    tile = GemmTile(16, 16, 32, 2, 2)
    kernel = build(conv_case("conv nN ic1 h28 w28 oc6 k5x5 s1x1 p2x2", IMPLICIT_GEMM, tile).func, TARGET, "tight")
    assert "__launch_bounds__(64, 1) tight_kernel(" in cuda_build._allow_registers(kernel.source, ["tight_kernel"])
    check_resources(compile_cubin(kernel.source, "sm_90")[1], TARGET)


def test_missing_nvcc_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(cuda_build.os, "access", lambda path, mode: False)
    with pytest.raises(ScheduleError, match="nvcc must be on PATH"):
        compile_cubin("", "sm_90")


def test_spills_and_shared_memory_are_read_from_the_log() -> None:
    log = """ptxas info    : Compiling entry function 'a_kernel' for 'sm_90'
ptxas info    : Function properties for a_kernel
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 56 registers, used 1 barriers, 60000 bytes smem
ptxas info    : Compiling entry function 'b_kernel' for 'sm_90'
ptxas info    : Function properties for b_kernel
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 20 registers, used 0 barriers
"""
    a, b = parse_resources(log)
    assert (a.name, a.registers, a.spill_stores, a.spill_loads, a.shared) == ("a_kernel", 56, 12, 16, 60000)
    assert (b.registers, b.spill_stores + b.spill_loads, b.shared) == (20, 0, 0)
    with pytest.raises(ScheduleError, match=r"a_kernel \(28 bytes spilled, 60000 of 49152 bytes shared\)"):
        check_resources([a, b], TARGET)


def test_source_does_not_need_or_touch_a_runtime() -> None:
    """Where the CUDA runtime is loaded TVM would compile for its device: the source is taken before that."""
    import tvm_ffi

    func = matmul_case(*MATMULS["lenet fc1 one"]).func
    expected = generate(func, TARGET, "f")

    def create(*_: Any) -> None:
        raise AssertionError("the runtime must not be asked")

    assert tvm_ffi.get_global_func("ffi.Module.create.cuda", allow_missing=True) is None
    tvm_ffi.register_global_func("ffi.Module.create.cuda", create)
    try:
        assert generate(func, TARGET, "f") == expected
        assert "__global__" in expected
        with pytest.raises(AssertionError, match="must not be asked"):
            tvm_ffi.get_global_func("ffi.Module.create.cuda")()
    finally:
        tvm_ffi.registry.remove_global_func("ffi.Module.create.cuda")


def test_a_schedule_without_threads_is_refused() -> None:
    from tvm import te

    from tests.targets.cuda_cases import placeholder

    x = placeholder((4,), "x")
    with pytest.raises(ScheduleError, match="binds its loops to threads"):
        build(te.create_prim_func([x, te.compute(x.shape, lambda i: x[i] + 1.0)]), TARGET, "serial")


def test_targets() -> None:
    assert cuda_target("cuda:sm_75").mcpu == "sm_75"
    assert cuda_target("cuda:90").name == "cuda:sm_90"
    assert cuda_target("cuda").mcpu in ARCHITECTURES
    h100 = cuda_target("cuda:sm_90")
    assert (h100.kind, h100.threads, h100.shared_memory) == ("cuda", 132, 48 << 10)
    with pytest.raises(ScheduleError, match=r"must be one of sm_75, .*sm_121, got 'sm_70'"):
        cuda_target("cuda:sm_70")
    with pytest.raises(ScheduleError, match="must look like"):
        cuda_target("cuda:hopper")


def test_algorithms_say_why_they_do_not_apply() -> None:
    thin = ConvProblem.parse("conv n1 ic8 h8 w8 oc8 k3x3 s1x1 p1x1 g8")
    assert "at least 4 output channels" in str(IMPLICIT_GEMM.applies(thin, TARGET))
    assert DIRECT.applies(thin, TARGET) is None
    assert "float32" in str(DIRECT.applies(ConvProblem.parse("conv n1 ic8 h8 w8 oc8 k1x1 s1x1 p0x0 f16"), TARGET))
    assert "at most 8 rows" in str(GEMV.applies(MatmulProblem(64, 8, 8), TARGET))


def test_tiles_suit_the_problem() -> None:
    """Large problems reuse registers, small ones spread over the machine; shared memory stays in bounds."""
    large = choose_tile(512, 32 * 784, 4608, 1, TARGET)
    small = choose_tile(512, 49, 4608, 1, TARGET)
    assert large.rm * large.rn >= 32
    assert large.m * large.n > small.m * small.n
    assert small.slices > 1
    for m, n, k in ((6, 784, 25), (64, 3136, 576), (512, 49, 4608), (1000, 1, 512)):
        tile = choose_tile(m, n, k, 1, TARGET)
        assert tile.shared <= TARGET.shared_memory
        assert 32 <= tile.threads <= 512
    for rows in (4, 12, 20, 64):
        assert rows % choose_tile(rows, 100, 72, 1, TARGET, groups=2).m == 0
