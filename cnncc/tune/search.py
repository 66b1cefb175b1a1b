"""The search: kernels in turn within a time budget, everything that was measured kept at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from cnncc.tune.database import Database
from cnncc.tune.decide import Interval, beats, gain
from cnncc.tune.measure import Failure, Measurer
from cnncc.tune.records import Choice, Measured, Setting, Trial, Verdict
from cnncc.tune.space import Task, plan

_log = logging.getLogger("cnncc.tune")
MOST = 40  # choices of a kernel
FINALISTS = 3  # measured again in turn with the default
CONFIRMED = 2  # times that a choice must beat the default, each with its operands in another place
SLOW = 2.0  # times the best: choices that need not be measured with care
SHARE = 2.0  # seconds for every kernel, before what it gets by its weight


@dataclass
class Watch:
    """What the search tells its caller."""

    on_kernel: Callable[[int, int, Task], None] = lambda done, total, task: None
    on_trial: Callable[[Task, Choice, float | Failure, float], None] = lambda task, choice, outcome, best: None
    on_verdict: Callable[[Task, Verdict], None] = lambda task, verdict: None


class Search:
    """Tunes kernels. `verdicts` fills as it goes, and `failures` with the reasons where a kernel's default has no time.
    A search that is interrupted can be made again and goes on."""

    def __init__(
        self,
        tasks: Sequence[Task],
        setting: Setting,
        database: Database,
        measurer: Measurer,
        watch: Watch | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._tasks = tasks
        self._setting = setting
        self._database = database
        self._measurer = measurer
        self._watch = watch or Watch()
        self._clock = clock
        known = database.read(setting)
        self._seconds = {t.name: {c: r.seconds for c, r in known.trials.get(t.name, {}).items()} for t in tasks}
        for task in tasks:  # without a time of the default a kernel would never be tuned
            if self._seconds[task.name].get(task.default, 0.0) is None:
                del self._seconds[task.name][task.default]
        self.failures: dict[tuple[str, str], str] = {}
        self.verdicts = {t.name: known.verdicts[t.name] for t in tasks if t.name in known.verdicts}

    def run(self, budget: float) -> None:
        """Tunes for so many seconds at most (a trial that has begun ends): the kernels that take most time first, each
        for its part of the time that is left; then again those that have choices left."""
        end = self._clock() + budget
        tasks = list(self._tasks)
        while tasks and self._clock() < end:
            unfinished = []
            for k, task in enumerate(tasks):
                left = end - self._clock()
                if left <= 0:
                    return
                self._watch.on_kernel(self._tasks.index(task), len(self._tasks), task)
                if not self._tune(task, self._clock() + _share(tasks[k:], left)):
                    unfinished.append(task)
            tasks = unfinished

    def _tune(self, task: Task, end: float) -> bool:
        """Measures choices until a time, and decides; whether none is left."""
        seconds = self._seconds[task.name]
        finalists = self._finalists(task)
        done = True
        for choice in plan(task, seconds, self._hints(task)):
            if choice in seconds:
                continue
            if len(seconds) >= MOST:
                break
            if self._clock() >= end and task.default in seconds:
                done = False
                break
            self._try(task, choice)
            if seconds.get(task.default) is None:
                return True  # without a time of the default there is nothing to compare with
        if task.name not in self.verdicts or self._finalists(task) != finalists:
            self._decide(task)
        return done

    def _hints(self, task: Task) -> list[Choice]:
        """What was kept for the same problem with something else fused around it."""
        same = (v for name, v in self.verdicts.items() if name[0] == task.name[0] and name != task.name)
        return [m.choice for v in same for m in v.choices if m.kept]

    def _finalists(self, task: Task) -> list[Choice]:
        """The fastest choices, of those that were faster than the default."""
        seconds = {c: s for c, s in self._seconds[task.name].items() if s is not None}
        default = seconds.get(task.default, 0.0)
        return sorted((c for c in seconds if seconds[c] < default), key=lambda c: seconds[c])[:FINALISTS]

    def _try(self, task: Task, choice: Choice) -> None:
        seconds = self._seconds[task.name]
        best = min((s for s in seconds.values() if s is not None), default=float("inf"))
        outcome = self._measurer.time(task, choice, SLOW * best)
        seconds[choice] = None if isinstance(outcome, Failure) else outcome
        reason = outcome.reason if isinstance(outcome, Failure) else ""
        if reason and choice == task.default:
            self.failures[task.name] = reason
        _log.debug("%s: %s: %s", task.name[0], choice, outcome)
        self._database.add(self._setting, Trial(self._setting.digest, *task.name, choice, seconds[choice], reason))
        default = seconds[task.default]
        best = min(best, seconds[choice] or best)
        self._watch.on_trial(task, choice, outcome, default / best if default else 1.0)

    def _decide(self, task: Task) -> None:
        """The fastest choices in turn with the default, and what comes of it, into the database."""
        seconds = {c: s for c, s in self._seconds[task.name].items() if s is not None}
        ordered = sorted((c for c in seconds if c != task.default), key=lambda c: seconds[c])
        compared: dict[Choice, Interval] = {}
        times = []
        for choice in self._finalists(task):
            for _ in range(CONFIRMED):
                pairs = self._measurer.compare(task, task.default, choice)
                if isinstance(pairs, Failure):
                    compared.pop(choice, None)
                    break
                times += [first for first, _ in pairs]
                compared[choice] = min(compared.get(choice, gain(pairs)), gain(pairs))
                if not beats(compared[choice]):
                    break
        default = median(times) if times else seconds[task.default]

        def measured(choice: Choice) -> Measured:
            ratio = seconds[task.default] / seconds[choice]
            interval = compared.get(choice, (ratio, ratio, ratio))
            kept = choice in compared and beats(interval)
            return Measured(choice, default / interval[1], task.way(choice.algorithm).modelled, interval, kept)

        choices = [measured(task.default)]
        for way in task.ways:
            own = [measured(c) for c in ordered if c.algorithm == way.default.algorithm]
            kept = [m for m in own if m.kept]
            if kept:
                choices.append(min(kept, key=lambda m: m.seconds))
            elif way is not task.ways[0]:  # compilations that prefer its layouts will run its own tile
                choices += [m for m in own if m.choice == way.default]
        verdict = Verdict(self._setting.digest, *task.name, tuple(choices), len(self._seconds[task.name]))
        self._database.add(self._setting, verdict)
        self.verdicts[task.name] = verdict
        self._watch.on_verdict(task, verdict)


def _share(tasks: Sequence[Task], left: float) -> float:
    """The first task's part of the seconds that are left: some for each, the rest by weight."""
    equal = min(SHARE, left / len(tasks))
    return equal + (left - equal * len(tasks)) * tasks[0].weight / sum(t.weight for t in tasks)
