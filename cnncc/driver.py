"""`cnncc.compile`: a model --> graph --> passes --> kernels --> executable, each stage named and timed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.errors import UnsupportedError
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.types import Type
from cnncc.passes.manager import Accuracy, Pass
from cnncc.targets.target import Target

if TYPE_CHECKING:
    from cnncc.kernels.build import KernelSource
    from cnncc.passes.memory import Plan
    from cnncc.runtime.executable import Executable
    from cnncc.runtime.state import State
    from cnncc.tune.lookup import Tuning

Shapes = Mapping[str, Sequence[int | str]]


@dataclass
class Progress:
    """What a compilation tells its caller: stage names with seconds, and kernels built out of how many."""

    on_stage: Callable[[str, float], None] = lambda name, seconds: None
    on_kernel: Callable[[int, int, str], None] = lambda done, total, symbol: None
    seconds: dict[str, float] = field(default_factory=dict)

    def stage(self, name: str, start: float) -> float:
        """Note a stage that began at `start`; returns the time now."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - start
        self.on_stage(name, now - start)
        return now


def compile(
    model: Any,
    target: str | Target = "native",
    threads: int | None = None,
    shapes: Shapes | Sequence[Any] | None = None,
    accuracy: Accuracy = "default",
    *,
    passes: Sequence[Pass] | None = None,
    progress: Progress | None = None,
    dump: str | os.PathLike[str] | None = None,
    tuning: str | os.PathLike[str] | None = None,
    frozen_schedules: bool = False,
    without: Iterable[str] = (),
) -> Executable:
    """Compile a model for a machine.

    model: path of an .onnx file, its bytes, onnx.ModelProto, cnncc.Graph, a cnncc.nn module, or a torch module (with
        example inputs in place of shapes).
    target: "native", "avx2", "avx512", "cuda", "cuda:sm_90", ... or a Target record.
    threads: threads a run may use (default: the processors this process may use).
    shapes: {"input": (1, 3, 224, 224)} fixes symbolic dimensions. Left out, a symbolic batch stays symbolic.
    accuracy: "strict" (the sums of the definition), "default" (also Winograd and FFT, where their bounds hold), "fast".
    passes: what runs in place of `cnncc.passes.INFERENCE`; it must end with `cnncc.passes.LOWERING`.
    dump: a folder for the IR after every pass.
    tuning: a database that `cnncc tune` wrote; left out, the user's where there is one (CNNCC_TUNING, else tuning.jsonl
        in the cache folder); "off" takes none.
    frozen_schedules: kernels without a record there are an error.
    without: kinds of fusion to leave out, by their names in `cnncc.passes.fusion.KINDS`; to measure what they bring.

    Raises ModelFileError, UnsupportedError (all unsupported operators at once), GraphError, ScheduleError (all kernels
    without a record at once).
    """
    from cnncc.runtime.specialize import Specializing, open_symbols

    progress = progress or Progress()
    start = time.perf_counter()
    if accuracy not in ("strict", "default", "fast"):
        raise UnsupportedError(f"accuracy must be 'strict', 'default' or 'fast', got {accuracy!r}")
    graph = as_graph(model, shapes)
    progress.stage("import", start)
    from cnncc.passes.fusion import check_kinds
    from cnncc.targets.machine import find_target
    from cnncc.tune.lookup import find_tuning

    machine = find_target(target, threads)
    lookup = find_tuning(tuning, machine, accuracy)
    folder, off = None if dump is None else Path(dump), check_kinds(without)

    def compiled(g: Graph) -> Executable:
        return compile_graph(
            g, machine, accuracy, progress, folder, passes=passes, tuning=lookup, frozen_schedules=frozen_schedules,
            without=off,
        )  # fmt: skip

    return Specializing(graph, compiled) if open_symbols(graph) else compiled(graph)  # type: ignore[return-value]  # answers as one


def as_graph(model: Any, shapes: Any = None) -> Graph:
    """Any kind of model that `compile` takes --> a graph."""
    if isinstance(model, Graph):
        return model if not shapes else with_shapes(model, shapes)
    from cnncc import nn

    if isinstance(model, nn.Module):
        return nn.trace(model, shapes)
    if _is_torch(model):
        from cnncc.edges.torch_edge import from_torch

        return from_torch(model, shapes)
    from cnncc.edges.onnx_import import load_onnx

    return load_onnx(model, shapes)


def with_shapes(graph: Graph, shapes: Shapes) -> Graph:
    """The graph with input shapes fixed and every type inferred anew. Raises GraphError where they contradict."""
    from cnncc.ir.reshape import bind_shapes

    return bind_shapes(graph, shapes)


def _is_torch(model: Any) -> bool:
    return any(c.__module__.split(".")[0] == "torch" and c.__name__ == "Module" for c in type(model).__mro__)


