"""Whole models for CUDA: compiled, reported, saved, loaded, and run on an emulated device, or a real one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnncc
from cnncc.errors import RuntimeFault, ScheduleError
from cnncc.kernels.cache import Cache
from cnncc.targets.cuda import device as cuda_device
from cnncc.targets.cuda import engine as cuda_engine
from cnncc.targets.cuda import objects
from cnncc.targets.cuda.engine import CudaEngine
from cnncc.targets.cuda.machine import device_architecture, missing_device
from tests import zoo
from tests.targets.cuda_device import EmulatedDevice
from tests.tolerances import assert_close

needs_tools = pytest.mark.skipif(
    shutil.which("nvcc") is None or shutil.which("g++") is None, reason="nvcc or g++ is not installed"
)


@pytest.fixture(scope="module")
def lenet() -> Path:
    return zoo.export("lenet5", symbolic_batch=True)


@pytest.fixture(scope="module")
def compiled(lenet: Path) -> Any:
    return cnncc.compile(lenet, target="cuda:sm_90")


@pytest.fixture(scope="module")
def emulated(compiled: Any, tmp_path_factory: pytest.TempPathFactory) -> EmulatedDevice:
    return EmulatedDevice(compiled.program.notes[objects.NOTE], tmp_path_factory.mktemp("device"))


def on(executable: Any, device: EmulatedDevice) -> Any:
    executable._engine = CudaEngine(executable.program, device=device)
    return executable


@needs_tools
def test_every_kernel_of_lenet_has_its_algorithm(compiled: Any) -> None:
    rows = compiled.report().rows
    assert {row.algorithm for row in rows} == {"conv.implicit_gemm", "pool.window", "matmul.gemv"}
    note = compiled.program.notes[objects.NOTE]
    assert note["architecture"] == "sm_90"
    assert all("__global__" in source for source in note["sources"].values())
    resources = [record for code in note["code"] for record in code["resources"]]
    assert len(resources) == len(note["sources"])
    assert not any(record["spill_stores"] or record["spill_loads"] for record in resources)


@needs_tools
def test_lenet_equals_onnxruntime_at_any_batch(compiled: Any, emulated: EmulatedDevice, lenet: Path) -> None:
    executable = on(compiled, emulated)
    for batch in (1, 3, 1, 17):
        feeds = zoo.inputs("lenet5", batch, seed=batch)
        assert_close(executable.run(feeds)["output"], zoo.reference(lenet, feeds)["output"], "network")


@needs_tools
def test_memory_on_the_device_is_bounded(
    compiled: Any, emulated: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table a batch size is kept, the least recently used goes; weights are there once."""
    monkeypatch.setattr(cuda_engine, "TABLES_KEPT", 2)
    executable = on(compiled, emulated)
    executable.run(zoo.inputs("lenet5", 1))
    before = len(emulated.blocks)
    for batch in (2, 3, 1):
        executable.run(zoo.inputs("lenet5", batch))
    assert len(emulated.blocks) == before + 1


@needs_tools
def test_saved_and_loaded(compiled: Any, emulated: EmulatedDevice, lenet: Path, tmp_path: Path) -> None:
    path = tmp_path / "lenet.cnncc"
    compiled.save(path)
    loaded = on(cnncc.load(path), emulated)
    feeds = zoo.inputs("lenet5", 2)
    assert_close(loaded.run(feeds)["output"], zoo.reference(lenet, feeds)["output"], "network")


@needs_tools
@pytest.mark.parametrize("name", ["resnet18", pytest.param("mobilenetv2", marks=pytest.mark.slow)])
def test_networks_equal_onnxruntime(name: str, tmp_path: Path) -> None:
    size, width = 32, 0.25
    path = zoo.export(name, size=size, width=width)
    executable = cnncc.compile(path, target="cuda:sm_80")
    note = executable.program.notes[objects.NOTE]
    assert not [row.layer for row in executable.report().rows if row.algorithm == "fallback"]
    resources = [record for code in note["code"] for record in code["resources"]]
    assert not any(record["spill_stores"] or record["spill_loads"] for record in resources)
    feeds = zoo.inputs(name, 1, size)
    result = on(executable, EmulatedDevice(note, tmp_path)).run(feeds)["output"]
    assert_close(result, zoo.reference(path, feeds)["output"], "network")


