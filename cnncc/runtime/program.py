"""A compiled model as plain data: buffers, the calls on them in order, the objects and arrays they need.

Nothing here runs anything. `Executable` runs a program, `artifact` writes one to a file. Sizes are in bytes, shapes
are physical (as the kernels declare them), and an extent is an integer or an `Affine` of the graph's symbols.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Kind = Literal["input", "output", "constant", "state", "arena"]
KINDS: tuple[Kind, ...] = ("input", "output", "constant", "state", "arena")
RUN_LOOP = "cnncc_run_calls"  # the symbol of the run loop among a program's kernels
BARRIER = b"TVMBackendParallelBarrier"  # what a kernel calls that all threads of a team run


@dataclass(frozen=True)
class Affine:
    """A sum of symbols times integers, plus an integer: ``49*N + 3``. Terms are sorted and never zero."""

    terms: tuple[tuple[str, int], ...] = ()
    constant: int = 0

    @staticmethod
    def of(terms: Mapping[str, int], constant: int = 0) -> Dim:
        """The affine with these coefficients; an integer where no symbol is left."""
        kept = tuple(sorted((s, c) for s, c in terms.items() if c))
        return Affine(kept, constant) if kept else constant

    @staticmethod
    def symbol(name: str) -> Affine:
        """The symbol itself."""
        return Affine(((name, 1),))

    def at(self, values: Mapping[str, int]) -> int:
        """The value where the symbols have these values."""
        return self.constant + sum(values[s] * c for s, c in self.terms)

    def __add__(self, other: Dim) -> Dim:
        if isinstance(other, int):
            return Affine(self.terms, self.constant + other)
        total = dict(self.terms)
        for s, c in other.terms:
            total[s] = total.get(s, 0) + c
        return Affine.of(total, self.constant + other.constant)

    __radd__ = __add__

    def __mul__(self, factor: int) -> Dim:
        return Affine.of({s: c * factor for s, c in self.terms}, self.constant * factor)

    __rmul__ = __mul__

    def __str__(self) -> str:
        parts = [s if c == 1 else f"{c}*{s}" for s, c in self.terms]
        if self.constant or not parts:
            parts.append(str(self.constant))
        return " + ".join(parts)


Dim = int | Affine


def dim_at(dim: Dim, values: Mapping[str, int]) -> int:
    """An extent where the symbols have these values."""
    return dim if isinstance(dim, int) else dim.at(values)


def shape_at(shape: tuple[Dim, ...], values: Mapping[str, int]) -> tuple[int, ...]:
    """A shape where the symbols have these values."""
    return tuple(dim_at(d, values) for d in shape)


def show_shape(shape: tuple[Dim, ...]) -> str:
    """A shape as messages print it: ``(N, 3, 224, 224)``."""
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


@dataclass(frozen=True)
class Buffer:
    """Memory that calls read and write.

    `offset`: bytes from the start of the arena (kind "arena"), or from the start of `base`; a multiple of 64.
    `base`: id of the buffer that this one is a view of (the same bytes under another shape); None: memory of its own.
    `pitch`: elements from one index of the first axis to the next where that is more than it holds; 0: it is not.
    A constant's or state's array stands in `Program.constants` under the buffer's name.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    kind: Kind
    offset: Dim = 0
    base: int | None = None
    pitch: int = 0

    def span(self, values: Mapping[str, int]) -> int:
        """Bytes from its first element to behind its last, where the symbols have these values."""
        count, *rest = shape_at(self.shape, values) or (1,)
        whole = math.prod(rest)
        elements = (count - 1) * self.pitch + whole if self.pitch and count else count * whole
        return elements * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Call:
    """One kernel call: the kernel's symbol, buffer ids in the order of its arguments, and the node it came from."""

    kernel: str
    buffers: tuple[int, ...]
    node: str = ""


