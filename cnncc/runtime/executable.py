"""A compiled model that runs."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.runtime import native
from cnncc.runtime.arena import address, aligned, allocate, empty, usable
from cnncc.runtime.arrays import as_numpy, by_name, check_out, is_torch, solve_symbols, to_torch
from cnncc.runtime.calltable import CallTable
from cnncc.runtime.machine import check_object
from cnncc.runtime.program import Affine, Dim, Port, Program, dim_at, shape_at
from cnncc.runtime.state import State
from cnncc.runtime.threads import Dispatcher

_SIZES_KEPT = 16  # call tables kept, one per size of the symbols (some kilobytes each)


@dataclass(frozen=True)
class Argument:
    """An input or output as a caller sees it. An extent is an integer, or text: a symbol or a formula of symbols."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class CallTime:
    """One kernel call of a profile: where it came from, which kernel, and its least and median time in seconds."""

    node: str
    kernel: str
    least: float
    median: float


class Executable:
    """A compiled model, ready to run; `cnncc.compile` and `cnncc.load` make it.

    One executable may be called from any number of Python threads: runs take turns, and all together use
    `program.threads` threads. The GIL is released during a run. Arrays given in are used in place where they are
    row-major and start at a multiple of 64 bytes, else copied; results are fresh arrays that belong to the caller.
    """

    def __init__(self, program: Program, state: State | None = None) -> None:
        """`state`: what another executable's runs update, to be shared with it; left out, a copy of the first values.

        Raises GraphError where the program is inconsistent, RuntimeFault where its code does not load.
        """
        self.program = program.check()
        own = {b.name: b for b in program.buffers if b.kind == "state" and b.base is None}
        self.state = State({n: program.constants[n] for n in own}) if state is None else state
        for name, b in own.items():
            array = self.state.arrays.get(name)
            if array is None or array.dtype.name != b.dtype or array.shape != b.shape:
                raise GraphError(f"{name}: shared state must have it as {b.dtype}{b.shape}")
        self._constants = {n: aligned(a) for n, a in program.constants.items() if n not in own}
        for symbol, data in program.kernels.items():
            check_object(symbol, data)
        module = native.link(program.kernels.values())
        self._functions = {name: module.get_function(name) for name in program.kernels}
        self._tables: OrderedDict[tuple[int, ...], CallTable] = OrderedDict()
        self._arena = allocate(0)
        self._staging: dict[int, np.ndarray] = {}
        self._dispatcher: Dispatcher | None = None
        self._renew()
        _living.add(self)

    def _renew(self) -> None:
        """Starts with a thread of our own that no run has used, now and in a forked child."""
        if self.program.threads > 1:
            self._dispatcher = Dispatcher(self.program.threads)
            weakref.finalize(self, Dispatcher.stop, self._dispatcher)

    def _end(self, wait: float) -> None:
        if self._dispatcher is not None:
            self._dispatcher.stop(wait)

    @property
    def inputs(self) -> tuple[Argument, ...]:
        """Name, shape and dtype of each input, in order."""
        return tuple(map(_argument, self.program.inputs))

    @property
    def outputs(self) -> tuple[Argument, ...]:
        """Name, shape and dtype of each output, in order."""
        return tuple(map(_argument, self.program.outputs))

    @property
    def memory(self) -> dict[str, Dim]:
        """Bytes that a run holds at its peak, by use; formulas where the batch is symbolic."""
        p = self.program
        return {
            "constants": sum(a.nbytes for a in self._constants.values()),
            "state": self.state.nbytes,
            "arena": p.arena,
            "inputs": _nbytes(p.inputs),
            "outputs": _nbytes(p.outputs),
        }

    @property
    def peak_memory(self) -> Dim:
        """The sum of `memory`: an integer, or an `Affine` of the symbols (`.at({"N": 8})`, prints as a formula)."""
        total: Dim = 0
        for part in self.memory.values():
            total = total + part
        return total

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Runs the model on arrays by input name; gives the results by output name.

        Raises GraphError naming the input, the rule and the numbers where an array does not fit.
        """
        results = self._run(by_name(self.program.inputs, feeds), None)
        return {port.name: array for port, array in zip(self.program.outputs, results, strict=True)}

    def __call__(self, *arrays: Any, out: Any = None) -> Any:
        """Runs the model on arrays in input order; gives one array, or a tuple of them where there are several outputs.

        torch tensors in give torch tensors out. `out`: an array, or a tuple of them, that takes the results.
        """
        if len(arrays) != len(self.program.inputs):
            raise GraphError(f"inputs: there must be {len(self.program.inputs)}, got {len(arrays)}")
        single = len(self.program.outputs) == 1
        if out is None:
            results = self._run(arrays, None)
            made: list[Any] = [to_torch(r) for r in results] if any(map(is_torch, arrays)) else list(results)
            return made[0] if single else tuple(made)
        outs = (out,) if single and not isinstance(out, (tuple, list)) else tuple(out)
        if len(outs) != len(self.program.outputs):
            raise GraphError(f"out: there must be {len(self.program.outputs)} arrays, got {len(outs)}")
        self._run(arrays, outs)
        return out

    def profile(self, feeds: Mapping[str, Any], repeat: int = 10) -> tuple[CallTime, ...]:
        """The time of every kernel call, over some runs after a first one; state is left as it was."""
        arrays, values = self._take(by_name(self.program.inputs, feeds))
        times = np.zeros((repeat + 1, len(self.program.calls)))

        def steps(table: CallTable) -> None:
            for row in times:
                for i in range(len(row)):
                    begin = time.perf_counter()
                    table.step(i)
                    row[i] = time.perf_counter() - begin

        before = dict(self.state)
        try:
            self._execute(arrays, values, [empty(s, p.dtype) for s, p in self._results(values)], steps)
        finally:
            self.state.update(before)
        least, median = times[1:].min(0), np.median(times[1:], 0)
        return tuple(
            CallTime(c.node, c.kernel, float(least[i]), float(median[i])) for i, c in enumerate(self.program.calls)
        )

    def save(self, path: str | Path) -> None:
        """Writes the model, with the present state, as one file that `cnncc.load` runs without a compiler."""
        from cnncc.runtime.artifact import save

        save(self, Path(path))

    def _take(self, values: Sequence[Any]) -> tuple[list[np.ndarray], dict[str, int]]:
        ports = self.program.inputs
        arrays = [as_numpy(p.name, v, p.dtype) for p, v in zip(ports, values, strict=True)]
        return arrays, solve_symbols(ports, arrays)

    def _results(self, values: Mapping[str, int]) -> list[tuple[tuple[int, ...], Port]]:
        return [(shape_at(p.shape, values), p) for p in self.program.outputs]

    def _run(self, given: Sequence[Any], outs: Sequence[Any] | None) -> list[np.ndarray]:
        arrays, values = self._take(given)
        results = [empty(shape, port.dtype) for shape, port in self._results(values)] if outs is None else []
        wanted = []
        if outs is not None:
            wanted = [check_out(p, o, values) for p, o in zip(self.program.outputs, outs, strict=True)]
            # An array that kernels may not write into, or that is read while it is written, takes a copy at the end.
            busy = [*arrays, *wanted]
            for i, array in enumerate(wanted):
                direct = usable(array) and not any(
                    j != i + len(arrays) and np.may_share_memory(array, other) for j, other in enumerate(busy)
                )
                results.append(array if direct else empty(array.shape, array.dtype))
        if any(v == 0 for v in values.values()):
            self._check_empty(results, values)
        else:
            self._execute(arrays, values, results, CallTable.run)
        for array, result in zip(wanted, results, strict=False):
            if array is not result:
                array[...] = result
        return results

    def _check_empty(self, results: Sequence[np.ndarray], values: Mapping[str, int]) -> None:
        """A size of zero gives empty results without a run, where that is all there is to it."""
        if self.state or any(r.size for r in results):
            zero = ", ".join(s for s, v in values.items() if v == 0)
            raise GraphError(f"{zero}: a size must be at least 1 where results do not become empty with it, got 0")

    def _execute(
        self,
        arrays: Sequence[np.ndarray],
        values: Mapping[str, int],
        results: Sequence[np.ndarray],
        action: Callable[[CallTable], None],
    ) -> None:
        with self.state.lock:
            table = self._table(values)
            for port, array in zip(self.program.inputs, arrays, strict=True):
                table.bind(port.buffer, address(self._staged(port.buffer, array)))
            late = []
            direct: set[int] = set()
            for port, result in zip(self.program.outputs, results, strict=True):
                kind, root = self.program.buffers[port.buffer].kind, self.program.root(port.buffer)
                if kind == "output" and root == port.buffer and root not in direct:
                    direct.add(root)
                    table.bind(root, address(result))
                else:
                    late.append((port, result))
            if self._dispatcher is None:
                action(table)
            else:
                self._dispatcher.call(lambda: action(table))
            for port, result in late:
                table.read(port.buffer, result)

    def _staged(self, index: int, array: np.ndarray) -> np.ndarray:
        if usable(array):
            return array
        copy = self._staging.get(index)
        if copy is None or copy.shape != array.shape:
            copy = self._staging[index] = empty(array.shape, array.dtype)
        copy[...] = array
        return copy

    def _table(self, values: Mapping[str, int]) -> CallTable:
        """The call table for these sizes, with everything bound but inputs and outputs. Needs the lock."""
        key = tuple(values[s] for s in self.program.symbols)
        table = self._tables.get(key)
        if table is not None:
            self._tables.move_to_end(key)
            return table
        size = dim_at(self.program.arena, values)
        if size > len(self._arena):
            self._tables.clear()  # their addresses are the old arena's
            self._arena = allocate(size)
        table = CallTable(self.program, self._functions, values)
        for i, b in enumerate(self.program.buffers):
            if b.base is not None:
                continue
            if b.kind == "constant":
                table.bind(i, address(self._constants[b.name]))
            elif b.kind == "state":
                table.bind(i, address(self.state.arrays[b.name]))
            elif b.kind == "arena":
                table.bind(i, address(self._arena) + dim_at(b.offset, values))
        self._tables[key] = table
        if len(self._tables) > _SIZES_KEPT:
            self._tables.popitem(last=False)
        return table


def _argument(port: Port) -> Argument:
    return Argument(port.name, tuple(d if isinstance(d, int) else str(d) for d in port.shape), port.dtype)


def _whole(size: Dim) -> int:
    assert isinstance(size, int), "Program.check allows one symbolic extent a shape"
    return size


def _stop_all() -> None:
    for executable in list(_living):
        executable._end(wait=1.0)


def _after_fork() -> None:
    # The child has none of the parent's threads, and a lock may be held by one of them for ever.
    native.after_fork()
    for executable in list(_living):
        executable.state.lock = threading.Lock()
        executable._renew()


_living: weakref.WeakSet[Executable] = weakref.WeakSet()
atexit.register(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _nbytes(ports: Sequence[Port]) -> Dim:
    total: Dim = 0
    for port in ports:
        size: Dim = np.dtype(port.dtype).itemsize
        for d in port.shape:
            size = size * d if isinstance(size, Affine) and isinstance(d, int) else d * _whole(size)
        total = total + size
    return total