@needs_tools
def test_the_cache_makes_the_second_compilation_need_no_nvcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tests.targets.cuda_cases import MATMULS, TARGET, matmul_case

    func = matmul_case(*MATMULS["lenet fc1 one"]).func
    store = Cache(tmp_path)
    made = []
    items = {"kernel": objects_source("key", lambda: made.append(1) or func)}
    first = objects.build_objects(items, TARGET, cache=store)
    monkeypatch.setattr(objects, "compile_cubin", lambda *_: pytest.fail("compiled again"))
    assert objects.build_objects(items, TARGET, cache=store) == first
    assert made == [1]


def objects_source(key: str, make: Any) -> Any:
    from cnncc.kernels.build import KernelSource

    return KernelSource(key, make)


def test_without_nvcc_compile_says_so(monkeypatch: pytest.MonkeyPatch, lenet: Path) -> None:
    def missing() -> str:
        raise ScheduleError("CUDA compiler: nvcc must be on PATH, got none")

    monkeypatch.setattr(objects, "find_nvcc", missing)
    with pytest.raises(ScheduleError, match="nvcc must be on PATH"):
        cnncc.compile(lenet, target="cuda:sm_90")


@needs_tools
@pytest.mark.skipif(missing_device() is None, reason="this machine has a CUDA device")
def test_without_a_driver_a_run_says_so(compiled: Any) -> None:
    executable = cnncc.compile(zoo.export("lenet5", symbolic_batch=True), target="cuda:sm_90")
    with pytest.raises(RuntimeFault, match=r"CUDA: .*driver.*can be compiled here, but not run"):
        executable.run(zoo.inputs("lenet5", 1))


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_device, "CUDART", "libcudart.so.none")
    with pytest.raises(RuntimeFault, match=r"libcudart\.so\.none is not installed: pip install"):
        cuda_device.load_runtime()


@pytest.mark.gpu
@pytest.mark.skipif(missing_device() is not None, reason=f"no CUDA device: {missing_device()}")
@pytest.mark.parametrize("name", ["lenet5", "resnet18", "mobilenetv2"])
def test_on_a_device(name: str) -> None:
    net = zoo.NETS[name]
    path = zoo.export(name, size=net.small, width=net.small_width, symbolic_batch=True)
    executable = cnncc.compile(path, target=f"cuda:{device_architecture()}")
    for batch in (1, 5):
        feeds = zoo.inputs(name, batch, net.small)
        result = executable.run(feeds)["output"]
        assert np.isfinite(result).all()
        assert_close(result, zoo.reference(path, feeds)["output"], "network")


@needs_tools
@pytest.mark.slow
def test_a_training_step_equals_the_one_on_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Forward, batch norm, loss, backward and update with momentum, parameters in place on the device."""
    from cnncc import nn, optim
    from cnncc.runtime import executable as runtime
    from cnncc.train.step import TrainStep

    def net() -> Any:
        return nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 5 * 5, 10),
        )  # fmt: skip

    choose = runtime._engine

    def engine(program: Any, state: Any, *rest: Any) -> Any:
        if objects.NOTE not in program.notes:
            return choose(program, state, *rest)
        return CudaEngine(program, state, EmulatedDevice(program.notes[objects.NOTE], tmp_path))

    monkeypatch.setattr(runtime, "_engine", engine)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 1, 14, 14), dtype=np.float32), rng.integers(0, 10, 8)
    start = {name: np.array(value) for name, value in net().state_dict().items()}
    losses, states = [], []
    for target in ("native", "cuda:sm_90"):
        model = net()
        model.load_state_dict(start)
        step = TrainStep(model, loss="cross_entropy", optimizer=optim.SGD(lr=0.05, momentum=0.9), target=target)
        losses.append([step(x, y)["loss"] for _ in range(3)])
        states.append(step.state_dict())
    assert losses[0][0] > 2 * losses[0][2]
    assert_close(np.array(losses[1]), np.array(losses[0]), "loss")
    for name, value in states[0].items():
        assert_close(np.asarray(states[1][name]), np.asarray(value), "training-step", label=name)
