"""What compilations make of a database: other tiles, other algorithms, frozen schedules; and always right results."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

import cnncc
from cnncc.errors import ModelFileError, ScheduleError
from cnncc.interpret import interpret
from cnncc.passes import INFERENCE, Context, run_passes
from cnncc.targets.table import find_algorithm
from cnncc.tune.database import Database, find_setting
from cnncc.tune.lookup import Tuning, find_tuning
from cnncc.tune.records import Choice, encode
from tests.graphs import random_feeds
from tests.tolerances import assert_close
from tests.tune.networks import FIRST, SECOND, TARGET, THIRD, small, tasks, verdict, write

THIRD_WIDER = """
graph g(%x: f32[1, 32, 9, 9], %w: f32[16, 32, 1, 1]) {
  %1: f32[1, 16, 9, 9] = kernel(%x=%x, %w=%w) {
    %1: f32[1, 16, 9, 9] = conv(%x, %w)
    return %1
  }
  return %1
}
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tuning.jsonl"


def kernels(graph):
    """Kernels that run an algorithm, by problem."""
    from cnncc.tune.region import kernel_name

    named = ((kernel_name(n.body), n) for n in graph.nodes if n.body is not None)
    return {name[0]: node for name, node in named if name is not None}


def laid(tuning: Tuning | None, frozen: bool = False):
    context = Context(TARGET, tuning=tuning, frozen=frozen)
    return run_passes(small(), INFERENCE, context), context


def task_of(problem: str):
    return next(t for t in tasks() if t.name[0] == problem)


def second_choice(task, algorithm: str) -> Choice:
    """A tile of an algorithm that is not its default."""
    own = task.way(algorithm).default
    return next(c for c in task.candidates(algorithm) if c != own)


def test_an_empty_database_changes_nothing(path):
    empty, context = laid(Tuning(Database(path).read(find_setting(TARGET, "default"))))
    assert str(empty) == str(laid(None)[0])
    assert not context.tuned


def test_a_kept_tile_is_used(path):
    task = task_of(THIRD)
    choice = second_choice(task, task.default.algorithm)
    write(path, verdict(task, (choice, 1.3)))
    graph, context = laid(find_tuning(path, TARGET, "default"))
    node = kernels(graph)[THIRD]
    assert node.attrs.tile == choice.tile
    assert context.tuned == {node}
    plain, _ = laid(None)
    assert node.attrs.tile != kernels(plain)[THIRD].attrs.tile
    assert {p: n.attrs for p, n in kernels(graph).items() if p != THIRD} == {
        p: n.attrs for p, n in kernels(plain).items() if p != THIRD
    }


def test_what_was_not_kept_is_not_used(path):
    task = task_of(THIRD)
    write(path, verdict(task, (second_choice(task, task.default.algorithm), 1.3), kept=False))
    graph, context = laid(find_tuning(path, TARGET, "default"))
    assert str(graph) == str(laid(None)[0])
    assert not context.tuned


@pytest.mark.parametrize("algorithm", ["direct", "winograd_f2", "winograd_f4"])
@pytest.mark.parametrize("problem", [FIRST, SECOND])
def test_a_faster_algorithm_is_chosen(path, problem, algorithm):
    task = task_of(problem)
    choice = task.way(algorithm).default
    others = [(w.default, 0.5) for w in task.ways[1:] if w.default != choice]
    if choice == task.default:
        write(path, verdict(task, *others, kept=False))
    else:
        write(path, verdict(task, (choice, 3.0)))
    graph, _ = laid(find_tuning(path, TARGET, "default"))
    assert kernels(graph)[problem].attrs.algorithm == algorithm


def test_an_algorithm_that_only_seems_faster_is_not_chosen(path):
    task = task_of(SECOND)
    others = [(way.default, 5.0) for way in task.ways[1:]]
    write(path, verdict(task, *others, kept=False))
    graph, _ = laid(find_tuning(path, TARGET, "default"))
    assert kernels(graph)[SECOND].attrs.algorithm == task.default.algorithm


def test_times_are_in_the_measure_of_the_model(path):
    """A machine that runs everything ten times slower than modelled decides as the model does."""
    found = tasks()
    write(path, *(verdict(t, default=10 * t.ways[0].modelled) for t in found))
    tuning = find_tuning(path, TARGET, "default")
    assert tuning is not None
    graph, _ = laid(tuning)
    assert str(graph) == str(laid(None)[0])
    body = next(n.body for n in cnncc.parse(found[0].text).nodes)
    assert tuning.seconds(body, found[0].default.algorithm, 1e9) == pytest.approx(found[0].ways[0].modelled)
    assert tuning.seconds(body, "not measured", 1.0) == pytest.approx(1.0)


def test_what_was_not_measured_is_to_the_default_as_modelled(path):
    slow, *others = tasks()
    write(path, verdict(slow, default=3 * slow.ways[0].modelled), *map(verdict, others))
    tuning = find_tuning(path, TARGET, "default")
    assert tuning is not None
    body = next(n.body for n in cnncc.parse(slow.text).nodes)
    assert tuning.seconds(body, "not measured", 1.0) == pytest.approx(3.0)
    assert tuning.seconds(next(n.body for n in cnncc.parse(THIRD_WIDER).nodes), "direct", 1.0) == 1.0


