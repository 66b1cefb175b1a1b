"""The benchmark: what it prepares, its workers' protocol, its arithmetic. No test looks at a time."""

from __future__ import annotations

import json
import time
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from cnncc.bench import run_bench
from cnncc.bench.client import Client
from cnncc.bench.machine import describe_machine, machine_slug
from cnncc.bench.macs import count_macs
from cnncc.bench.systems import Session
from cnncc.bench.torch_reference import load
from cnncc.bench.worker import Worker
from cnncc.cli import group
from cnncc.errors import GraphError, ModelFileError
from cnncc.reference import is_reference
from tests.bench.records import found

QUICK = {"rounds": 2, "seconds": 0.001, "least": 2, "pause": 0.0, "include_cnncc": False, "with_peak": False}


def _model(batch: int | str = "N", side: int | str = 8) -> onnx.ModelProto:
    """relu(conv(x, w)) with four 3x3 filters on two channels."""
    w = np.random.default_rng(0).standard_normal((4, 2, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["c"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 2, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.onnx"
    onnx.save(_model(), path)
    return str(path)


@pytest.mark.skipif(not find_spec("onnxruntime"), reason="needs onnxruntime")
def test_systems_run_and_absent_ones_are_reported(tiny, monkeypatch):
    result = run_bench(tiny, ["onnxruntime", "torch"], threads=1, batch=3, **QUICK)
    assert result.shapes == {"x": (3, 2, 8, 8)}
    assert result.macs == 3 * 4 * 8 * 8 * 2 * 9
    ran = result["onnxruntime"]
    assert ran.status == "ok"
    assert result.base == "onnxruntime"
    assert ran.runs >= 4
    assert len(ran.round_medians) == 2
    assert ran.minimum <= ran.median <= ran.p90
    assert ran.ratio == 1
    assert ran.difference == 0
    assert ran.peak_percent is None
    if find_spec("torch"):
        assert result["torch"].difference < 1e-5
    else:
        assert (result["torch"].status, result["torch"].reason) == ("missing", "not installed: torch")


@pytest.mark.skipif(
    not (find_spec("ncnn") and find_spec("openvino") and find_spec("onnxruntime")), reason="needs peers"
)
def test_peers_agree_on_the_numbers(tiny):
    result = run_bench(tiny, ["onnxruntime", "openvino", "ncnn"], threads=1, **QUICK)
    assert [system.status for system in result.systems] == ["ok"] * 3
    assert all(system.difference < 1e-5 for system in result.systems)


def test_ncnn_says_why_it_does_not_run_batches(tiny):
    if not (find_spec("ncnn") and find_spec("pnnx")):
        pytest.skip("needs ncnn and pnnx")
    (system,) = run_bench(tiny, ["ncnn"], threads=1, batch=2, **QUICK).systems
    assert (system.status, system.median) == ("missing", None)
    assert "batch" in system.reason


def test_a_model_that_a_system_refuses_is_a_row(tmp_path):
    model = _model()
    model.graph.node[1].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "odd.onnx")
    if not find_spec("onnxruntime"):
        pytest.skip("needs onnxruntime")
    (system,) = run_bench(tmp_path / "odd.onnx", ["onnxruntime"], threads=1, **QUICK).systems
    assert system.status == "failed"
    assert "NoSuchOperator" in system.reason


def test_torch_module_by_name(tmp_path):
    if not (find_spec("torch") and find_spec("onnxruntime")):
        pytest.skip("needs torch and onnxruntime")
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "def make(channels=2):\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Conv2d(channels, 4, 3), torch.ones(1, channels, 6, 5)\n"
    )
    result = run_bench(f"{tmp_path}/net.py:make?channels=3", ["torch", "onnxruntime"], threads=1, **QUICK)
    assert list(result.shapes.values()) == [(1, 3, 6, 5)]
    assert result.macs == 4 * 4 * 3 * 3 * 9
    assert [system.status for system in result.systems] == ["ok", "ok"]
    assert result["onnxruntime"].difference < 1e-5


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"against": ["tensorflow"]}, GraphError, "tensorflow: no such system"),
        ({"shapes": {"z": (1, 2)}}, GraphError, "z: not an input of the model, which has x"),
        ({"model": "nowhere.onnx"}, ModelFileError, "no such file"),
    ],
)
def test_mistakes_are_errors(tiny, arguments, error, text):
    with pytest.raises(error, match=text):
        run_bench(**{"model": tiny, "against": ["onnxruntime"], **QUICK, **arguments})


