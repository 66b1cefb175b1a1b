"""Passes in order: each timed, its graph verified, a failure named with the pass and those before it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from cnncc.errors import VerifyError
from cnncc.ir.graph import Graph, Node
from cnncc.ir.verify import Known, verify
from cnncc.targets.target import Target

if TYPE_CHECKING:
    from cnncc.tune.lookup import Tuning

log = logging.getLogger("cnncc.passes")
Accuracy = Literal["strict", "default", "fast"]


@dataclass(frozen=True)
class Declined:
    """A rule that matched and did not apply."""

    rule: str
    where: str
    reason: str


@dataclass
class Context:
    """What passes may know: the target (None before one is chosen), the accuracy policy, measurements (`frozen`: every
    kernel must have them), `without` being kinds of fusion that are switched off (passes/fusion.py); and what they
    leave behind, `tuned` being the kernels that run a measured record."""

    target: Target | None = None
    accuracy: Accuracy = "default"
    declined: list[Declined] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    dump: Path | None = None
    tuning: Tuning | None = None
    frozen: bool = False
    tuned: set[Node] = field(default_factory=set)
    without: frozenset[str] = frozenset()

    def decline(self, rule: str, where: str, reason: str) -> None:
        """Note why a rule did not apply; shown with -v."""
        self.declined.append(Declined(rule, where, reason))
        log.debug("%s declined at %s: %s", rule, where, reason)


class Pass(Protocol):
    """A frozen dataclass whose fields are its options. `run` changes the graph in place (the manager copied it)."""

    @property
    def name(self) -> str: ...

    def run(self, graph: Graph, context: Context) -> None: ...


@dataclass(frozen=True)
class Step:
    """A pass without options: a kebab-case name and a function."""

    name: str
    function: Callable[[Graph, Context], None]

    def run(self, graph: Graph, context: Context) -> None:
        """Apply the function."""
        self.function(graph, context)


def run_passes(graph: Graph, passes: Sequence[Pass], context: Context) -> Graph:
    """A copy of the graph after the passes. Raises VerifyError naming the pass that broke an invariant."""
    graph = graph.copy()
    done: list[str] = []
    known: Known = {}
    for step in passes:
        start = time.perf_counter()
        step.run(graph, context)
        graph.tidy()
        try:
            verify(graph, known)
        except VerifyError as error:
            before = f" (after {', '.join(done)})" if done else ""
            raise VerifyError(f"{step.name}{before} left a graph that does not verify: {error}") from None
        done.append(step.name)
        context.seconds[step.name] = context.seconds.get(step.name, 0.0) + time.perf_counter() - start
        if context.dump is not None:
            context.dump.mkdir(parents=True, exist_ok=True)
            k = len(list(context.dump.glob("*.cnn")))
            (context.dump / f"{k:02d}-{step.name}.cnn").write_text(str(graph) + "\n")
    return graph
