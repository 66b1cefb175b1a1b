"""Whole networks compiled for other CPUs: executed where this machine has the instructions, else saved and refused."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import cnncc
from cnncc import nn
from cnncc.cli import group
from cnncc.errors import RuntimeFault
from cnncc.kernels.trial import build
from cnncc.targets.cpu import direct, pointwise
from cnncc.targets.machine import NAMED, native
from cnncc.targets.problem import ConvProblem
from tests import zoo
from tests.targets.cpu_records import needs_x86, runs
from tests.tolerances import assert_close, tolerance

FOREIGN = "avx2" if platform.machine().lower() in ("aarch64", "arm64") else "aarch64"


@needs_x86
@pytest.mark.parametrize("target", [t for t in NAMED if t not in ("aarch64", "avx512")])
@pytest.mark.parametrize(("name", "width"), [("resnet18", 0.5), ("mobilenetv2", 0.5)])
def test_networks_on_every_target_that_runs_here(name: str, width: float, target: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    runs(NAMED[target])
    size = zoo.NETS[name].small
    path = zoo.export(name, dynamo=False, symbolic_batch=True, size=size, width=width)
    executable = cnncc.compile(path, target, threads=2)
    for batch in (1, 3):
        feeds = zoo.inputs(name, batch, size)
        (expected,) = zoo.reference(path, feeds).values()
        assert_close(executable.run(feeds)["output"], expected, "network")


@needs_x86
@pytest.mark.parametrize("target", ["avx512", "avx2", "avx", "generic"])
def test_every_width_has_its_tail(target: str) -> None:
    """Rows that tiles do not divide, and channels that blocks do not."""
    machine = runs(NAMED[target])
    for width in (1, 2, 3, 5, 7, 11, 13, 17, 29):
        problem = ConvProblem.parse(f"conv n1 ic5 h3 w{width} oc37 k3x3 s1x1 p1x1")
        assert build(direct.ALGORITHM, problem, machine).error() < tolerance("conv").atol, width
        problem = ConvProblem.parse(f"conv n1 ic19 h2 w{width} oc20 k1x1 s1x1 p0x0")
        assert build(pointwise.ALGORITHM, problem, machine).error() < tolerance("conv").atol, width


def small() -> tuple[nn.Module, dict[str, tuple[int, ...]]]:
    net = nn.Sequential(nn.Conv2d(3, 20, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(320, 5))
    return net.eval(), {"x": (1, 3, 8, 8)}


def test_a_model_for_another_machine_is_saved_and_refused(tmp_path: Path) -> None:
    executable = cnncc.compile(small()[0], FOREIGN, shapes=small()[1])
    assert {row.algorithm for row in executable.report().rows} >= {"first_layer", "dense"}
    assert isinstance(executable.peak_memory, int)
    with pytest.raises(RuntimeFault, match=f"compiled for .*, this machine is {platform.machine()}; the model can be"):
        executable(np.zeros((1, 3, 8, 8), np.float32))
    file = tmp_path / "model.cnncc"
    executable.save(file)
    with pytest.raises(RuntimeFault, match=rf"model.cnncc: .*compiled for .*, this machine is {platform.machine()}"):
        cnncc.load(file)


def test_the_command_line_compiles_for_another_machine(tmp_path: Path) -> None:
    model, file = tmp_path / "model.onnx", tmp_path / "x.cnncc"
    cnncc.to_onnx(nn.trace(*small()), model)
    runner = CliRunner()
    made = runner.invoke(group, ["compile", str(model), "--target", FOREIGN, "-o", str(file)])
    assert made.exit_code == 0, made.output
    assert file.stat().st_size > 1000
    run = runner.invoke(group, ["run", str(file)])
    assert isinstance(run.exception, RuntimeFault)
    assert "compiled for" in str(run.exception)


@needs_x86
def test_features_that_this_machine_lacks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor of before 2011."""
    monkeypatch.setattr("cnncc.runtime.machine.cpu_flags", lambda: frozenset({"sse2"}))
    executable = cnncc.compile(small()[0], "avx", shapes=small()[1])
    with pytest.raises(RuntimeFault, match="CPU features that this machine lacks: avx;"):
        executable(np.zeros((1, 3, 8, 8), np.float32))


@needs_x86
@pytest.mark.parametrize(
    ("flags", "bits", "fma"),
    [
        ("avx512f avx512bw avx512dq avx512vl avx2 fma avx", 512, True),
        ("avx512f avx512cd avx2 fma avx", 256, True),  # the first processors with AVX-512 lacked most of it
        ("avx2 fma avx", 256, True),
        ("avx fma", 256, True),  # AMD Piledriver
        ("avx", 256, False),
        ("sse2 sse4_2", 128, False),
    ],
)
def test_unknown_processors_are_known_by_their_features(
    monkeypatch: pytest.MonkeyPatch, flags: str, bits: int, fma: bool
) -> None:
    monkeypatch.setattr("cnncc.targets.machine._cpu_flags", lambda: frozenset(flags.split()))
    target = native.__wrapped__()
    assert (target.vector_bits, target.fma) == (bits, fma)
    assert target.vector_registers == (32 if bits == 512 else 16)
    assert not target.mcpu
    assert not target.triple
