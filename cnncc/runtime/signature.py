"""What a program takes and gives, matched with arrays: dtypes, ranks, extents, and the sizes of its symbols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.runtime.arena import empty
from cnncc.runtime.arrays import as_numpy
from cnncc.runtime.program import Affine, Port, Program, shape_at, show_shape

_SIZES_KEPT = 256


@dataclass(frozen=True)
class Sizes:
    """What follows from the shapes of the inputs: the symbols' values, and the shapes of the results."""

    values: Mapping[str, int]
    key: tuple[int, ...]
    results: tuple[tuple[int, ...], ...]

    @property
    def zero(self) -> list[str]:
        """Symbols whose value is zero."""
        return [s for s, v in self.values.items() if v == 0]


class Signature:
    """The inputs and outputs of a program."""

    def __init__(self, program: Program) -> None:
        self.inputs = program.inputs
        self.outputs = program.outputs
        self._symbols = program.symbols
        self._names = [p.name for p in self.inputs]
        self._dtypes = [np.dtype(p.dtype) for p in self.outputs]
        self._known: dict[tuple[tuple[int, ...], ...], Sizes] = {}

    def order(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The values in the order of the inputs. Raises GraphError naming all missing and all unknown ones."""
        if len(feeds) == len(self._names):
            try:
                return [feeds[n] for n in self._names]
            except KeyError:
                pass  # explained below
        missing = [n for n in self._names if n not in feeds]
        unknown = [n for n in feeds if n not in self._names]
        problems = [f"missing {', '.join(map(repr, missing))}"] if missing else []
        problems += [f"unknown {', '.join(map(repr, unknown))}"] if unknown else []
        names = ", ".join(map(repr, self._names)) or "none"
        raise GraphError(f"inputs must be {names}, got {' and '.join(problems)}")

    def take(self, given: Sequence[Any]) -> tuple[list[np.ndarray], Sizes]:
        """What a caller gave, in order --> arrays and sizes. Raises GraphError naming input, rule and numbers."""
        arrays = [as_numpy(p.name, v, p.dtype) for p, v in zip(self.inputs, given, strict=True)]
        shapes = tuple([a.shape for a in arrays])
        sizes = self._known.get(shapes)
        if sizes is None:
            values = solve_symbols(self.inputs, shapes)
            results = tuple(shape_at(p.shape, values) for p in self.outputs)
            sizes = Sizes(values, tuple(values[s] for s in self._symbols), results)
            if len(self._known) >= _SIZES_KEPT:
                self._known.clear()
            self._known[shapes] = sizes
        return arrays, sizes

    def fresh(self, sizes: Sizes) -> list[np.ndarray]:
        """New arrays for the results."""
        return [empty(shape, dtype) for shape, dtype in zip(sizes.results, self._dtypes, strict=True)]

    def targets(self, given: Sequence[Any], sizes: Sizes) -> list[np.ndarray]:
        """The arrays a caller wants results in: number, dtype, shape and writability checked."""
        if len(given) != len(self.outputs):
            raise GraphError(f"out: there must be {len(self.outputs)} arrays, got {len(given)}")
        arrays = []
        for port, value, shape in zip(self.outputs, given, sizes.results, strict=True):
            if isinstance(value, (bool, int, float, list, tuple, np.generic)):
                raise GraphError(f"out for {port.name}: it must be an array, got {type(value).__name__}")
            array = as_numpy(f"out for {port.name}", value, port.dtype)
            if array.shape != shape:
                raise GraphError(f"out for {port.name}: shape must be {shape}, got {array.shape}")
            if not array.flags.writeable:
                raise GraphError(f"out for {port.name}: the array must be writable, got a read-only one")
            arrays.append(array)
        return arrays


def solve_symbols(ports: Sequence[Port], shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
    """The value of every symbol, from the inputs' shapes; rank, fixed extents and contradictions are checked."""
    values: dict[str, int] = {}
    origin: dict[str, str] = {}
    later: list[tuple[Port, int, Affine, int]] = []
    for port, shape in zip(ports, shapes, strict=True):
        if len(shape) != len(port.shape):
            raise GraphError(
                f"{port.name}: rank must be {len(port.shape)} (shape {show_shape(port.shape)}), got {len(shape)} "
                f"(shape {shape})"
            )
        for axis, (want, got) in enumerate(zip(port.shape, shape, strict=True)):
            if isinstance(want, int):
                if got != want:
                    raise GraphError(
                        f"{port.name}: dimension {axis} must be {want}, got {got} (shape {shape} for "
                        f"{show_shape(port.shape)})"
                    )
                continue
            unknown = [(s, c) for s, c in want.terms if s not in values]
            if len(unknown) == 1 and len(want.terms) == 1:
                symbol, factor = unknown[0]
                value, rest = divmod(got - want.constant, factor)
                if rest or value < 0:
                    raise GraphError(f"{port.name}: dimension {axis} must be of the form {want}, got {got}")
                values[symbol], origin[symbol] = value, f"dimension {axis} of {port.name}"
            else:
                later.append((port, axis, want, got))
    for port, axis, want, got in later:
        missing = [s for s, _ in want.terms if s not in values]
        if missing:
            raise GraphError(f"{port.name}: dimension {axis} is {want}, but no input fixes {', '.join(missing)}")
        if want.at(values) != got:
            known = ", ".join(f"{s} = {values[s]} from {origin[s]}" for s, _ in want.terms)
            raise GraphError(f"{port.name}: dimension {axis} must be {want} = {want.at(values)} ({known}), got {got}")
    return values