@dataclass(frozen=True)
class Port:
    """An input or output of the model: its name, dtype, logical (row-major) shape, and the buffer that holds it."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    buffer: int


@dataclass(frozen=True)
class Program:
    """A compiled model. Buffers are addressed by their position in `buffers`.

    `kernels`: symbol --> object file, the run loop (`cnncc.kernels.driver`) among them.
    `constants`: buffer name --> array, for constants and as the first value of state.
    `target`: the target's record as plain data; `features`: CPU flags (as /proc/cpuinfo spells them) that must be
    present to run; `threads`: what one run may use; `notes`: anything JSON that the driver wants to find again.
    """

    buffers: tuple[Buffer, ...]
    calls: tuple[Call, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    kernels: Mapping[str, bytes]
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    symbols: tuple[str, ...] = ()
    arena: Dim = 0
    threads: int = 1
    target: Mapping[str, Any] = field(default_factory=dict)
    features: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    def root(self, index: int) -> int:
        """The buffer that owns the memory of a buffer (itself, unless it is a view)."""
        base = self.buffers[index].base
        return index if base is None else self.root(base)

    @property
    def team_kernels(self) -> frozenset[str]:
        """The kernels that all threads run together; the others are run by one."""
        return frozenset(name for name, data in self.kernels.items() if BARRIER in data and name != RUN_LOOP)

    def check(self) -> Program:
        """Itself, where it is consistent. Raises GraphError naming the first thing that is not."""
        from cnncc.runtime.check import check_program

        check_program(self)
        return self

    def to_json(self) -> dict[str, Any]:
        """Everything but the objects and arrays, as JSON values."""
        return {
            "symbols": list(self.symbols),
            "buffers": [
                {"name": b.name, "dtype": b.dtype, "shape": _dims(b.shape), "kind": b.kind}
                | ({"offset": _dim(b.offset)} if b.offset != 0 else {})
                | ({"base": b.base} if b.base is not None else {})
                | ({"pitch": b.pitch} if b.pitch else {})
                for b in self.buffers
            ],
            "calls": [[c.kernel, list(c.buffers), c.node] for c in self.calls],
            "inputs": [_port(p) for p in self.inputs],
            "outputs": [_port(p) for p in self.outputs],
            "arena": _dim(self.arena),
            "threads": self.threads,
            "target": dict(self.target),
            "features": list(self.features),
            "notes": dict(self.notes),
        }

    @staticmethod
    def from_json(
        data: Mapping[str, Any], kernels: Mapping[str, bytes], constants: Mapping[str, np.ndarray]
    ) -> Program:
        """Inverse of `to_json`. Raises KeyError, TypeError or ValueError on anything else than its result."""
        return Program(
            buffers=tuple(
                Buffer(
                    str(b["name"]),
                    np.dtype(b["dtype"]).name,
                    _undims(b["shape"]),
                    KINDS[KINDS.index(b["kind"])],
                    _undim(b.get("offset", 0)),
                    b.get("base"),
                    int(b.get("pitch", 0)),
                )
                for b in data["buffers"]
            ),
            calls=tuple(Call(str(k), tuple(map(int, ids)), str(node)) for k, ids, node in data["calls"]),
            inputs=tuple(map(_unport, data["inputs"])),
            outputs=tuple(map(_unport, data["outputs"])),
            kernels=kernels,
            constants=constants,
            symbols=tuple(map(str, data["symbols"])),
            arena=_undim(data["arena"]),
            threads=int(data["threads"]),
            target=dict(data["target"]),
            features=tuple(map(str, data["features"])),
            notes=dict(data["notes"]),
        )


def _dim(dim: Dim) -> int | list[Any]:
    return dim if isinstance(dim, int) else [dict(dim.terms), dim.constant]


def _dims(shape: tuple[Dim, ...]) -> list[Any]:
    return [_dim(d) for d in shape]


def _undim(data: Any) -> Dim:
    if isinstance(data, int):
        return data
    terms, constant = data
    return Affine.of({str(s): int(c) for s, c in terms.items()}, int(constant))


def _undims(data: Any) -> tuple[Dim, ...]:
    return tuple(map(_undim, data))


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "dtype": port.dtype, "shape": _dims(port.shape), "buffer": port.buffer}


def _unport(data: Mapping[str, Any]) -> Port:
    return Port(str(data["name"]), np.dtype(data["dtype"]).name, _undims(data["shape"]), int(data["buffer"]))
