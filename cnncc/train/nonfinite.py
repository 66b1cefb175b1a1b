"""The watch on NaN and infinity: which layer made the first one, in which direction, at which step.

A step updates its parameters in place, so when a loss comes out as NaN the parameters that led to it are gone. The
watch therefore keeps a copy of the step's state and the batches since; when something is not finite it goes back to the
copy, does the same steps again (they give the same bits), finds the first one that left a value behind that is not
finite, and runs that step's graph operation by operation.

Cost while all is well: a look at the loss of every step, a copy of the state every `STEPS` steps (or as soon as the
batches that are kept pass `BYTES`), and the memory of the copy and of those batches. The copy reads and writes every
parameter and optimizer slot once, which a step itself does more than once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cnncc.errors import NonFiniteError
from cnncc.interpret import evaluate_each
from cnncc.ir.graph import Graph, Node, Value
from cnncc.train.graphs import LOSS, NEW

if TYPE_CHECKING:
    from cnncc.train.step import TrainStep

STEPS = 64
BYTES = 64 << 20
SHOWN = 3


@dataclass(frozen=True)
class Origin:
    """An operation whose operands are finite and whose result is not.

    layer: its name in the user's model ("" where it has none); direction: "forward", "backward" or "update";
    nans, infinities, size: of its result. constant: whether it took them from a constant of the graph.
    """

    layer: str
    op: str
    direction: str
    nans: int
    infinities: int
    size: int
    constant: bool = False

    def __str__(self) -> str:
        name = f"layer '{self.layer}' ({self.op})" if self.layer else self.op
        counts = [f"{n:,} {what}" for n, what in ((self.nans, "NaN"), (self.infinities, "infinite")) if n]
        text = f"{name}, {self.direction}: {' and '.join(counts)} of {self.size:,} values"
        if self.constant:
            text += ", from a constant (losses are NaN where a label is neither a class nor ignored)"
        return text


@dataclass(frozen=True)
class _Done:
    """A step that was done: all that went into it beside the state, its place in the run."""

    feeds: Mapping[str, np.ndarray]
    epoch: int
    steps: int


class Watch:
    """Looks at every step of a run. The state is copied before the first step and then now and again."""

    def __init__(self, step: TrainStep):
        self.step = step
        self._state: dict[str, np.ndarray] = {}
        self._done: list[_Done] = []
        self._bytes = 0

    def before(self, feeds: Mapping[str, np.ndarray], epoch: int, steps: int) -> None:
        """A step is about to run on what `TrainStep.feeds` gave; so many epochs and steps are done."""
        if not self._done or len(self._done) >= STEPS or self._bytes > BYTES:
            self._copy()
            self._done, self._bytes = [], 0
        self._done.append(_Done(feeds, epoch, steps))
        self._bytes += sum(a.nbytes for a in feeds.values())

    def after(self, result: Mapping[str, float]) -> None:
        """The step gave these numbers. Raises NonFiniteError where one of them is not finite."""
        if not all(math.isfinite(v) for v in result.values()):
            self.explain()

    def check_state(self) -> None:
        """Raises NonFiniteError where a parameter, buffer or slot is not finite: asked once an epoch."""
        if _bad_names(_live(self.step)):
            self.explain()

    def _copy(self) -> None:
        """Into the same memory every time: fresh memory costs more than copying does."""
        for name, array in _live(self.step).items():
            if name in self._state:
                np.copyto(self._state[name], array)
            else:
                self._state[name] = array.copy()

    def explain(self) -> None:
        """Do the steps since the copy again, up to the one that went wrong, and raise NonFiniteError about it."""
        self.step.load_state_dict({**self.step.state_dict(), **self._state})
        for done in self._done:
            before = self.step.state_dict()
            result = self.step.run(done.feeds)
            after = _bad_names(_live(self.step))
            bad = [n for n, v in result.items() if not math.isfinite(v)]
            if bad or after:
                self.step.load_state_dict(before)
                raise NonFiniteError(_message(self.step, done, before, bad, after))
        raise NonFiniteError(
            f"a value was not finite, but the {len(self._done)} steps before it gave finite ones when done again"
        )


def _find(step: TrainStep, done: _Done, before: Mapping[str, np.ndarray]) -> list[Origin]:
    assert step.graph is not None
    arrays = {**before, **done.feeds}
    found, results = find_origins(step.graph, arrays)
    if found or step.update_graph is None:
        return found
    state = {n.removesuffix(NEW): a for n, a in results.items() if n.endswith(NEW)}
    return find_origins(step.update_graph, {**arrays, **state})[0]


def find_origins(graph: Graph, feeds: Mapping[str, np.ndarray]) -> tuple[list[Origin], dict[str, np.ndarray]]:
    """The first operations of a step's graph that make values that are not finite from operands that are.

    Where there are none, those that took them from constants (masks have infinite ones, so they are no origin else).
    Also the outputs by name, as far as it was run: it ends with the last of those operations.
    """
    before, wanted = _forward(graph), set(graph.outputs)
    found: list[Origin] = []
    taken: list[Origin] = []
    arrays = {v: feeds[v.name] for v in graph.inputs}
    constants = {v for v in graph.constants if v.data is not None and not _finite(v.data)}
    bad = {v for v, a in arrays.items() if not _finite(a)}
    outputs: dict[Value, np.ndarray] = {}
    for node, results in evaluate_each(graph, arrays):
        outputs.update((v, a) for v, a in zip(node.outputs, results, strict=True) if v in wanted)
        broken = [(v, a) for v, a in zip(node.outputs, results, strict=True) if not _finite(a)]
        if broken and not any(v in bad for v in node.operands()):
            constant = any(v in constants for v in node.operands())
            (taken if constant else found).append(_origin(node, broken[0][1], before, constant))
            if len(found) == SHOWN:
                break
        bad.update(v for v, _ in broken)
    named = zip(graph.outputs, graph.output_names, strict=True)
    return found or taken[:SHOWN], {name: outputs[v] for v, name in named if v in outputs}


def _origin(node: Node, array: np.ndarray, before: set[Node], constant: bool) -> Origin:
    name = node.source
    direction = "forward" if node in before else "backward" if name.startswith("grad of ") else "update"
    nans = int(np.isnan(array).sum())
    infinities = int(np.isinf(array).sum())
    return Origin(name.removeprefix("grad of "), node.op, direction, nans, infinities, array.size, constant)


def _forward(graph: Graph) -> set[Node]:
    """The nodes that the loss depends on."""
    wanted = {v for v, name in zip(graph.outputs, graph.output_names, strict=True) if name == LOSS}
    nodes = set()
    for node in reversed(graph.nodes):
        if wanted & set(node.outputs):
            nodes.add(node)
            wanted.update(node.operands())
    return nodes


def _finite(array: np.ndarray) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _live(step: TrainStep) -> Mapping[str, np.ndarray]:
    """What a step changes, where it lies."""
    assert step.executable is not None
    return step.executable.state.arrays


def _bad_names(state: Mapping[str, np.ndarray]) -> list[str]:
    return [n for n, a in state.items() if not _finite(a)]


def _message(
    step: TrainStep, done: _Done, before: Mapping[str, np.ndarray], bad: Sequence[str], after: Sequence[str]
) -> str:
    what = f"the loss is {'not finite' if 'loss' in bad else 'finite'}"
    if after:
        what += f", {len(after)} of the parameters and their state would not be ({', '.join(after[:SHOWN])})"
    lines = [f"step {done.steps + 1} (epoch {done.epoch + 1}): {what}"]
    for name, array in (*done.feeds.items(), *before.items()):
        if not _finite(array):
            lines.append(f"{name} already held values that are not finite before the step")
    origins = _find(step, done, before)
    if origins:
        lines.append(f"first made by {origins[0]}")
        lines += [f"then by {origin}" for origin in origins[1:]]
    elif len(lines) == 1:
        lines.append("the interpreter's values of this step are all finite: compiled kernels alone made the others")
    lines.append("the step is left as it was before this update")
    return "\n  ".join(lines)
