"""The search, with times from a table in place of a machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cnncc.tune.database import Database, find_setting
from cnncc.tune.measure import Failure
from cnncc.tune.records import Choice
from cnncc.tune.search import MOST, Search, Watch
from cnncc.tune.space import Task
from tests.tune.networks import FIRST, TARGET, THIRD, tasks

SETTING = find_setting(TARGET, "default")
ROUNDS = 15


class Fake:
    """Answers from a function of task and choice; every answer takes a second of its own clock."""

    def __init__(self, seconds: Callable[[Task, Choice], float | Failure], noise: float = 0.0) -> None:
        self.seconds = seconds
        self.noise = noise
        self.rng = np.random.default_rng(0)
        self.asked: list[tuple[Task, Choice]] = []
        self.compared: list[tuple[Choice, Choice]] = []
        self.now = 0.0
        self.stop_at = 10**9

    def _noisy(self, seconds: float) -> float:
        return seconds * float(np.exp(self.noise * self.rng.standard_normal()))

    def time(self, task, choice, stop):
        if len(self.asked) >= self.stop_at:
            raise KeyboardInterrupt
        self.now += 1
        self.asked.append((task, choice))
        found = self.seconds(task, choice)
        return found if isinstance(found, Failure) else self._noisy(found)

    def compare(self, task, first, second):
        self.now += 1
        self.compared.append((first, second))
        a, b = self.seconds(task, first), self.seconds(task, second)
        return [(self._noisy(a), self._noisy(b)) for _ in range(ROUNDS)]

    def close(self):
        self.stop_at = 0


@pytest.fixture
def database(tmp_path):
    return Database(tmp_path / "tuning.jsonl")


def search(found, fake, database, watch=None):
    return Search(found, SETTING, Database(database.path), fake, watch, clock=lambda: fake.now)


def one(problem: str = FIRST) -> list[Task]:
    return [t for t in tasks() if t.name == (problem, "")]


def flat(task: Task, choice: Choice) -> float:
    return 1.0


def test_the_default_is_measured_first(database):
    fake = Fake(flat)
    search(tasks(), fake, database).run(1000)
    first = {}
    for task, choice in fake.asked:
        first.setdefault(task.name, choice)
    assert first == {t.name: t.default for t in tasks()}


def test_equal_choices_change_nothing(database):
    made = search(one(), fake := Fake(flat, noise=0.05), database)
    made.run(1000)
    (verdict,) = made.verdicts.values()
    assert not any(m.kept for m in verdict.choices)
    assert verdict.best is verdict.default
    assert 1 < len(fake.asked) <= MOST
    assert fake.compared  # some seemed faster


def test_the_fastest_is_found_and_kept(database):
    (task,) = one()
    wanted = list(task.candidates("direct"))[4]  # algorithms take turns, so it is among the first 40

    def seconds(task, choice):
        return {task.default: 1.0, wanted: 0.7}.get(choice, 1.1)

    made = search([task], Fake(seconds, noise=0.01), database)
    made.run(1000)
    verdict = made.verdicts[task.name]
    assert verdict.best.choice == wanted
    assert verdict.best.gain[1] == pytest.approx(1 / 0.7, rel=0.02)
    assert verdict.best.seconds == pytest.approx(0.7, rel=0.05)
    assert verdict.default.choice == task.default
    # Of other algorithms it has the time of the tile that a compilation would run.
    for measured in verdict.choices:
        if not measured.kept:
            assert measured.choice == task.way(measured.choice.algorithm).default
    assert Database(database.path).read(SETTING).verdicts[task.name] == verdict


def test_a_gain_within_noise_is_not_kept(database):
    (task,) = one()

    def seconds(task, choice):
        return 1.0 if choice == task.default else 0.97

    made = search([task], Fake(seconds, noise=0.2), database)
    made.run(1000)
    assert not any(m.kept for m in made.verdicts[task.name].choices)


def test_the_budget_holds_and_is_shared(database):
    found = tasks()
    fake = Fake(flat)
    search(found, fake, database).run(40)
    assert fake.now <= 40 + 5  # what had begun, and a decision
    asked = [task.name for task, _ in fake.asked]
    assert set(asked) == {t.name for t in found}
    assert asked.count(found[0].name) > asked.count(found[-1].name)


def test_no_budget_measures_nothing(database):
    fake = Fake(flat)
    made = search(tasks(), fake, database)
    made.run(0)
    assert not fake.asked
    assert not made.verdicts
    assert not database.path.exists()


def test_an_interrupted_search_goes_on(database):
    whole = Fake(flat)
    search(tasks(), whole, Database(database.path.with_name("other"))).run(10**6)
    fake = Fake(flat)
    fake.stop_at = 7
    with pytest.raises(KeyboardInterrupt):
        search(tasks(), fake, database).run(10**6)
    rest = Fake(flat)
    made = search(tasks(), rest, database)
    made.run(10**6)
    assert {t.name for t in tasks()} == set(made.verdicts)
    again = [(t.name, c) for t, c in fake.asked + rest.asked]
    assert sorted(map(str, again)) == sorted(str((t.name, c)) for t, c in whole.asked)


def test_a_search_that_is_complete_asks_nothing(database):
    search(tasks(), Fake(flat), database).run(10**6)
    fake = Fake(flat)
    made = search(tasks(), fake, database)
    made.run(10**6)
    assert not fake.asked
    assert not fake.compared
    assert {t.name for t in tasks()} == set(made.verdicts)


def test_a_gain_must_be_seen_twice(database):
    """Where the operands lie in memory may make a difference of its own, for one comparison."""
    fake = Fake(lambda task, choice: 1.0 if choice == task.default else 0.9)
    honest = fake.compare
    fake.compare = lambda *a: [(2.0, 1.0)] * ROUNDS if honest(*a) and len(fake.compared) % 2 else [(1.0, 1.0)] * ROUNDS
    made = search(one(), fake, database)
    made.run(10**6)
    (verdict,) = made.verdicts.values()
    assert len(fake.compared) == 6
    assert verdict.best is verdict.default
    assert verdict.default.seconds == 1.5


def test_failures_are_kept_and_not_tried_again(database):
    (task,) = one(THIRD)

    def seconds(task, choice):
        return 1.0 if choice == task.default else Failure("no answer to time within 30 s")

    outcomes = []
    watch = Watch(on_trial=lambda task, choice, outcome, best: outcomes.append(outcome))
    made = search([task], Fake(seconds), database, watch)
    made.run(10**6)
    assert made.verdicts[task.name].best.choice == task.default
    assert sum(isinstance(o, Failure) for o in outcomes) == len(outcomes) - 1 > 0
    trials = Database(database.path).read(SETTING).trials[task.name]
    assert {t.failure for t in trials.values()} == {"", "no answer to time within 30 s"}
    fake = Fake(seconds)
    search([task], fake, database).run(10**6)
    assert not fake.asked


def test_where_the_default_fails_nothing_is_decided(database):
    fake = Fake(lambda task, choice: Failure("it does not build"))
    made = search(one(), fake, database)
    made.run(10**6)
    assert len(fake.asked) == 1
    assert not made.verdicts
    again = search(one(), fake := Fake(flat), database)
    again.run(10**6)
    assert fake.asked[0][1] == one()[0].default
    assert again.verdicts


def test_a_comparison_that_fails_keeps_the_default(database):
    fake = Fake(lambda task, choice: 1.0 if choice == task.default else 0.5)
    fake.compare = lambda task, first, second: Failure("its process ended")
    made = search(one(), fake, database)
    made.run(10**6)
    (verdict,) = made.verdicts.values()
    assert verdict.best is verdict.default


def test_the_caller_is_told(database):
    events = []
    watch = Watch(
        lambda done, total, task: events.append(("kernel", done, total)),
        lambda task, choice, outcome, best: events.append(("trial", best)),
        lambda task, verdict: events.append(("verdict", verdict.tried)),
    )
    (task,) = one()
    fake = Fake(lambda task, choice: 1.0 if choice == task.default else 0.5)
    search([task], fake, database, watch).run(6)
    assert events[0] == ("kernel", 0, 1)
    assert events[1] == ("trial", 1.0)
    assert events[2] == ("trial", 2.0)
    assert events[-1][0] == "verdict"


def test_what_was_kept_for_the_same_problem_is_tried_early(database):
    (task,) = one()
    wanted = list(task.candidates("direct"))[5]
    other = replace(task, name=(task.name[0], "reads1"))

    def seconds(task, choice):
        return 0.5 if choice == wanted else 1.0

    fake = Fake(seconds)
    search([task, other], fake, database).run(10**6)
    asked = [choice for t, choice in fake.asked if t.name == other.name]
    assert asked.index(wanted) == len(task.ways)
