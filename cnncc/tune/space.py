"""What there is to tune in a graph: its distinct kernels, each alone as text, and the choices for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.kernel import KernelAttrs, kernel_node
from cnncc.passes import INFERENCE, Context, run_passes
from cnncc.passes.alternatives import by_algorithm
from cnncc.passes.choose import layout_tags
from cnncc.passes.manager import Accuracy
from cnncc.passes.tiles import tile_pairs
from cnncc.targets.describe import describe
from cnncc.targets.table import find_algorithm
from cnncc.targets.target import Target
from cnncc.tune.records import Choice
from cnncc.tune.region import kernel_name


@dataclass(frozen=True)
class Way:
    """An algorithm that can run a kernel: its tile by the model, the layouts it wants, its modelled seconds."""

    default: Choice
    layouts: tuple[str, ...]
    modelled: float


@dataclass(frozen=True)
class Task:
    """A kernel to tune. `text`: a graph of it alone, whose inputs in `constants` are weights. `ways`: the algorithms,
    that of the untuned compilation first. `count`: how often the network runs it."""

    name: tuple[str, str]
    layer: str
    text: str
    constants: tuple[str, ...]
    ways: tuple[Way, ...]
    problem: Any = field(compare=False)
    target: Target
    count: int = 1

    @property
    def default(self) -> Choice:
        """What compilations take without tuning."""
        return self.ways[0].default

    @property
    def weight(self) -> float:
        """Modelled seconds of the network that go into this kernel."""
        return self.count * self.ways[0].modelled

    def way(self, algorithm: str) -> Way:
        """The way of an algorithm."""
        return next(w for w in self.ways if w.default.algorithm == algorithm)

    def candidates(self, algorithm: str) -> Iterator[Choice]:
        """The choices of an algorithm, the most promising first; its default tile may be among them."""
        record = find_algorithm(self.target, algorithm)
        assert record is not None
        tiles = record.candidates(self.problem, self.target) if record.candidates is not None else iter(())
        return (Choice(algorithm, tile_pairs(tile)) for tile in tiles)


def find_tasks(graph: Graph, target: Target, accuracy: Accuracy) -> list[Task]:
    """The distinct kernels of a graph that run an algorithm, those first that take most of the modelled time."""
    names = [step.name for step in INFERENCE]
    context = Context(target, accuracy)
    chosen = run_passes(graph, INFERENCE[: names.index("fuse-pools")], context)
    found: dict[tuple[str, str], list[Node]] = {}
    for node in chosen.nodes:
        if node.body is None or find_algorithm(target, node.attrs.algorithm) is None:
            continue
        name = kernel_name(node.body)
        if name is not None:
            found.setdefault(name, []).append(node)
    tasks = [_task(name, nodes, context) for name, nodes in found.items()]
    return sorted(tasks, key=lambda task: -task.weight)


def _task(name: tuple[str, str], nodes: list[Node], context: Context) -> Task:
    node, target = nodes[0], context.target
    assert node.body is not None
    assert target is not None
    problem = describe(node.body)
    ways = []
    for way in by_algorithm(node, node.body, target, Context(target, context.accuracy)):
        record = find_algorithm(target, way.algorithm)
        assert record is not None
        choice = Choice(way.algorithm, tile_pairs(record.tiles_for(problem, target)))
        ways.append(Way(choice, layout_tags(node, way), way.seconds))
    ways.sort(key=lambda way: (way.default.algorithm != node.attrs.algorithm, way.modelled))
    text, constants = _alone(node, node.body)
    layer = node.source or node.outputs[0].name
    return Task(name, layer, text, constants, tuple(ways), problem, target, len(nodes))


def _alone(node: Node, body: Graph) -> tuple[str, tuple[str, ...]]:
    """A graph of one kernel, as text, and the names of its inputs that are constants in the network."""
    graph = Graph("kernel")
    inputs: dict[Value, Value] = {}
    for value in node.operands():
        if value not in inputs:
            inputs[value] = graph.add_input(f"a{len(inputs)}", value.type)
    kernel = kernel_node(graph, body.copy(), [inputs[v] for v in node.operands()], KernelAttrs(), "")
    graph.add_node(kernel)
    for output in kernel.outputs:
        graph.add_output(output)
    return str(graph), tuple(alone.name for value, alone in inputs.items() if value.is_constant)


def plan(
    task: Task, seconds: dict[Choice, float | None], hints: Sequence[Choice] = (), near: float = 1.5
) -> Iterator[Choice]:
    """Choices in the order in which to measure them: every algorithm with its own tile, the hints, then the tiles of
    the algorithms that came within `near` of the best, in turn. `seconds` is what was measured until then (None: it
    failed)."""
    yield from (way.default for way in task.ways)
    names = {way.default.algorithm for way in task.ways}
    yield from (choice for choice in hints if choice.algorithm in names)
    queues = {way.default.algorithm: task.candidates(way.default.algorithm) for way in task.ways}
    while queues:
        for algorithm in list(queues):
            best = min((s for s in seconds.values() if s is not None), default=float("inf"))
            own = [s for c, s in seconds.items() if c.algorithm == algorithm and s is not None]
            following = next(chain(queues[algorithm], [None]), None)
            if following is None or not own or min(own) > near * best:
                del queues[algorithm]
            else:
                yield following