def test_open_extents_need_a_shape(tmp_path):
    onnx.save(_model(side="S"), tmp_path / "open.onnx")
    with pytest.raises(GraphError, match="x: every extent needs a number"):
        run_bench(tmp_path / "open.onnx", [], **QUICK)


def test_not_an_onnx_file(tmp_path):
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ModelFileError, match="not an ONNX file"):
        run_bench(tmp_path / "text.onnx", [], **QUICK)


def test_worker_that_ends_or_stays_silent_is_a_reply():
    with Client(threads=1) as client:
        reply = client.ask("open", system="onnxruntime", onnx="", feeds="no.npz", threads=1, scratch="", torch=None)
        assert not reply["ok"]
        client._process.kill()
        assert "ended with code" in client.ask("peak", threads=1)["reason"]
    with Client(threads=1) as client:
        assert "no answer to peak within 0.001 s" in client.ask("peak", limit=0.001, threads=1)["reason"]
        assert client._process.poll() is not None


def test_workers_get_the_number_of_threads(tmp_path, monkeypatch):
    (tmp_path / "spy.py").write_text("import os\ndef make():\n    raise RuntimeError(os.environ['OMP_NUM_THREADS'])\n")
    if not find_spec("torch"):
        pytest.skip("needs torch")
    with Client(threads=3) as client:
        reply = client.ask("export", torch=f"{tmp_path}/spy.py:make", path="", shapes=None)
    assert reply == {"ok": False, "missing": False, "reason": "RuntimeError: 3"}