@dataclass(frozen=True)
class Planned:
    """A graph ready to be built: its kernels by symbol, who calls which, and where every value lies.

    calls: the rows of the report, one for each kernel call, as plain data; callers: their nodes. updates: inputs that
    are state, and the outputs that replace them.
    """

    graph: Graph
    plan: Plan
    symbols: Mapping[Node, str]
    sources: Mapping[str, KernelSource]
    workspaces: Mapping[Node, tuple[Type, ...]]
    calls: Sequence[dict[str, Any]]
    updates: Mapping[Value, Value]

    @property
    def callers(self) -> list[Node]:
        """The nodes whose kernels run, in order."""
        return [n for n in self.graph.nodes if n in self.symbols and n not in self.plan.skipped]


def plan_graph(
    graph: Graph,
    target: Target,
    accuracy: Accuracy = "default",
    progress: Progress | None = None,
    dump: Path | None = None,
    state: Mapping[str, str] | None = None,
    passes: Sequence[Pass] | None = None,
    tuning: Tuning | None = None,
    frozen_schedules: bool = False,
    without: frozenset[str] = frozenset(),
) -> Planned:
    """Everything before kernels are built: passes, choices, tiles, memory. Arguments as for `compile_graph`."""
    from cnncc.kernels.build import KernelSource
    from cnncc.kernels.workspaces import find_workspaces
    from cnncc.passes import INFERENCE, TRAINING
    from cnncc.passes.manager import Context, run_passes
    from cnncc.passes.memory import plan_memory
    from cnncc.passes.state import order_updates, prove_updates
    from cnncc.passes.views import find_views
    from cnncc.report import describe_calls
    from cnncc.targets.lower import kernel_key, kernel_symbol, lower_kernel

    progress = progress or Progress()
    context = Context(target, accuracy, dump=dump, tuning=tuning, frozen=frozen_schedules, without=without)
    laid = run_passes(graph, passes or (INFERENCE if state is None else TRAINING), context)
    for name, seconds in context.seconds.items():
        progress.seconds[name] = progress.seconds.get(name, 0.0) + seconds
        progress.on_stage(name, seconds)
    start = time.perf_counter()
    updates = order_updates(laid, state or {})
    views = find_views(
        laid,
        target.kind == "cpu",
        lambda node, reason: context.decline("find-views", node.where, reason),
        in_place="concat" not in without,
    )

    def lowered(node: Node) -> Any:
        return lower_kernel(node, target).func

    symbols: dict[Node, str] = {}
    sources: dict[str, KernelSource] = {}
    workspaces: dict[Node, tuple[Type, ...]] = {}
    extra: dict[str, tuple[Type, ...]] = {}
    for node in laid.nodes:
        if node.body is None:
            continue
        key = kernel_key(node)
        symbols[node] = symbol = kernel_symbol(node, key)
        if symbol not in sources:
            sources[symbol] = KernelSource(key, partial(lowered, node))
            extra[symbol] = find_workspaces(node, sources[symbol], symbol, target)
        workspaces[node] = extra[symbol]
    start = progress.stage("find workspaces", start)
    plan = plan_memory(laid, workspaces, views)
    prove_updates(laid, updates, plan)
    progress.stage("plan-memory", start)
    used = {symbols[n] for n in symbols if n not in plan.skipped}
    wanted = {s: sources[s] for s in sources if s in used}
    calls = describe_calls(laid, plan, symbols, target, context.tuned)
    return Planned(laid, plan, symbols, wanted, workspaces, calls, updates)


def compile_graph(
    graph: Graph,
    target: Target,
    accuracy: Accuracy = "default",
    progress: Progress | None = None,
    dump: Path | None = None,
    state: Mapping[str, str] | None = None,
    initial: Mapping[str, np.ndarray] | None = None,
    passes: Sequence[Pass] | None = None,
    tuning: Tuning | None = None,
    frozen_schedules: bool = False,
    without: frozenset[str] = frozenset(),
    shared: State | None = None,
) -> Executable:
    """Compile a graph whose shapes are known up to a symbolic batch.

    initial: first values of the inputs that are state (a training step: then no pass may change the weights); state:
    those that runs update, with the names of the outputs that replace them in place. shared: the state of another
    executable, in place of `initial`: inputs named there are read from it at every run.
    """
    from cnncc.assemble import assemble
    from cnncc.kernels.build import build_all
    from cnncc.runtime.executable import Executable

    progress = progress or Progress()
    if shared is not None:
        initial = {v.name: shared.arrays[v.name] for v in graph.inputs if v.name in shared.arrays}
        state = state or {}
    made = plan_graph(graph, target, accuracy, progress, dump, state, passes, tuning, frozen_schedules, without)
    start = time.perf_counter()
    notes: dict[str, Any] = {"name": graph.name, "accuracy": accuracy, "calls": made.calls}
    if target.kind == "cuda":
        from cnncc.targets.cuda.objects import NOTE, build_objects

        objects, notes[NOTE] = build_objects(made.sources, target, progress=progress.on_kernel)
    else:
        objects = build_all(made.sources, target, progress=progress.on_kernel)
    start = progress.stage("build kernels", start)
    program = assemble(
        made.graph, made.plan, made.symbols, objects, made.workspaces, target, notes, made.updates, initial
    )
    executable = Executable(program, shared, elsewhere=True)
    progress.stage("load", start)
    return executable
