"""Measuring in another process, which may hang or die without harm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from cnncc.bench.client import Client
from cnncc.targets.problem import HINT
from cnncc.targets.target import Target
from cnncc.tune.records import Choice
from cnncc.tune.space import Task

LIMIT = 30.0  # seconds for building and running one choice; as many again for starting a process
SECONDS = 0.04  # of runs of one choice
ROUNDS = 21  # of two choices in turn
TOLERANCE = 1e-4  # of the largest result, against the default choice


@dataclass(frozen=True)
class Failure:
    """Why a choice has no time."""

    reason: str


Pairs = Sequence[tuple[float, float]]


class Measurer(Protocol):
    """What the search asks for; tests put another one in its place."""

    def time(self, task: Task, choice: Choice, stop: float) -> float | Failure:
        """Seconds of a run. Choices slower than `stop` need not be measured with care."""

    def compare(self, task: Task, first: Choice, second: Choice) -> Pairs | Failure:
        """Seconds of both, in rounds of one after the other; their operands are in another place for every question."""

    def close(self) -> None:
        """No more questions."""


class Subprocess:
    """Measures in a process that is kept between trials, and killed and started anew when it hangs or dies."""

    def __init__(self, target: Target, limit: float = LIMIT) -> None:
        self._target = target
        self._limit = limit
        self._client: Client | None = None
        self._open: Task | None = None

    def time(self, task: Task, choice: Choice, stop: float) -> float | Failure:
        """See Measurer."""
        reply = self._ask(
            task, "time", way=_way(task, choice), base=_way(task, task.default), seconds=SECONDS, stop=min(stop, 1e9)
        )
        if isinstance(reply, Failure):
            return reply
        if reply["error"] > TOLERANCE:
            return Failure(f"its results differ from the default's by {reply['error']:.1e} of the largest")
        return float(reply["seconds"])

    def compare(self, task: Task, first: Choice, second: Choice) -> Pairs | Failure:
        """See Measurer."""
        self._open = None  # where memory lies may decide about a third of the time
        reply = self._ask(task, "compare", first=_way(task, first), second=_way(task, second), rounds=ROUNDS)
        return reply if isinstance(reply, Failure) else [(a, b) for a, b in reply["pairs"]]

    def close(self) -> None:
        """Ends the process."""
        if self._client is not None:
            self._client.__exit__()
        self._client = self._open = None

    def _ask(self, task: Task, do: str, **request: Any) -> dict[str, Any] | Failure:
        steps: list[tuple[str, dict[str, Any]]] = [(do, request)]
        if self._open is not task:
            steps.insert(0, ("kernel", {"text": task.text, "constants": task.constants, "batch": HINT}))
        if self._client is None:
            self._client = Client(self._target.threads, "cnncc.tune.worker")
            steps.insert(0, ("start", {"target": asdict(self._target)}))
        reply: dict[str, Any] = {}
        try:
            for step, fields in steps:
                if step == "kernel":
                    self._open = None
                reply = self._client.ask(step, self._limit * (2 if step == "start" else 1), **fields)
                if not reply["ok"]:
                    break
                if step == "kernel":
                    self._open = task
        except BaseException:  # Ctrl-C: an answer may still come, which would be taken for that of the next question
            self.close()
            raise
        if reply["ok"]:
            return reply
        if "missing" in reply or self._open is None:  # the process hangs or is dead (says the client), or of no use
            self.close()
        return Failure(str(reply["reason"]))


def _way(task: Task, choice: Choice) -> dict[str, Any]:
    way = task.way(choice.algorithm)
    return {"algorithm": choice.algorithm, "layouts": way.layouts, "tile": choice.tile}
