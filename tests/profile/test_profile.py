"""Profiles: work and bounds of kernels, and what is written about them. No test looks at a time."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from io import StringIO

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

import cnncc
from cnncc import nn
from cnncc.cli import group
from cnncc.errors import UnsupportedError
from cnncc.profile import Level, Profile, Roof, measure, page, profile, table, trace
from cnncc.profile.bandwidth import measure_bandwidth
from cnncc.profile.clock import run_spans, timed
from cnncc.profile.roof import measure_roof
from cnncc.runtime.executable import Executable
from cnncc.runtime.threads import Dispatcher
from tests.runtime import kernels as hand

ROOF = Roof(2, 100.0, (Level("L2", 1e6, 200.0), Level("L3", 1e7, 50.0), Level("memory", float("inf"), 10.0)))


@pytest.fixture(autouse=True)
def _known_machine(monkeypatch):
    monkeypatch.setattr(measure, "measure_roof", lambda threads: ROOF)


@pytest.fixture(scope="module")
def network():
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2048, 10))
    return net.eval()


@pytest.fixture(scope="module")
def executable(network):
    return cnncc.compile(network, shapes={"x": ("N", 3, 16, 16)}, threads=2)


@pytest.fixture
def found(executable):
    return profile(executable, {"x": np.ones((2, 3, 16, 16), np.float32)}, repeat=3)


def text(made: Profile, width: int, top: int | None = None) -> str:
    out = StringIO()
    Console(file=out, width=width).print(table(made, top))
    return out.getvalue()


def test_bounds_come_from_the_level_that_holds_the_data():
    assert ROOF.bound(1e9, 0, 1000, 5e6) == (0.01, "compute")
    assert ROOF.bound(0, 0, 2e5, 5e6) == (2e5 / 200e9, "L2")
    assert ROOF.bound(0, 0, 2e6, 5e6) == (2e6 / 50e9, "L3")
    # Weights of a large model come from memory whatever the size of the kernel.
    seconds, limit = ROOF.bound(1e3, 1e6, 1e5, 1e8)
    assert (seconds, limit) == (pytest.approx(1e6 / 10e9 + 1e5 / 200e9), "memory")


def test_work_is_that_of_the_given_batch(found):
    products = [row for row in found.rows if row.flops]
    assert [row.flops for row in products] == [2 * 2 * 32 * 256 * 27, 2 * 2 * 2048 * 10]
    conv = products[0]
    assert conv.weights >= 4 * (32 * 27 + 32)
    assert conv.values == 4 * 2 * (256 * 3 + 64 * 32)  # the pool behind is made in its kernel
    assert conv.roof_percent == pytest.approx(100 * conv.bound / conv.seconds)


def test_rows_are_the_calls_in_order(executable, found):
    assert [row.kernel for row in found.rows] == [call.kernel for call in executable.program.calls]
    assert [row.layer for row in found.rows] == [row.layer for row in executable.report().rows]
    assert all(0 < row.seconds <= row.median for row in found.rows)
    assert found.spans.shape == (3, len(found.rows), 2)
    assert found.seconds == pytest.approx(sum(row.seconds for row in found.rows))
    assert found.busy > 0
    assert 0 < found.run_least <= found.run_seconds


def test_clock_is_read_between_kernels_and_changes_nothing(executable):
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 3, 16, 16), np.float32)}
    noted = timed(executable)
    np.testing.assert_array_equal(noted.run(feeds)[noted.outputs[0].name], executable.run(feeds)[noted.outputs[0].name])
    before = time.perf_counter()
    spans = run_spans(noted, feeds, 4)
    after = time.perf_counter()
    assert spans.shape == (4, len(executable.program.calls), 2)
    assert before <= spans.min() <= spans.max() <= after
    assert (np.diff(spans.reshape(-1)) >= 0).all()
    assert (spans[:, 1:, 0] == spans[:, :-1, 1]).all()
    shared = executable.program.constants
    assert all(noted.program.constants[name] is array for name, array in shared.items())
    assert timed(executable, 1).program.threads == 1


def test_state_is_left_as_it_was():
    counter = Executable(hand.counter())
    run_spans(timed(counter), {"g": np.ones((1, 64), np.float32)}, 3)
    np.testing.assert_array_equal(counter.state["p"], np.ones((1, 64)))


def test_threads_are_judged_by_the_time_on_one(found):
    used = [found.efficiency(row) for row in found.rows]
    assert all(share is not None and share > 0 for share in used)
    serial = [row for row in found.rows if row.alone is None]
    assert all(found.efficiency(row) == 0.5 for row in serial)  # the other of two threads waits


def test_one_thread_has_no_efficiency(network):
    alone = cnncc.compile(network, shapes={"x": (1, 3, 16, 16)}, threads=1)
    made = profile(alone, {"x": np.ones((1, 3, 16, 16), np.float32)}, repeat=2)
    assert all(made.efficiency(row) is None for row in made.rows)
    assert "used %" not in text(made, 100)
    assert "threads:" not in text(made, 100)


def test_layout_changes_are_listed():
    net = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()).eval()
    exe = cnncc.compile(net, shapes={"x": (1, 16, 40, 40)}, threads=1)
    made = profile(exe, {"x": np.ones((1, 16, 40, 40), np.float32)}, repeat=2)
    changes = [row for row in made.rows if row.ops == "to_layout"]
    assert [row for row in made.rows if row.transform] == changes
    expected = f"layout changes: {len(changes)}," if changes else "layout changes: none"
    assert expected in text(made, 200)


def test_table_fits_100_columns(found):
    lines = text(found, 100).splitlines()
    assert all(len(line) <= 100 for line in lines)
    for row in found.rows:
        (line,) = [line for line in lines if re.match(rf" *{row.index} ", line)]
        for cell in (row.algorithm, f"{row.seconds * 1e3:.3f}", f"{row.roof_percent:.0f}", row.limit):
            assert cell in line
    assert "2 threads" in lines[0]


def test_long_names_are_cut_at_the_front(found):
    from dataclasses import replace

    long = replace(found, rows=(replace(found.rows[0], layer="a" * 60 + "/last_conv", algorithm="x" * 40),))
    lines = text(long, 100).splitlines()
    assert any("aaa/last_conv" in line for line in lines)
    assert all(len(line) <= 100 for line in lines)


def test_only_the_slowest(found):
    slowest = max(found.rows, key=lambda row: row.seconds)
    rows = [line for line in text(found, 100, top=1).splitlines() if re.match(r" *\d+  ", line)]
    assert len(rows) == 1
    assert slowest.algorithm in rows[0]


def test_trace_has_an_event_for_every_call(found):
    data = json.loads(json.dumps(trace(found)))
    events = [e for e in data["traceEvents"] if e["ph"] == "X"]
    calls = [e for e in events if e["cat"] != "run"]
    assert len(calls) == 3 * len(found.rows)
    assert len(events) - len(calls) == 3
    assert all(e["dur"] > 0 and e["ts"] >= 0 for e in events)
    runs = [e for e in events if e["cat"] == "run"]
    assert all(any(r["ts"] <= e["ts"] and e["ts"] + e["dur"] <= r["ts"] + r["dur"] + 1e-3 for r in runs) for e in calls)


class _Tags(HTMLParser):
    """Checks that tags are balanced, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1