def test_records_of_another_setting_count_for_nothing(path):
    task = task_of(THIRD)
    record = verdict(task, (second_choice(task, task.default.algorithm), 1.3))
    write(path, record, target=replace(TARGET, threads=2))
    write(path, record, accuracy="strict")
    assert str(laid(find_tuning(path, TARGET, "default"))[0]) == str(laid(None)[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda tile: tile[:-1],
        lambda tile: (*tile, ("surplus", 1)),
        lambda tile: tuple((k, (7, 7, 7) if k == "pixels" else v) for k, v in tile),
        lambda tile: tuple((k, "7" if k == "vectors" else v) for k, v in tile),
        lambda tile: tuple((k, 1 if k == "parallel" else v) for k, v in tile),
    ],
)
def test_what_is_no_tile_is_reported_and_not_used(path, caplog, change):
    task = task_of(THIRD)
    pairs = change(task.default.tile)
    write(path, verdict(task, (Choice(task.default.algorithm, pairs), 1.3)))
    with caplog.at_level(logging.WARNING, "cnncc"):
        graph, context = laid(find_tuning(path, TARGET, "default"))
    assert "has no tile" in caplog.text
    assert str(graph) == str(laid(None)[0])
    assert not context.tuned


def test_tiles_of_algorithms_from_outside_must_be_candidates(path, monkeypatch, caplog):
    task = task_of(THIRD)
    record = find_algorithm(TARGET, task.default.algorithm)
    choice = second_choice(task, record.name)
    write(path, verdict(task, (choice, 1.3)))
    monkeypatch.setattr("cnncc.tune.lookup.registered", lambda: (record,))
    assert kernels(laid(find_tuning(path, TARGET, "default"))[0])[THIRD].attrs.tile == choice.tile
    outside = replace(record, candidates=lambda problem, target: iter(()))
    monkeypatch.setattr("cnncc.tune.lookup.registered", lambda: (outside,))
    tuning = find_tuning(path, TARGET, "default")
    body = next(n.body for n in cnncc.parse(task.text).nodes)
    assert tuning.tile(body, outside, task.problem, TARGET) is None
    assert "has no tile" in caplog.text


def test_frozen_schedules_list_what_is_missing(path):
    found = tasks()
    write(path, *(verdict(t) for t in found if t.name[0] != SECOND))
    with pytest.raises(ScheduleError, match="got none for 1 ") as error:
        laid(find_tuning(path, TARGET, "default"), frozen=True)
    assert SECOND in str(error.value)
    assert FIRST not in str(error.value)
    write(path, verdict(task_of(SECOND)))
    laid(find_tuning(path, TARGET, "default"), frozen=True)


def test_frozen_schedules_without_a_database_list_everything(monkeypatch):
    monkeypatch.setenv("CNNCC_TUNING", "off")
    with pytest.raises(ScheduleError) as error:
        cnncc.compile(small(), TARGET, frozen_schedules=True)
    assert all(problem in str(error.value) for problem in (FIRST, SECOND, THIRD))


def test_a_database_that_is_named_must_exist(path):
    with pytest.raises(ModelFileError, match="no such tuning database"):
        cnncc.compile(small(), TARGET, tuning=path)


def test_a_users_database_that_cannot_be_read_is_no_error(path, monkeypatch, caplog):
    write(path, verdict(task_of(THIRD)))

    def unreadable(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", unreadable)
    monkeypatch.setenv("CNNCC_TUNING", str(path))
    assert find_tuning(None, TARGET, "default") is None
    assert "compiling without it" in caplog.text
    with pytest.raises(ModelFileError, match="Permission denied"):
        find_tuning(path, TARGET, "default")


def test_the_users_database(path, monkeypatch):
    monkeypatch.setenv("CNNCC_TUNING", str(path))
    assert find_tuning(None, TARGET, "default") is None
    write(path, verdict(task_of(THIRD)))
    assert find_tuning(None, TARGET, "default") is not None
    assert find_tuning("off", TARGET, "default") is None
    monkeypatch.setenv("CNNCC_TUNING", "off")
    assert find_tuning(None, TARGET, "default") is None


def test_compiled_with_records(path, monkeypatch):
    """Right results, the same ones again, and a report that says which kernels are tuned."""
    found = [t for t in tasks() if t.name[0] in (FIRST, SECOND, THIRD)]
    target = TARGET
    records = []
    for task in found:
        algorithm = next((w.default.algorithm for w in task.ways[1:]), task.default.algorithm)
        records.append(verdict(task, (second_choice(task, algorithm), 4.0)))
    write(path, *records)
    feeds = random_feeds(small(), {})
    expected = interpret(small(), feeds)
    one = cnncc.compile(small(), target, tuning=path)
    rows = {r.problem: r for r in one.report().rows if r.problem}
    assert [rows[p].tuned for p in (FIRST, SECOND, THIRD)] == [True] * 3
    assert "(tuned)" in str(one.report())
    plain = cnncc.compile(small(), target, tuning="off")
    assert not any(r.tuned for r in plain.report().rows)
    assert {r.algorithm for r in plain.report().rows} != {r.algorithm for r in one.report().rows}
    for name, array in one.run(feeds).items():
        assert_close(array, expected[name], "winograd")
    again = cnncc.compile(small(), target, tuning=path)
    assert again.report() == one.report()
    for a, b in zip(one.run(feeds).values(), again.run(feeds).values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_damaged_database_compiles(path, caplog):
    task = task_of(THIRD)
    write(path, verdict(task, (second_choice(task, task.default.algorithm), 1.3)))
    path.write_text(path.read_text()[:-30] + "\n" + encode(find_setting(TARGET, "strict"))[5:] + "\n")
    with caplog.at_level(logging.WARNING, "cnncc"):
        assert str(laid(find_tuning(path, TARGET, "default"))[0]) == str(laid(None)[0])
    assert "is skipped" in caplog.text
