"""From a laid-out graph, its memory plan and its kernels' objects to a `Program`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cnncc.ir.dims import Dim as GraphDim
from cnncc.ir.dims import affine
from cnncc.ir.graph import Graph, Node, Rows, Value
from cnncc.ir.types import Type
from cnncc.passes.memory import Plan, Size
from cnncc.runtime.arena import side_by_side
from cnncc.runtime.machine import cpu_flags
from cnncc.runtime.program import Affine, Buffer, Call, Dim, Port, Program
from cnncc.runtime.threads import default_threads
from cnncc.targets.target import Target

_SLICE = 1 << 23  # bytes of weights that are made at a time
_VECTOR_FLAGS = ("avx", "fma", "bmi", "f16c", "sse4")


def assemble(
    graph: Graph,
    plan: Plan,
    symbols: Mapping[Node, str],
    objects: Mapping[str, bytes],
    workspaces: Mapping[Node, tuple[Type, ...]],
    target: Target,
    notes: Mapping[str, Any],
    state: Mapping[Value, Value] | None = None,
    initial: Mapping[str, np.ndarray] | None = None,
) -> Program:
    """`symbols`: the kernel each node calls; `workspaces`: types of its extra buffers (placed by the plan).

    `initial`: first values of the inputs that are state; `state`: those that runs update, with the outputs that replace
    them in place.
    """
    initial = initial or {}
    table = _Buffers(graph, plan, {new: old for old, new in (state or {}).items()}, initial)
    calls = []
    for node in graph.nodes:
        if node in plan.skipped:
            continue
        extra = [
            table.workspace(f"{symbols[node]}.workspace{k}", type_, plan.workspaces[node][k])
            for k, type_ in enumerate(workspaces.get(node, ()))
        ]
        ids = [table.of(v) for v in (*node.operands(), *node.outputs)]
        calls.append(Call(symbols[node], (*ids, *extra), node.source or node.outputs[0].name))
    inputs = tuple(
        Port(v.name, v.type.numpy.name, _dims(v.type.shape), table.of(v)) for v in graph.inputs if v.name not in initial
    )
    outputs = tuple(
        Port(name, v.type.numpy.name, _dims(v.type.shape), table.of(v))
        for v, name in zip(graph.outputs, graph.output_names, strict=True)
        if v not in table.replaces
    )
    return Program(
        buffers=tuple(table.buffers),
        calls=tuple(calls),
        inputs=inputs,
        outputs=outputs,
        kernels=objects,
        constants=table.arrays(),
        symbols=graph.symbols,
        arena=_size(plan.arena),
        threads=target.threads,
        target=dataclasses.asdict(target),
        features=required_features(target),
        notes=notes,
    ).check()


def required_features(target: Target) -> tuple[str, ...]:
    """CPU flags that the code may use: those of the vector width; for this machine all of its vector flags."""
    if target.kind != "cpu" or (target.triple and not target.triple.startswith("x86_64")):
        return ()
    if target.name == "native":
        return tuple(sorted(f for f in cpu_flags() if f.startswith(_VECTOR_FLAGS)))
    if target.vector_bits == 256 and not target.fma:
        return ("avx",)
    by_width = {512: ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma"), 256: ("avx2", "fma")}
    return by_width.get(target.vector_bits, ())


class _Buffers:
    """Assigns each value a buffer on first use; views come after their root."""

    def __init__(self, graph: Graph, plan: Plan, replaces: Mapping[Value, Value], initial: Mapping[str, np.ndarray]):
        self.graph = graph
        self.plan = plan
        self.replaces = replaces
        self.state = {v for v in graph.inputs if v.name in initial}
        self.initial = initial
        self.buffers: list[Buffer] = []
        self.packing: dict[str, Value] = {}
        self.ids: dict[Value, int] = {}

    def of(self, value: Value) -> int:
        if value in self.replaces:
            return self.of(self.replaces[value])
        if value not in self.ids:
            made = self._make(value)
            self.ids[value] = len(self.buffers)
            self.buffers.append(made)
        return self.ids[value]

    def workspace(self, name: str, type_: Type, offset: Size) -> int:
        self.buffers.append(Buffer(name, type_.numpy.name, _dims(type_.shape), "arena", _size(offset)))
        return len(self.buffers) - 1

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights as kernels read them, and first values of state, by buffer. Several threads pack the weights: numpy
        releases the GIL where it copies."""
        values = list(self.packing.values())
        places = side_by_side([(v.type.physical, v.type.numpy) for v in values])
        with ThreadPoolExecutor(default_threads(), "cnncc-pack") as pool:
            packed = dict(zip(self.packing, pool.map(_packed, values, places), strict=True))
        return packed | {v.name: self.initial[v.name] for v in self.ids if v in self.state}

    def _make(self, value: Value) -> Buffer:
        shape, dtype = _dims(value.type.physical), value.type.numpy.name
        if value in self.plan.views:
            view = self.plan.views[value]
            base = self.of(view.root)
            pitch = self.plan.pitches.get(value, 0)
            return Buffer(value.name, dtype, shape, self.buffers[base].kind, view.offset, base, pitch)
        if value.is_constant:
            name = f"{value.name}#{len(self.buffers)}"
            self.packing[name] = value
            return Buffer(name, dtype, shape, "constant")
        if value in self.state:
            return Buffer(value.name, dtype, shape, "state")
        if value in self.graph.inputs:
            return Buffer(value.name, dtype, shape, "input")
        if value in self.graph.outputs:
            return Buffer(value.name, dtype, shape, "output")
        return Buffer(value.name, dtype, shape, "arena", _size(self.plan.offsets[value]))


def _packed(value: Value, place: np.ndarray) -> np.ndarray:
    """A constant in its layout, written to a place; what is made in rows goes there block by block."""
    layout, held = value.type.layout, value.held
    if isinstance(held, Rows) and place.size:
        block, rows = layout.factor(0), int(held.type.shape[0])
        many = block * max(1, _SLICE * len(place) // place.nbytes)
        for k in range(0, rows, many):
            end = min(k + many, rows)
            layout.pack(held.make(k, end), place[k // block : -(-end // block)])
        return place
    assert value.data is not None
    return layout.pack(value.data, place)


def _size(size: Size) -> Dim:
    return Affine.of(dict(size.terms), size.constant)


def _dims(shape: tuple[GraphDim, ...]) -> tuple[Dim, ...]:
    result = []
    for d in shape:
        constant, terms = affine(d)
        result.append(Affine.of(terms, constant))
    return tuple(result)