def test_macs_of_products():
    graph = helper.make_graph(
        [
            helper.make_node("ConvTranspose", ["x", "w"], ["t"], strides=[2, 2]),
            helper.make_node("Reshape", ["t", "s"], ["r"]),
            helper.make_node("Gemm", ["r", "g"], ["y"], transA=1, transB=1),
        ],
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.zeros((4, 2, 2, 2), np.float32), "w"),
            numpy_helper.from_array(np.array([6, 12], np.int64), "s"),
            numpy_helper.from_array(np.zeros((5, 6), np.float32), "g"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert count_macs(model, {"x": (1, 4, 3, 3)}) == 4 * 9 * 2 * 4 + 12 * 5 * 6


def test_references_and_files_are_told_apart():
    assert is_reference("package.module:make")
    assert is_reference("a/net.py:make?size=64&name='x'")
    assert not is_reference("model.onnx")
    assert not is_reference("C:\\models\\net.onnx")
    assert load("types:SimpleNamespace?size=64&name=small")[0].__dict__ == {"size": 64, "name": "small"}


@pytest.mark.skipif(not (find_spec("openvino") and find_spec("onnxruntime")), reason="needs peers")
@pytest.mark.parametrize("threads", [1, 2])
def test_instances_run_at_once(tiny, threads):
    quick = {**QUICK, "include_cnncc": True}
    result = run_bench(tiny, ["onnxruntime", "openvino"], threads=threads, instances=2, batch=3, **quick)
    assert [system.status for system in result.systems] == ["ok"] * 3, result.systems
    assert (result.instances, result.threads) == (2, threads)
    for system in result.systems:
        assert system.difference < 1e-5
        assert system.images_per_second > 0
        assert system.runs >= 2 * 2 * system.at_once
        assert system.at_once == 2 or system.name == "openvino"


def test_a_compiled_file_needs_no_compiler_in_the_process(tiny):
    result = run_bench(tiny, ["cnncc-loaded"], threads=1, **{**QUICK, "include_cnncc": True})
    compiled, loaded = result.systems
    assert (loaded.status, loaded.reason) == ("ok", "")
    assert loaded.difference == 0
    assert loaded.peak_bytes < compiled.peak_bytes - (50 << 20)


def test_throughput_is_not_counted_in_processor_time(tiny):
    with pytest.raises(GraphError, match="throughput is a matter of wall time"):
        run_bench(tiny, [], threads=1, instances=2, clock="cpu", **QUICK)


def test_streams_count_parts_of_runs_and_pass_errors_on():
    worker = Worker()
    calls = {"a": 0, "b": 0}

    def lane(name, seconds):
        def run():
            calls[name] += 1
            time.sleep(seconds)

        return run

    worker.session = Session("1", lane("a", 0.001), list, [lane("a", 0.002), lane("b", 0.01)])
    reply = worker.answer({"do": "stream", "seconds": 0.03, "least": 2, "warmup": 1})
    assert reply["ok"]
    assert len(reply["times"]) == calls["a"] + calls["b"] - 2
    assert 0 < reply["done"] <= len(reply["times"])
    assert reply["at_once"] == 2

    def broken():
        raise ValueError("no memory left")

    worker.session = Session("1", broken, list, [lane("a", 0.001), broken])
    assert worker.answer({"do": "stream", "seconds": 0.01, "least": 1, "warmup": 1})["reason"] == (
        "ValueError: no memory left"
    )


def test_memory_grows_with_what_is_held():
    with Client(threads=1) as client:
        before = client.ask("memory")
        client.ask("peak", threads=1)  # imports the compiler
        after = client.ask("memory")
    assert after["peak"] >= after["held"] > before["held"] + (10 << 20)


@pytest.mark.skipif(not find_spec("onnxruntime"), reason="needs onnxruntime")
def test_command(tiny):
    arguments = ["bench", tiny, "--against", "onnxruntime,ncnn", "--batch", "2"]
    arguments += ["--threads", "1", "--rounds", "2", "--duration", "0.01"]
    shown = CliRunner().invoke(group, arguments)
    assert shown.exit_code == 0, shown.output
    assert "ncnn: missing: " in shown.output
    assert "onnxruntime" in shown.output


def test_command_passes_its_options_on(tiny, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("cnncc.bench.run_bench", lambda *a, **k: asked.append((a, k)) or found(k["instances"]))
    arguments = ["bench", tiny, "--against", "openvino, ncnn", "--instances", "3", "--threads", "2", "--json"]
    data = json.loads(CliRunner().invoke(group, [*arguments, "--shape", "x=1x2x8x8"]).output)
    assert data["instances"] == 3
    assert data["systems"][1]["ratio_low"] <= data["systems"][1]["ratio"] <= data["systems"][1]["ratio_high"]
    ((given, named),) = asked
    assert given == (tiny, ["openvino", "ncnn"], 2, 5, 0.7)
    assert (named["instances"], named["shapes"], named["clock"]) == (3, {"x": (1, 2, 8, 8)}, "wall")
    refused = CliRunner().invoke(group, [*arguments, "--plot", str(tmp_path / "a.pdf")])
    assert "must end with .png or .svg" in str(refused.exception)
    assert len(asked) == 1


def test_command_shows_the_kernels(tiny, monkeypatch):
    monkeypatch.setattr("cnncc.bench.run_bench", lambda *a, **k: found(1))
    arguments = ["bench", tiny, "--profile", "--threads", "1"]
    data = json.loads(CliRunner().invoke(group, [*arguments, "--json"]).output)
    assert any("conv" in row["ops"] for row in data["profile"]["kernels"])
    assert "roof" in CliRunner().invoke(group, arguments).output.lower()


def test_machine_is_named_by_its_processor():
    machine = {"processor": "Intel(R) Xeon(R) CPU E5 @ 2.00GHz", "instructions": ["avx2"], "processors": 4}
    assert machine_slug(machine) == "intel-xeon-e5-avx2-4p"
    assert describe_machine()["processors"] >= 1