def test_page_stands_alone(found):
    made = page(found)
    tags = _Tags()
    tags.feed(made)
    assert tags.open == []
    products = [row for row in found.rows if row.flops]
    algorithms = {row.algorithm for row in products}
    assert tags.seen["circle"] == len(products) + len(algorithms)
    assert tags.seen["tr"] >= len(found.rows) + 2
    assert not {"script", "link", "img"} & set(tags.seen)
    assert "FMA peak 100 GFLOP/s" in made
    assert re.findall(r"https?://[^\"]*", made) == ["http://www.w3.org/2000/svg"]


def test_page_escapes_names(found):
    from dataclasses import replace

    odd = replace(found, name="<b>", rows=tuple(replace(row, layer="a<b>&c") for row in found.rows))
    assert "<b>" not in page(odd)


def test_sizes_left_open_are_those_of_the_input():
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()).eval()
    exe = cnncc.compile(net, shapes={"x": (1, 3, "H", "W")}, threads=1)
    made = profile(exe, {"x": np.ones((1, 3, 12, 20), np.float32)}, repeat=2)
    assert sum(row.flops for row in made.rows) == 2 * 16 * 12 * 20 * 27


def test_models_for_other_machines_are_refused(executable):
    from dataclasses import replace

    class Elsewhere:
        program = replace(executable.program, target={"kind": "cuda"})

    with pytest.raises(UnsupportedError, match="compiled for CUDA"):
        profile(Elsewhere(), {})


def test_bandwidth_and_peak_are_measured():
    rates: list[float] = []
    dispatcher = Dispatcher(2)
    dispatcher.call(lambda: rates.append(measure_bandwidth(2, 1 << 16, rounds=1)))
    dispatcher.stop(1.0)
    assert 0.01 < rates[0] < 1e5
    roof = measure_roof(1)
    assert [level.name for level in roof.levels][-1] == "memory"
    assert roof.levels[-1].capacity == float("inf")
    assert roof.gflops > 0.1


def test_command_writes_files(network, tmp_path, monkeypatch):
    model = tmp_path / "net.cnncc"
    cnncc.compile(network, shapes={"x": ("N", 3, 16, 16)}, threads=1).save(model)
    arguments = [str(model), "--batch", "2", "--repeat", "2"]
    files = ["--html", str(tmp_path / "p.html"), "--trace", str(tmp_path / "p.json")]
    shown = CliRunner().invoke(group, ["profile", *arguments, *files])
    assert shown.exit_code == 0, shown.output
    assert "GFLOP/s" in shown.output
    assert shown.output.startswith("net.cnncc: x 2x3x16x16, 1 thread")
    assert "<svg" in (tmp_path / "p.html").read_text()
    assert json.loads((tmp_path / "p.json").read_text())["traceEvents"]
    data = json.loads(CliRunner().invoke(group, ["profile", *arguments, "--json"]).output)
    assert data["shapes"] == {"x": [2, 3, 16, 16]}
    assert {"roof_percent", "flops", "weights", "values", "thread_efficiency"} <= set(data["kernels"][0])
    ran = CliRunner().invoke(group, ["run", str(model), "--profile"])
    assert ran.exit_code == 0
    assert "roof %" in ran.output
