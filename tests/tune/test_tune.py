"""Tuning from end to end: a small network, a small budget, real kernels. No test looks at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from click.testing import CliRunner

import cnncc
from cnncc.cli import group
from cnncc.errors import UnsupportedError
from cnncc.interpret import interpret
from cnncc.targets.machine import AARCH64, find_target
from cnncc.tune.database import Database, find_setting
from cnncc.tune.lookup import find_tuning
from cnncc.tune.measure import Failure
from cnncc.tune.model import compare_network, tune
from cnncc.tune.records import Trial, decode
from tests.graphs import random_feeds
from tests.tolerances import assert_close
from tests.tune.networks import small, verdict, write

TARGET = find_target("native", 1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tuning.jsonl"


@pytest.fixture
def model(tmp_path):
    file = tmp_path / "small.onnx"
    cnncc.to_onnx(small(), file)
    return str(file)


class Table:
    """Times from a table: every second choice of a kernel is much faster than its default."""

    def __init__(self, target):
        self.seen = {}

    def time(self, task, choice, stop):
        seen = self.seen.setdefault(task.name, [])
        seen.append(choice)
        return 1.0 if len(seen) == 1 else Failure("too late") if len(seen) > 3 else 0.5

    def compare(self, task, first, second):
        return [(1.0, 0.5)] * 21

    def close(self):
        self.seen = None


def test_tuning_a_small_network(path):
    result = tune(small(), threads=1, budget=5.0, database=path)
    assert result.database == path
    assert any(v is not None for v in result.verdicts)
    found = Database(path).read(find_setting(TARGET, "default"))
    assert found.trials
    assert not any(t.failure for trials in found.trials.values() for t in trials.values())
    assert set(found.verdicts) == {t.name for t, v in zip(result.tasks, result.verdicts, strict=True) if v is not None}
    feeds = random_feeds(small(), {})
    tuned = cnncc.compile(small(), threads=1, tuning=path)
    assert any(r.tuned for r in tuned.report().rows) == (result.network is not None)
    for name, array in interpret(small(), feeds).items():
        assert_close(tuned.run(feeds)[name], array, "winograd")


def test_kept_records_are_what_compilations_run(path):
    result = tune(small(), TARGET, budget=60.0, database=path, measurer=Table, measure_network=False)
    assert all(v is not None and v.best.kept for v in result.verdicts if v is not None and v.tried > 1)
    exe = cnncc.compile(small(), TARGET, tuning=path, frozen_schedules=True)
    rows = {r.problem: r for r in exe.report().rows}
    tuned = [v for v in result.verdicts if v is not None and v.best.kept]
    assert len(tuned) >= 3
    for found in tuned:
        assert rows[found.problem].tuned
    feeds = random_feeds(small(), {})
    for name, array in interpret(small(), feeds).items():
        assert_close(exe.run(feeds)[name], array, "winograd")


def test_the_gain_of_a_network_is_measured_in_turn(path):
    tune(small(), TARGET, budget=60.0, database=path, measurer=Table, measure_network=False)
    tuning = find_tuning(path, TARGET, "default")
    assert tuning is not None
    found = compare_network(small("N"), TARGET, "default", tuning)
    low, middle, high = found.gain
    assert 0 < low <= middle <= high
    assert min(found.default, found.tuned) > 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"target": replace(AARCH64, threads=1)}, "the target aarch64"),
        ({"target": "cuda:sm_90"}, "kind cuda"),
    ],
)
def test_what_cannot_be_tuned(path, arguments, text):
    with pytest.raises(UnsupportedError, match=text):
        tune(small(), budget=1.0, database=path, **arguments)


def test_sizes_must_be_known(path):
    graph = cnncc.parse("graph g(%x: f32[1, 3, H, W]) {\n  %1: f32[1, 3, H, W] = relu(%x)\n  return %1\n}")
    with pytest.raises(UnsupportedError, match="symbols H, W"):
        tune(graph, TARGET, budget=1.0, database=path)


def test_a_place_for_the_database_is_needed(monkeypatch):
    monkeypatch.setenv("CNNCC_TUNING", "off")
    with pytest.raises(UnsupportedError, match="--database"):
        tune(small(), TARGET, budget=1.0)


def test_the_command(model, path, monkeypatch):
    arguments = ["tune", model, "--threads", "1", "--database", str(path), "--budget"]
    shown = CliRunner().invoke(group, [*arguments, "0"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("not reached within") == len(_tasks())
    assert "the network runs as before" in shown.output
    write(path, *(verdict(t) for t in _tasks()), target=TARGET)
    result = CliRunner().invoke(group, [*arguments, "0", "--json"])
    data = json.loads(result.output)
    assert data["network"] is None
    assert {row["kept"] for row in data["kernels"]} == {False}
    assert all(row["gain"]["median"] == 1 for row in data["kernels"])


def test_the_command_shows_what_it_found(model, path, monkeypatch):
    monkeypatch.setattr("cnncc.tune.model.tune", partial(tune, measurer=Table))
    arguments = ["tune", model, "--threads", "1", "--database", str(path), "--budget", "60"]
    shown = CliRunner().invoke(group, arguments)
    assert shown.exit_code == 0, shown.output
    assert "2.000 (2.000 to 2.000)" in shown.output
    assert "kernels beat their default beyond noise" in shown.output
    assert "the network: " in shown.output
    assert "tuned, gain " in shown.output


def test_the_command_says_what_failed(model, path, monkeypatch):
    monkeypatch.setattr(Table, "time", lambda self, task, choice, stop: Failure("no [room]"))
    monkeypatch.setattr("cnncc.tune.model.tune", partial(tune, measurer=Table))
    arguments = ["tune", model, "--threads", "1", "--database", str(path), "--budget", "60"]
    shown = CliRunner().invoke(group, arguments)
    assert "no [room]" in shown.output
    assert "0 of 0 kernels" in shown.output
    data = json.loads(CliRunner().invoke(group, [*arguments, "--json"]).output)
    assert {row["failure"] for row in data["kernels"]} == {"no [room]"}


def test_progress_has_the_kernel_and_the_best_so_far():
    from rich.progress import Progress

    from cnncc.cli.tune_command import _watch

    bar = Progress(disable=True)
    watch = _watch(bar, 60.0)
    task = _tasks()[0]
    watch.on_kernel(0, 4, task)
    watch.on_trial(task, task.default, 1.0, 1.0)
    watch.on_trial(task, task.default, 1.0, 1.25)
    (line,) = bar.tasks
    assert line.description == f"kernel 1/4  best 1.25x of 2  {task.name[0]}"


def _tasks():
    from cnncc.tune.space import find_tasks

    return find_tasks(small(), TARGET, "default")


def test_frozen_schedules_on_the_command_line(model, path, tmp_path):
    runner = CliRunner()
    arguments = ["compile", model, "-o", str(tmp_path / "out.cnncc"), "--threads", "1", "--tuning", str(path)]
    write(path, *(verdict(t) for t in _tasks()[1:]), target=TARGET)
    missed = runner.invoke(group, [*arguments, "--frozen-schedules"])
    assert missed.exit_code != 0
    assert "got none for 1" in str(missed.exception)
    write(path, verdict(_tasks()[0]), target=TARGET)
    assert runner.invoke(group, [*arguments, "--frozen-schedules"]).exit_code == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_what_was_measured_survives_a_violent_end(model, path, how):
    arguments = ["tune", model, "--threads", "1", "--budget", "60", "--database", str(path)]
    with subprocess.Popen(
        [sys.executable, "-m", "cnncc", *arguments],
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": "."},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where a shell runs tests with &
    ) as process:
        for _ in range(600):
            if path.exists() and path.read_text().count('"kind":"trial"') >= 2:
                break
            time.sleep(0.05)
        process.send_signal(how)
        _, errors = process.communicate(timeout=30)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert b"goes on from there" in errors
    kept = [decode(line) for line in path.read_text().splitlines()]
    assert sum(isinstance(record, Trial) for record in kept) >= 2
    again = tune(small(), TARGET, budget=1.0, database=path, measurer=Table, measure_network=False)
    assert np.all([len(again.tasks) > 0])
