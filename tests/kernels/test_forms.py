"""One kernel in all its forms, and how it is found."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from click.testing import CliRunner

import cnncc
from cnncc import nn
from cnncc.cli import group
from cnncc.driver import plan_graph
from cnncc.errors import GraphError, UnsupportedError
from cnncc.kernels.build import build_all
from cnncc.kernels.cache import Cache
from cnncc.kernels.forms import FORMS, find_kernel, show_kernel
from cnncc.kernels.inspect import imports
from cnncc.report import KernelRow
from cnncc.targets.machine import find_target

TARGET = find_target("avx2", 2)


@pytest.fixture(scope="module")
def graph():
    net = nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 16, 1), nn.AdaptiveAvgPool2d(1))
    return nn.trace(net.eval(), {"x": ("N", 8, 40, 40)})


@pytest.fixture(scope="module")
def planned(graph):
    return plan_graph(graph, TARGET, "strict")


@pytest.fixture(scope="module")
def rows(planned):
    return [KernelRow(**call) for call in planned.calls]


def shown(planned, rows, form: str, which: str = "0") -> str:
    index = find_kernel(rows, which)
    return show_kernel(planned.callers[index], rows[index], TARGET, form)


def test_plan_is_what_is_compiled(graph, planned, rows):
    exe = cnncc.compile(graph, TARGET, accuracy="strict", tuning="off")
    assert list(exe.report().rows) == rows
    assert [planned.symbols[node] for node in planned.callers] == [call.kernel for call in exe.program.calls]


def test_problem_says_what_was_decided(planned, rows):
    text = shown(planned, rows, "problem")
    for part in (rows[0].problem, rows[0].algorithm, rows[0].kernel, rows[0].tile, "256 bits, 2 threads"):
        assert part in text
    assert cnncc.parse(text.partition("\n\n")[2]).nodes[0].op == "conv"


def test_te_shows_every_stage_at_its_axes(planned, rows):
    text = shown(planned, rows, "te", "1")
    assert re.search(r"^a0: float32\[.*\]$", text, re.M)
    stages = re.findall(r"^(\w+) for .*:$", text, re.M)
    assert stages[-1] == "out"
    assert re.search(r"^    first \w+\[.*\] = 0\.0$", text, re.M)  # the products are summed from zero
    assert "T.Buffer" not in text
    assert "T.int64" not in text
    assert "metadata" not in text


def test_loops_before_and_after_the_schedule(planned, rows):
    plain, scheduled = shown(planned, rows, "tir"), shown(planned, rows, "scheduled")
    assert "T.grid" in plain
    assert "T.vectorized" not in plain
    assert "T.vectorized" in scheduled
    assert plain.count('T.sblock("') < scheduled.count('T.sblock("')


def test_code_is_what_is_built(planned, rows):
    symbol, source = next((s, k) for s, k in planned.sources.items() if s == rows[0].kernel)
    built = imports(build_all({symbol: source}, TARGET, cache=Cache(None))[symbol])
    text = shown(planned, rows, "llvm")
    for name in ("TVMBackendParallelLaunch", "TVMBackendParallelBarrier"):
        assert (name in text) == (name in built)
    assert "TVMBackendParallelBarrier" in text  # two threads share it


def test_code_is_that_of_the_target(planned, rows):
    assert rows[0].kernel in shown(planned, rows, "llvm")
    assembly = shown(planned, rows, "asm")
    assert "vfmadd" in assembly
    assert "%ymm" in assembly
    assert "%zmm" not in assembly


def test_kernels_are_found_by_index_layer_symbol_or_part(rows):
    assert find_kernel(rows, "1") == 1
    named = [replace(row, layer=f"features.{row.layer}/conv{i}") for i, row in enumerate(rows)]
    for i, row in enumerate(named):
        assert find_kernel(named, row.kernel) == i
        assert find_kernel(named, row.layer) == i
        assert find_kernel(named, f"/conv{i}") == i
    digest = rows[0].kernel[-8:]
    assert find_kernel(rows, digest) == 0


def test_kernels_that_are_not_there(rows):
    with pytest.raises(GraphError, match=rf"kernel 99: indices go from 0 to {len(rows) - 1}"):
        find_kernel(rows, "99")
    with pytest.raises(GraphError, match="indices go from 0"):
        find_kernel(rows, "-1")
    with pytest.raises(GraphError, match="kernel 'fc7': no index, layer or symbol"):
        find_kernel(rows, "fc7")
    with pytest.raises(GraphError, match="kernel '_': it must mean one kernel, got "):
        find_kernel(rows, "_")


def test_other_machines_have_no_assembly(planned, rows):
    cuda = find_target("cuda:sm_90")
    with pytest.raises(UnsupportedError, match="--as asm shows the code of CPU kernels"):
        show_kernel(planned.callers[0], rows[0], cuda, "asm")


def test_command(graph, tmp_path):
    model = str(tmp_path / "net.onnx")
    cnncc.to_onnx(graph, model)
    options = ["inspect", model, "--target", "avx2", "--threads", "1"]
    listed = CliRunner().invoke(group, [*options, "--kernels"])
    assert listed.exit_code == 0, listed.output
    assert re.search(r"^  0  \S", listed.output, re.M)
    text = CliRunner().invoke(group, [*options, "--kernel", "0", "--as", "te"])
    assert re.search(r"^out\d* for ", text.output, re.M)
    data = json.loads(CliRunner().invoke(group, [*options, "--kernel", "0", "--json"]).output)
    assert data["index"] == 0
    assert data["form"] == "problem"
    assert data["problem"] in data["text"]
    for form in FORMS:
        assert CliRunner().invoke(group, [*options, "--kernel", "0", "--as", form]).exit_code == 0


def test_command_explains_what_it_cannot_show(graph, tmp_path):
    compiled = tmp_path / "net.cnncc"
    cnncc.compile(graph, TARGET, accuracy="strict").save(compiled)
    error = CliRunner().invoke(group, ["inspect", str(compiled)]).exception
    assert "inspect shows models, and this is a compiled file" in str(error)
    net = nn.trace(nn.Conv2d(3, 4, 3).eval(), {"x": (1, 3, "H", "W")})
    cnncc.to_onnx(net, tmp_path / "open.onnx")
    error = CliRunner().invoke(group, ["inspect", str(tmp_path / "open.onnx"), "--kernel", "0"]).exception
    assert "H, W: kernels are made for each size on first use; fix the sizes with --shape" in str(error)
